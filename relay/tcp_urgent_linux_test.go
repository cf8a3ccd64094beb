package relay

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Flags of a TCP segment. See RFC 9293, Section 3.1.
const (
	flagFIN = 0x01
	flagPSH = 0x08
	flagACK = 0x10
	flagURG = 0x20
)

// The queues of a socket in repair, as linux/tcp.h numbers them.
const (
	tcpReceiveQueue = 1
	tcpSendQueue    = 2
)

// TestTCPUrgentBeyondData has peers send segments whose urgent pointer lies beyond their data, of either family, as
// client and as server. Such a flow waits like one that has nothing to say: it takes no processor time, goes on with
// what comes next, and ends by its age.
func TestTCPUrgentBeyondData(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	limits := Limits{TCPIdle: 2 * time.Second, DrainTimeout: 1}
	b := newLimitedBed(t, limits)
	for _, family := range []struct{ name, client, relay, destination string }{
		{"4", "198.51.100.1", relay4to4, "198.51.100.2"},
		{"6", "2001:db8:1::1", relay6to6, "2001:db8:1::2"},
	} {
		ln := b.listenTCP(t, family.destination)
		for _, end := range ends {
			flow := func(t *testing.T) (near, far *net.TCPConn, namespace int) {
				t.Helper()
				client, server := b.flowTo(t, ln, family.client, family.relay)
				if near, far = end.of(client, server); near == server {
					namespace = b.destination
				}
				return near, far, namespace
			}
			t.Run(family.name+"/"+end.name+"/ages", func(t *testing.T) {
				var fars []*net.TCPConn
				for range 20 {
					near, far, ns := flow(t)
					inject(t, ns, near, flagACK|flagPSH|flagURG, 2, "x")
					wantBytes(t, far, "x")
					fars = append(fars, far)
				}
				spent := processorTime(t)
				for _, far := range fars {
					wantReset(t, far)
				}
				if spent = processorTime(t) - spent; spent > time.Second {
					t.Errorf("got %v of processor time for 20 flows that wait; want next to none", spent)
				}
			})
			t.Run(family.name+"/"+end.name+"/goes-on", func(t *testing.T) {
				near, far, ns := flow(t)
				inline(t, far)
				seq := inject(t, ns, near, flagACK|flagPSH|flagURG, 3, "ab")
				wantBytes(t, far, "ab")
				injectAt(t, ns, near, seq+2, flagACK|flagPSH, 0, "cd")
				wantBytes(t, far, "cd")
			})
			t.Run(family.name+"/"+end.name+"/ends", func(t *testing.T) {
				near, far, ns := flow(t)
				seq := inject(t, ns, near, flagACK|flagPSH|flagURG, 2, "x")
				wantBytes(t, far, "x")
				injectAt(t, ns, near, seq+1, flagACK|flagFIN, 0, "")
				wantEOF(t, far)
				write(t, far, "still here")
			})
		}
		ln.Close()
	}
}

// flowTo returns both ends of a flow from client through relay to where ln listens.
func (b *bed) flowTo(t *testing.T, ln *net.TCPListener, client, relay string) (near, far *net.TCPConn) {
	t.Helper()
	near, err := dialTCPFrom(client, relay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	far, err = ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	far.SetDeadline(time.Now().Add(deadline))
	return near, far
}

// processorTime returns how long this process has kept processors busy.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// inject sends a segment of c's connection past its socket, from the namespace of a process, or from this one if pid is
// 0, and returns its sequence number.
func inject(t *testing.T, pid int, c *net.TCPConn, flags byte, urgent uint16, data string) (seq uint32) {
	t.Helper()
	seq, _ = sequence(t, c)
	injectAt(t, pid, c, seq, flags, urgent, data)
	return seq
}

func injectAt(t *testing.T, pid int, c *net.TCPConn, seq uint32, flags byte, urgent uint16, data string) {
	t.Helper()
	_, ack := sequence(t, c)
	src, dst := unmapped(c.LocalAddr()), unmapped(c.RemoteAddr())
	segment := tcpSegment(src, dst, seq, ack, flags, urgent, data)
	errc := make(chan error)
	go func() {
		if pid != 0 {
			lockNamespace(pid) // this thread ends with the goroutine
		}
		errc <- sendRaw(src.Addr(), dst.Addr(), segment)
	}()
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
}

func unmapped(a net.Addr) netip.AddrPort {
	ap := addrPort(a)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// sequence returns the numbers of the next octet that c sends and of the next that it expects.
func sequence(t *testing.T, c *net.TCPConn) (seq, ack uint32) {
	t.Helper()
	onSocket(t, c, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON); err != nil {
			return err
		}
		for _, q := range []struct {
			queue int
			next  *uint32
		}{{tcpSendQueue, &seq}, {tcpReceiveQueue, &ack}} {
			if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, q.queue); err != nil {
				return err
			}
			next, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
			if err != nil {
				return err
			}
			*q.next = uint32(next)
		}
		return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP)
	})
	return seq, ack
}

// tcpSegment returns a segment with its checksum.
func tcpSegment(src, dst netip.AddrPort, seq, ack uint32, flags byte, urgent uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, 5<<4, flags, 0x20, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, urgent)
	b = append(b, data...)
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_TCP)
	var sum uint32
	for _, part := range [][]byte{pseudo, b} {
		for i, octet := range part {
			sum += uint32(octet) << (8 * (1 - i&1))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[16:], ^uint16(sum))
	return b
}

func sendRaw(src, dst netip.Addr, segment []byte) error {
	family := unix.AF_INET
	if dst.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(src, 0))); err != nil {
		return err
	}
	return unix.Sendto(fd, segment, 0, sockaddr(netip.AddrPortFrom(dst, 0)))
}
