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
			setOpt(t, dst, sockopt{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4 << 20})
			c := dialFrom(t, 5, relayAddr(r, 1))
			setOpt(t, c, sockopt{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4 << 20})
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
		oob = make([]byte, unix.CmsgSpace(2))
		oob[0] = byte(unix.CmsgLen(2))
		binary.NativeEndian.PutUint32(oob[8:], unix.IPPROTO_UDP)
		binary.NativeEndian.PutUint32(oob[12:], unix.UDP_SEGMENT)
		binary.NativeEndian.PutUint16(oob[16:], uint16(size))
	}
	if c.RemoteAddr() != nil {
		to = netip.AddrPort{}
	}
	if _, _, err := c.WriteMsgUDPAddrPort(b, oob, to); err != nil {
		t.Fatal(err)
	}
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
	if s := r.Stats(); s.Active[udp] > 4 {
		t.Errorf("got %d flows active; want 4 at most", s.Active[udp])
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
	waitFor(t, "the refusal to be counted", func() bool { return r.Stats().OverLimit[udp] > 0 })
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
	if got := r.Stats().Active[udp]; got != 3 {
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
	u := r.udps[0]
	u.end(u.table.clear())
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

// Datagrams may arrive at another worker than the one that a flow began with.
func TestUDPAnyWorker(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	r := runUDP(t, Config{})
	dst := listenBeside(t, r, 1)
	u := r.udps[0]
	c := dialFrom(t, 5, relayAddr(r, 1))
	from := confirm(t, c, dst)
	key := flowKey{client: c.LocalAddr().(*net.UDPAddr).AddrPort(), local: relayAddr(r, 1)}
	f := u.table.outbound(key, 0, u.now())
	for _, w := range u.workers {
		if w == f.worker { // its slots are in use
			continue
		}
		stray, err := newUDPWorker(u)
		if err != nil {
			t.Fatal(err)
		}
		m := message{payload: []byte("stray"), size: 5, from: key.client, to: key.local.Addr()}
		if got := stray.flowOf(&m, u.now()); got != f {
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

// TestUDPAllocs sends a flow's datagrams through a worker that nothing else runs in.
func TestUDPAllocs(t *testing.T) {
	r := newTestRelay(t, Config{})
	dst := listenBeside(t, r, 1)
	u := r.udps[0]
	for _, w := range u.workers[1:] { // leaves all to the first
		w.close()
	}
	u.workers = u.workers[:1]
	w := u.workers[0]
	c := dialFrom(t, 5, relayAddr(r, 1))
	b, buf := randomBytes(1200), make([]byte, 2048)
	oneWay := func(from *net.UDPConn, to netip.AddrPort, at *net.UDPConn) (src netip.AddrPort) {
		var err error
		if to.IsValid() {
			_, err = from.WriteToUDPAddrPort(b, to)
		} else {
			_, err = from.Write(b)
		}
		if err == nil {
			err = w.step()
		}
		if err == nil {
			_, src, err = at.ReadFromUDPAddrPort(buf)
		}
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	from := oneWay(c, netip.AddrPort{}, dst)
	if n := testing.AllocsPerRun(100, func() {
		oneWay(dst, from, c)
		oneWay(c, netip.AddrPort{}, dst)
	}); n != 0 {
		t.Errorf("got %v allocations per datagram and reply; want 0", n)
	}
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
	if s := r.Stats(); s.Flows[udp] != 1 || s.Unconfirmed != 0 {
		t.Errorf("got %d flows and %d datagrams dropped; want one flow and nothing dropped", s.Flows[udp], s.Unconfirmed)
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
