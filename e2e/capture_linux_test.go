package e2e

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// packet is who sent what to whom, as far as the checks care.
type packet struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16 // 0 unless TCP or UDP
}

func (p packet) is(addr string) bool {
	a := netip.MustParseAddr(addr)
	return p.src == a || p.dst == a
}

func (p packet) within(prefix string) bool {
	n := netip.MustParsePrefix(prefix)
	return n.Contains(p.src) || n.Contains(p.dst)
}

func (p packet) port(n uint16) bool { return p.srcPort == n || p.dstPort == n }

func ofCustomer(p packet) bool { return p.is(customer4) || p.is(customer6) }
func ofRelay(p packet) bool    { return p.within(egress4) || p.within(egress6) }

// parsePacket reads an Ethernet frame; ok is false if it is not IP.
func parsePacket(frame []byte) (p packet, ok bool) {
	const ethernet = 14
	if len(frame) < ethernet+40 {
		frame = append(frame[:len(frame):len(frame)], make([]byte, ethernet+40)...)
	}
	ip := frame[ethernet:]
	var proto byte
	var payload []byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		p.src, p.dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		proto, payload = ip[9], ip[min(len(ip), int(ip[0]&0x0f)*4):]
	case unix.ETH_P_IPV6:
		p.src, p.dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		proto, payload = ip[6], ip[40:]
	default:
		return p, false
	}
	if (proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP) && len(payload) >= 4 {
		p.srcPort, p.dstPort = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
	}
	return p, true
}

// capture records the internet's side of the link to the provider.
type capture interface {
	// count ends the recording and returns how many packets match.
	count(match func(packet) bool) int
}

// startCapture records with tcpdump. In a user namespace tcpdump cannot become the user that it wants to be; there
// the test listens itself.
func (l *lab) startCapture() capture {
	l.t.Helper()
	if oneUser() {
		return l.startListener()
	}
	need(l.t, "tcpdump")
	c := &tcpdump{l: l, file: filepath.Join(l.dir, "core.pcap")}
	c.proc = l.internet.start("tcpdump", "-Z", "root", "-n", "-U", "--immediate-mode", "-i", "core", "-w", c.file)
	poll(l.t, 10*time.Second, "tcpdump", func() error {
		if !strings.Contains(c.proc.output.String(), "listening on") {
			return errors.New("not listening yet")
		}
		return nil
	})
	return c
}

// tcpdump is a capture by the program of that name.
type tcpdump struct {
	l    *lab
	proc *process
	file string
}

func (c *tcpdump) count(match func(packet) bool) (n int) {
	t := c.l.t
	t.Helper()
	select {
	case <-c.proc.done:
	default:
		c.proc.signal(syscall.SIGINT)
		c.proc.wait(10 * time.Second)
	}
	file, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	// A file header of 24 octets, then records with a header of 16: seconds, microseconds, captured and real length.
	const fileHeader, recordHeader = 24, 16
	for rest := file[min(fileHeader, len(file)):]; len(rest) >= recordHeader; {
		size := int(binary.NativeEndian.Uint32(rest[8:]))
		if rest = rest[recordHeader:]; len(rest) < size {
			t.Fatalf("%s ends within a packet", c.file)
		}
		if p, ok := parsePacket(rest[:size]); ok && match(p) {
			n++
		}
		rest = rest[size:]
	}
	return n
}

// listener is a capture by a packet socket of ours.
type listener struct {
	mu      sync.Mutex
	packets []packet
}

func (l *lab) startListener() *listener {
	l.t.Helper()
	c := &listener{}
	l.internet.tap("", c.add)
	return c
}

func (c *listener) add(frame []byte) {
	if p, ok := parsePacket(frame); ok {
		c.mu.Lock()
		c.packets = append(c.packets, p)
		c.mu.Unlock()
	}
}

// tap calls each with every frame that a link of ns carries, or all its links do if dev is "", until t ends.
func (ns namespace) tap(dev string, each func(frame []byte)) {
	ns.t.Helper()
	var fd int
	err := ns.do(func() (err error) {
		all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL})
		addr := &unix.SockaddrLinklayer{Protocol: all}
		if dev != "" {
			link, err := net.InterfaceByName(dev)
			if err != nil {
				return err
			}
			addr.Ifindex = link.Index
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, addr)
	})
	if err != nil {
		ns.t.Fatalf("packet socket: %v", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		ns.t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		receive(fd, stop, each)
	}()
	ns.t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
}

// receive calls each with every frame until stop is closed.
func receive(fd int, stop <-chan struct{}, each func(frame []byte)) {
	buf := make([]byte, 65536)
	for {
		select {
		case <-stop:
			return
		default:
		}
		if n, _, err := unix.Recvfrom(fd, buf, 0); err == nil { // else it is the time-out
			each(buf[:n])
		}
	}
}

func (c *listener) count(match func(packet) bool) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.packets {
		if match(p) {
			n++
		}
	}
	return n
}

func TestParsePacket(t *testing.T) {
	v4 := make([]byte, 14+20+8)
	binary.BigEndian.PutUint16(v4[12:], unix.ETH_P_IP)
	v4[14], v4[23] = 0x45, unix.IPPROTO_UDP
	copy(v4[26:], []byte{10, 0, 0, 2})
	copy(v4[30:], []byte{198, 51, 100, 2})
	binary.BigEndian.PutUint16(v4[34:], 4000)
	binary.BigEndian.PutUint16(v4[36:], 443)
	p, ok := parsePacket(v4)
	want := packet{netip.MustParseAddr(customer4), netip.MustParseAddr(origin4), 4000, 443}
	if !ok || p != want {
		t.Errorf("got %v, %t; want %v", p, ok, want)
	}
	if _, ok := parsePacket([]byte{14: 0}); ok {
		t.Error("a frame that is not IP was taken for one")
	}
}
