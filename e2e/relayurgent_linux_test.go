package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRelayUrgentBeyondData: a customer announces urgent data that never come, on 20 flows. They take no processor time, so
// that nobody else notices, and end by their age; a last one does not outlive the drain.
func TestRelayUrgentBeyondData(t *testing.T) {
	need(t, "dig")
	const flows = 20
	l := newLab(t)
	ca := l.newAuthority()
	l.blackHole()
	d := l.startCfrd(l.config(ca, settings{relay: "  limits: {tcp_idle: 4s, drain_timeout: 1s}"}))
	ends := l.fillTCP(l.relayAddr("warm2.cdn.example", "A")+":4443", flows+2)
	flow := func(i int) (client, server *net.TCPConn) {
		client, server = ends[2*i].(*net.TCPConn), ends[2*i+1].(*net.TCPConn)
		server.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { client.Close(); server.Close() })
		return client, server
	}
	before := d.processorTime()
	for i := range flows {
		l.announceUrgent(flow(i))
	}
	bystander, server := flow(flows)
	for range 50 {
		io.WriteString(bystander, "question")
		if _, err := io.ReadFull(server, make([]byte, 8)); err != nil {
			t.Fatalf("a bystander's flow: %v", err)
		}
		l.relayAddr("warm2.cdn.example", "A")
	}
	for i := range flows {
		_, server := flow(i)
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("flow %d: got %v; want a reset after its time", i, err)
		}
	}
	if spent := d.processorTime() - before; spent > 2*time.Second {
		t.Errorf("got %v of processor time; want next to none", spent)
	}
	client, server := flow(flows + 1)
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("an idle flow: got %v; want a reset after its time", err)
	}
	client.Close()

	d.drainsUrgent(l)
}

// drainsUrgent stops d while such a flow is open.
func (d *daemon) drainsUrgent(l *lab) {
	l.t.Helper()
	var ln net.Listener
	err := l.internet.do(func() (err error) {
		ln, err = net.Listen("tcp", origin4+":443")
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	defer ln.Close()
	client, err := l.customer.dial("tcp", "", l.relayAddr("warm2.cdn.example", "A")+":443")
	if err != nil {
		l.t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		l.t.Fatal(err)
	}
	defer server.Close()
	server.SetDeadline(time.Now().Add(20 * time.Second))
	l.announceUrgent(client.(*net.TCPConn), server.(*net.TCPConn))
	d.signal(syscall.SIGTERM)
	if err := d.wait(20 * time.Second); err != nil {
		l.t.Errorf("got %v; want it to end", err)
	}
}

// processorTime returns how long d has kept processors busy.
func (d *daemon) processorTime() time.Duration {
	d.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.Atoi(field)
		if err != nil {
			d.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}

// announceUrgent sends a segment of client's connection whose urgent pointer lies one octet beyond its data.
func (l *lab) announceUrgent(client, server *net.TCPConn) {
	l.t.Helper()
	seq, ack, err := sequence(client)
	if err != nil {
		l.t.Fatal(err)
	}
	src, dst := client.LocalAddr().(*net.TCPAddr).AddrPort(), client.RemoteAddr().(*net.TCPAddr).AddrPort()
	if err := l.customer.do(func() error { return sendSegment(src, dst, urgentSegment(src, dst, seq, ack)) }); err != nil {
		l.t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		l.t.Fatalf("its data: %v", err)
	}
}

// sequence returns the numbers of the next octet that c sends and of the next that it expects.
func sequence(c *net.TCPConn) (seq, ack uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	set := func(fd uintptr, option, value int) {
		err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_TCP, option, value))
	}
	next := func(fd uintptr, queue int) uint32 {
		set(fd, unix.TCP_REPAIR_QUEUE, queue)
		n, gerr := unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
		err = errors.Join(err, gerr)
		return uint32(n)
	}
	cerr := raw.Control(func(fd uintptr) {
		set(fd, unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
		ack, seq = next(fd, 1), next(fd, 2) // the queues to receive and to send
		set(fd, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP)
	})
	return seq, ack, errors.Join(cerr, err)
}

// urgentSegment returns a segment over IPv4 with ACK, PSH and URG, one octet of data and an urgent pointer of 2.
func urgentSegment(src, dst netip.AddrPort, seq, ack uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, 5<<4, 0x38, 0x20, 0, 0, 0, 0, 2, 'x')
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP, 0, byte(len(b)))
	var sum uint32
	for i, octet := range append(pseudo, b...) {
		sum += uint32(octet) << (8 * (1 - i&1))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[16:], ^uint16(sum))
	return b
}

func sendSegment(src, dst netip.AddrPort, segment []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: src.Addr().As4()}); err != nil {
		return err
	}
	return unix.Sendto(fd, segment, 0, &unix.SockaddrInet4{Addr: dst.Addr().As4()})
}
