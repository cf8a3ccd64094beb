package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/sys/unix"
)

// modes are the ways in which datagrams can be moved.
var modes = []struct {
	name    string
	disable bool
}{{"gso", false}, {"singly", true}}

// A burst as QUIC stacks send it has to arrive with the same bytes and the same boundaries.
func TestUDPBurst(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			r := runUDP(t, Config{DisableGSO: mode.disable})
			dst := listenBeside(t, r, 1)
			setOpt(t, dst, sockopt{unix.SOL_SOCKET, unix.SO_RCVBUF, 4 << 20})
			c := dialFrom(t, 5, relayAddr(r, 1))
			setOpt(t, c, sockopt{unix.SOL_SOCKET, unix.SO_RCVBUF, 4 << 20})
			from := confirm(t, c, dst)
			burst(t, c, relayAddr(r, 1), dst)
			burst(t, dst, from, c)
		})
	}
}

// burst sends groups with UDP_SEGMENT, and datagrams of various sizes, and checks what arrives.
func burst(t *testing.T, from *net.UDPConn, to netip.AddrPort, dst *net.UDPConn) {
	t.Helper()
	var want [][]byte
	for _, group := range []struct{ size, bytes int }{{1200, 1200 * 40}, {1252, 1252*9 + 17}, {1, 64}, {1400, 1400}, {1452, 1453}} {
		b := randomBytes(group.bytes)
		sendGroup(t, from, to, b, group.size)
		for len(b) > 0 {
			n := min(group.size, len(b))
			want = append(want, b[:n])
			b = b[n:]
		}
	}
	for _, size := range []int{1200, 1200, 1200, 300, 1200, 0, 0, 1200, 1201, 1201, 5} {
		b := randomBytes(size)
		sendGroup(t, from, to, b, 0)
		want = append(want, b)
	}
	for i, w := range want {
		if got, _ := receive(t, dst); !bytes.Equal(got, w) {
			t.Fatalf("datagram %d of %d: got %d bytes; want these %d", i, len(want), len(got), len(w))
		}
	}
}

// sendGroup sends b in datagrams of size bytes, or as one if that is 0.
func sendGroup(t *testing.T, c *net.UDPConn, to netip.AddrPort, b []byte, size int) {
	t.Helper()
	var oob []byte
	if size > 0 {
		oob = segmentOOB(size)
	}
	if c.RemoteAddr() != nil {
		to = netip.AddrPort{}
	}
	if _, _, err := c.WriteMsgUDPAddrPort(b, oob, to); err != nil {
		t.Fatal(err)
	}
}

// segmentOOB returns the control message that sends datagrams of size bytes.
func segmentOOB(size int) []byte {
	var ctl [controlWords]uint64
	n := putControl(&ctl, 0, unix.IPPROTO_UDP, unix.UDP_SEGMENT, uint16(size))
	var b []byte
	for _, w := range ctl {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b[:n]
}

func TestUDPEviction(t *testing.T) {
	r := runUDP(t, Config{Limits: Limits{UDPFlows: 4}})
	dst := listenBeside(t, r, 1)
	settled := dialFrom(t, 5, relayAddr(r, 1))
	from := confirm(t, settled, dst)
	// A flood ten times as large as the budget, and in between the settled flow.
	for range 40 {
		flood := dialFrom(t, 6, relayAddr(r, 1))
		exchange(t, flood, dst, []byte("flood"))
		if got := exchange(t, settled, dst, []byte("go on")); got != from {
			t.Fatalf("the confirmed flow has got the source %v; want %v", got, from)
		}
	}
	if s := r.Stats(); s.Active[UDP] > 4 {
		t.Errorf("got %d flows active; want 4 at most", s.Active[UDP])
	}
}

func TestUDPFullOfConfirmed(t *testing.T) {
	r := runUDP(t, Config{Limits: Limits{UDPFlows: 2}})
	dst := listenBeside(t, r, 1)
	one, two := dialFrom(t, 5, relayAddr(r, 1)), dialFrom(t, 6, relayAddr(r, 1))
	confirm(t, one, dst)
	confirm(t, two, dst)
	late := dialFrom(t, 7, relayAddr(r, 1))
	send(t, late, []byte("too late"))
	waitFor(t, "the refusal to be counted", func() bool { return r.Stats().OverLimit[UDP] > 0 })
	exchange(t, one, dst, []byte("goes on"))
	exchange(t, two, dst, []byte("goes on"))
}

func TestUDPLimitPerClient(t *testing.T) {
	r := runUDP(t, Config{Limits: Limits{UDPFlowsPerClient: 2}})
	dst := listenBeside(t, r, 1)
	other := dialFrom(t, 6, relayAddr(r, 1))
	from := exchange(t, other, dst, []byte("another client"))
	for range 10 {
		exchange(t, dialFrom(t, 5, relayAddr(r, 1)), dst, []byte("one of many"))
	}
	if got := exchange(t, other, dst, []byte("another client")); got != from {
		t.Errorf("the flow of another client has got the source %v; want %v", got, from)
	}
	if got := r.Stats().Active[UDP]; got != 3 {
		t.Errorf("got %d flows; want 3", got)
	}
}

func TestUDPDrain(t *testing.T) {
	r := newTestRelay(t, Config{Limits: Limits{DrainTimeout: time.Hour}})
	dst := listenBeside(t, r, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	c := dialFrom(t, 5, relayAddr(r, 1))
	from := exchange(t, c, dst, []byte("before"))
	cancel()
	waitFor(t, "draining", r.draining.Load)
	send(t, dialFrom(t, 6, relayAddr(r, 1)), []byte("new"))
	if got := exchange(t, c, dst, []byte("meanwhile")); got != from {
		t.Errorf("got source %v while draining; want %v", got, from)
	}
	// The last flow's end is the relay's.
	u := r.udp
	u.end(u.table(relayAddr(r, 1).Port()).clear())
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUDPStopsAtOnceWithoutFlows(t *testing.T) {
	r := newTestRelay(t, Config{Limits: Limits{DrainTimeout: time.Hour}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestUDPExpiry(t *testing.T) {
	r := runUDP(t, Config{Limits: Limits{UDPIdle: 2 * time.Minute}})
	dst := listenBeside(t, r, 1)
	c := dialFrom(t, 5, relayAddr(r, 1))
	confirm(t, c, dst)
	u := r.udp
	u.end(u.table(relayAddr(r, 1).Port()).expire(u.now()+time.Minute, nil))
	if got := r.Stats().Active[UDP]; got != 1 {
		t.Errorf("got %d flows after a minute; want the one", got)
	}
	u.end(u.table(relayAddr(r, 1).Port()).expire(u.now()+2*time.Minute, nil))
	if got := r.Stats().Active[UDP]; got != 0 {
		t.Errorf("got %d flows after two minutes; want none", got)
	}
	exchange(t, c, dst, []byte("anew"))
}

func TestUDPReleasesDescriptors(t *testing.T) {
	before := openFiles(t)
	t.Run("relay", func(t *testing.T) {
		r := runUDP(t, Config{})
		dst := listenBeside(t, r, 1)
		for range 20 {
			exchange(t, dialFrom(t, 5, relayAddr(r, 1)), dst, []byte("hello"))
		}
	})
	waitFor(t, "descriptors to be closed", func() bool { return openFiles(t) <= before })
}

// Datagrams may arrive at another worker than the one that a flow began with.
func TestUDPAnyWorker(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	r := runUDP(t, Config{})
	dst := listenBeside(t, r, 1)
	u := r.udp
	c := dialFrom(t, 5, relayAddr(r, 1))
	from := confirm(t, c, dst)
	key := flowKey{client: c.LocalAddr().(*net.UDPAddr).AddrPort(), local: relayAddr(r, 1)}
	f := u.table(key.local.Port()).outbound(key, 0, u.now())
	for _, w := range u.workers {
		if w == f.worker { // its slots are in use
			continue
		}
		stray, err := newUDPWorker(u)
		if err != nil {
			t.Fatal(err)
		}
		m := message{payload: []byte("stray"), size: 5, from: key.client, to: key.local.Addr()}
		if got := stray.flowOf(&m, key.local.Port(), u.now()); got != f {
			t.Fatalf("got flow %p; want %p", got, f)
		}
		stray.out.add(f, &m, m.payload)
		stray.flushOut(f)
		if got, src := receive(t, dst); string(got) != "stray" || src != from {
			t.Errorf("got %q from %v; want it from %v", got, src, from)
		}
		stray.close()
	}
}

// stepper is a relay that runs in the goroutine of the test.
type stepper struct {
	w      *udpWorker
	c, dst *net.UDPConn
	from   netip.AddrPort // where the destination sees the client
	relay  netip.AddrPort
	buf    []byte
	oob    []byte
}

func newStepper(tb testing.TB) *stepper {
	tb.Helper()
	r := newTestRelay(tb, Config{})
	u := r.udp
	for _, w := range u.workers[1:] { // leaves all to the first
		w.close()
	}
	u.workers = u.workers[:1]
	s := &stepper{
		w: u.workers[0], dst: listenBeside(tb, r, 1), c: dialFrom(tb, 5, relayAddr(r, 1)),
		relay: relayAddr(r, 1), buf: make([]byte, 1<<16), oob: make([]byte, 64),
	}
	setOpt(tb, s.c, sockopt{unix.IPPROTO_UDP, unix.UDP_GRO, 1})
	setOpt(tb, s.dst, sockopt{unix.IPPROTO_UDP, unix.UDP_GRO, 1})
	s.from = s.move(tb, s.c, make([]byte, 1200), nil, s.dst)
	s.move(tb, s.dst, []byte("reply"), nil, s.c)
	s.move(tb, s.c, []byte("confirm"), nil, s.dst)
	return s
}

// move sends b, relays it, and receives it.
func (s *stepper) move(tb testing.TB, from *net.UDPConn, b, oob []byte, at *net.UDPConn) netip.AddrPort {
	to := netip.AddrPort{}
	if from == s.dst {
		to = s.from
	}
	if _, _, err := from.WriteMsgUDPAddrPort(b, oob, to); err != nil {
		tb.Fatal(err)
	}
	if err := s.w.step(); err != nil {
		tb.Fatal(err)
	}
	n, _, _, src, err := at.ReadMsgUDPAddrPort(s.buf, s.oob)
	if err != nil || n != len(b) {
		tb.Fatalf("got %d bytes, %v; want %d", n, err, len(b))
	}
	return src
}

func TestUDPAllocs(t *testing.T) {
	s := newStepper(t)
	one, group := randomBytes(1200), randomBytes(16*1200)
	oob := segmentOOB(1200)
	if n := testing.AllocsPerRun(100, func() {
		s.move(t, s.dst, group, oob, s.c)
		s.move(t, s.c, one, nil, s.dst)
		s.move(t, s.dst, one, nil, s.c)
		s.move(t, s.c, group, oob, s.dst)
	}); n != 0 {
		t.Errorf("got %v allocations per datagram and reply; want 0", n)
	}
}

// BenchmarkUDP includes what the two ends cost.
func BenchmarkUDP(b *testing.B) {
	for _, bb := range []struct {
		name        string
		count, size int
	}{{"udp-datagram", 1, 100}, {"udp-burst", 16, 1200}} {
		b.Run(bb.name, func(b *testing.B) {
			s := newStepper(b)
			out, oob := make([]byte, bb.count*bb.size), []byte(nil)
			if bb.count > 1 {
				oob = segmentOOB(bb.size)
			}
			b.SetBytes(int64(len(out)))
			b.ReportAllocs()
			for b.Loop() {
				s.move(b, s.dst, out, oob, s.c)
			}
			b.ReportMetric(float64(b.N*bb.count)/b.Elapsed().Seconds(), "datagrams/s")
		})
	}
	b.Run("udp-new-flow", func(b *testing.B) {
		s := newStepper(b)
		tables := s.w.server.tables[:]
		b.ReportAllocs()
		for b.Loop() {
			c := dialFrom(b, 6, s.relay)
			s.move(b, c, []byte("begin"), nil, s.dst)
			c.Close()
			s.w.server.endFlow(evict(tables))
		}
	})
}

// TestUDPCarriesQUIC moves a file in each direction.
func TestUDPCarriesQUIC(t *testing.T) {
	r := runUDP(t, Config{})
	dst := listenBeside(t, r, 1)
	dst.SetDeadline(time.Time{})
	server, client := testTLS(t)
	ln, err := quic.Listen(dst, server, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const size = 8 << 20
	served := make(chan error, 1)
	go func() { served <- echoQUIC(t.Context(), ln) }()

	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 5)})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := quic.Dial(ctx, pc, net.UDPAddrFromAddrPort(relayAddr(r, 1)), client, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	str, err := conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := randomBytes(size)
	go func() {
		_, _ = str.Write(want)
		str.Close()
	}()
	got, err := io.ReadAll(str)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes back; want the %d that were sent", len(got), len(want))
	}
	if s := r.Stats(); s.Flows[UDP] != 1 || s.Unconfirmed != 0 {
		t.Errorf("got %d flows and %d datagrams dropped; want one flow and nothing dropped", s.Flows[UDP], s.Unconfirmed)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// echoQUIC echoes one stream of one connection.
func echoQUIC(ctx context.Context, ln *quic.Listener) error {
	conn, err := ln.Accept(ctx)
	if err != nil {
		return err
	}
	str, err := conn.AcceptStream(ctx)
	if err != nil {
		return err
	}
	_, err = io.Copy(str, str)
	return errors.Join(err, str.Close())
}

func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"origin.example"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"echo"},
	}
	return server, &tls.Config{RootCAs: roots, ServerName: "origin.example", NextProtos: []string{"echo"}}
}
