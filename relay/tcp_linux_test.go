package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// deadline bounds every wait of a test on a socket.
const deadline = 20 * time.Second

// testbed is a running relay and an origin at 127.0.0.1, which 127.80.0.1 stands for. Both have the same port.
type testbed struct {
	*Relay
	origin *net.TCPListener
	stop   context.CancelFunc
	ran    chan error // gets what Run returned
}

func newTestbed(t testing.TB, limits Limits) *testbed {
	t.Helper()
	return startTestbed(t, limits, func(*Relay) {})
}

// startTestbed is newTestbed with a change to the relay before it runs.
func startTestbed(t testing.TB, limits Limits, change func(*Relay)) *testbed {
	t.Helper()
	cfg := Config{Ports: []uint16{netns.Port(t)}, Limits: limits, Settings: testSettings()}
	b := &testbed{Relay: newTestRelay(t, cfg), ran: make(chan error, 1)}
	b.origin = listenShared(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), cfg.Ports[0]))
	change(b.Relay)
	ctx, stop := context.WithCancel(t.Context())
	b.stop = stop
	go func() { b.ran <- b.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-b.ran; err != nil {
			t.Errorf("got error %v from Run; want nil", err)
		}
		if held := b.addrs.(*fakeMap).held.Load(); held != 0 {
			t.Errorf("got %d mappings held at the end; want 0", held)
		}
	})
	return b
}

// listenShared listens on an address whose port the relay has at the wildcard address.
func listenShared(t testing.TB, addr netip.AddrPort) *net.TCPListener {
	t.Helper()
	lc := net.ListenConfig{Control: control(func(fd int, _ bool) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})}
	ln, err := lc.Listen(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

func (b *testbed) port() uint16 { return b.cfg.Ports[0] }

// dial connects to a relay address.
func (b *testbed) dial(t testing.TB, relay string) *net.TCPConn {
	t.Helper()
	c, err := b.tryDial(relay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (b *testbed) tryDial(relay string) (*net.TCPConn, error) {
	var d net.Dialer
	c, err := d.DialTCP(context.Background(), "tcp", netip.AddrPort{},
		netip.AddrPortFrom(netip.MustParseAddr(relay), b.port()))
	if err == nil {
		c.SetDeadline(time.Now().Add(deadline))
	}
	return c, err
}

// accept returns the origin's side of the next flow.
func (b *testbed) accept(t testing.TB) *net.TCPConn {
	t.Helper()
	b.origin.SetDeadline(time.Now().Add(deadline))
	c, err := b.origin.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(deadline))
	return c
}

// flow returns both ends of a flow.
func (b *testbed) flow(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	return b.dial(t, "127.80.0.1"), b.accept(t)
}

func (b *testbed) waitActive(t testing.TB, want int) {
	t.Helper()
	waitFor(t, "active flows", func() bool { return b.Stats().Active[TCP] == want })
}

// waitFor polls for cond.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for !cond() {
		pause(ctx, time.Millisecond)
		if ctx.Err() != nil {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

func write(t testing.TB, c *net.TCPConn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func wantBytes(t testing.TB, c *net.TCPConn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

func wantEOF(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("got %d bytes, %v; want EOF", n, err)
	}
}

func wantReset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %d bytes, error %v; want a reset", n, err)
	}
}

// wantRefused expects a connection to be reset, while or after it is made.
func (b *testbed) wantRefused(t testing.TB, relay string) {
	t.Helper()
	c, err := b.tryDial(relay)
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got error %v; want a reset", err)
	}
}

// ends names the two ends of a flow, so that one test body covers both directions.
var ends = []struct {
	name string
	of   func(client, server *net.TCPConn) (near, far *net.TCPConn)
}{
	{"client", func(client, server *net.TCPConn) (_, _ *net.TCPConn) { return client, server }},
	{"server", func(client, server *net.TCPConn) (_, _ *net.TCPConn) { return server, client }},
}

func TestTCPEcho(t *testing.T) {
	b := newTestbed(t, Limits{})
	client, server := b.flow(t)
	for range 100 {
		write(t, client, "question")
		wantBytes(t, server, "question")
		write(t, server, "answer")
		wantBytes(t, client, "answer")
	}
	if got := addrPort(server.RemoteAddr()).Addr(); !egressPrefix.Contains(got) {
		t.Errorf("got source %v; want one of %v", got, egressPrefix)
	}
	client.Close()
	wantEOF(t, server)
	server.Close()
	b.waitActive(t, 0)
	if s := b.Stats(); s.BytesOut[TCP] != 800 || s.BytesBack[TCP] != 600 {
		t.Errorf("got %d bytes out, %d back; want 800, 600", s.BytesOut[TCP], s.BytesBack[TCP])
	}
}

// TestTCPExact sends random bytes in both directions at once, in writes of all sizes, to readers that are now fast
// and now slow.
func TestTCPExact(t *testing.T) {
	const size = 32 << 20
	b := newTestbed(t, Limits{})
	client, server := b.flow(t)
	var wg sync.WaitGroup
	for i, end := range ends {
		near, far := end.of(client, server)
		sent, received := sha256.New(), sha256.New()
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			src := rand.NewChaCha8([32]byte{byte(i)})
			for left := size; left > 0; {
				buf := make([]byte, min(left, 1+rnd.IntN(1<<uint(rnd.IntN(19)))))
				src.Read(buf)
				sent.Write(buf)
				if _, err := near.Write(buf); err != nil {
					t.Errorf("%s: write: %v", end.name, err)
					return
				}
				left -= len(buf)
			}
			near.CloseWrite()
		})
		wg.Go(func() {
			if n, err := io.CopyBuffer(received, struct{ io.Reader }{far}, make([]byte, 9999)); n != size || err != nil {
				t.Errorf("%s: got %d bytes, %v; want %d", end.name, n, err, size)
			}
		})
		defer func() {
			if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
				t.Errorf("%s: bytes differ", end.name)
			}
		}()
	}
	wg.Wait()
}

// TestTCPHalfClose ends one direction and goes on in the other.
func TestTCPHalfClose(t *testing.T) {
	for _, end := range ends {
		t.Run(end.name, func(t *testing.T) {
			b := newTestbed(t, Limits{})
			near, far := end.of(b.flow(t))
			write(t, near, "last words")
			near.CloseWrite()
			wantBytes(t, far, "last words")
			wantEOF(t, far)
			for range 3 {
				write(t, far, "still here")
				wantBytes(t, near, "still here")
			}
			far.Close()
			wantEOF(t, near)
			b.waitActive(t, 0)
		})
	}
}

// TestTCPReset resets one end at various moments.
func TestTCPReset(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, near, far *net.TCPConn)
	}{
		{"idle", func(t *testing.T, near, far *net.TCPConn) {}},
		{"after-bytes", func(t *testing.T, near, far *net.TCPConn) {
			write(t, near, "cut sho")
			wantBytes(t, far, "cut sho")
		}},
		{"after-own-end", func(t *testing.T, near, far *net.TCPConn) {
			near.CloseWrite()
			wantEOF(t, far)
		}},
		{"after-other-end", func(t *testing.T, near, far *net.TCPConn) {
			far.CloseWrite()
			wantEOF(t, near)
		}},
	}
	for _, tt := range tests {
		for _, end := range ends {
			t.Run(tt.name+"/"+end.name, func(t *testing.T) {
				b := newTestbed(t, Limits{})
				near, far := end.of(b.flow(t))
				tt.prepare(t, near, far)
				near.SetLinger(0)
				near.Close()
				waitFor(t, "reset", func() bool { return connError(t, far) })
				b.waitActive(t, 0)
			})
		}
	}
}

// connError reports whether c has been reset. Reading would not tell if c has been told the end before.
func connError(t *testing.T, c *net.TCPConn) (failed bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { failed = socketError(int(fd)) })
	return failed
}

// TestTCPAnswerBeforeReset has a server that answers, and resets because it has not read all of the question: the
// answer must arrive, and then the reset.
func TestTCPAnswerBeforeReset(t *testing.T) {
	b := newTestbed(t, Limits{})
	client, server := b.flow(t)
	write(t, client, "too long a question")
	wantBytes(t, server, "too")
	answer := string(bytes.Repeat([]byte("no "), 1<<14))
	write(t, server, answer)
	server.Close()
	wantBytes(t, client, answer)
	wantReset(t, client)
}

// TestTCPSlowReaderBeforeReset is the same with an answer that fills all buffers on the way.
func TestTCPSlowReaderBeforeReset(t *testing.T) {
	b := newTestbed(t, Limits{})
	client, server := b.flow(t)
	write(t, client, "unread")
	sent := stall(t, server)
	server.Close()
	received, err := io.Copy(io.Discard, client)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got error %v; want a reset", err)
	}
	// What the server had not sent when it reset is lost, as it would be without a relay.
	if received < sent/4 {
		t.Errorf("got %d bytes; want most of %d", received, sent)
	}
}

func TestTCPUrgent(t *testing.T) {
	tests := []struct {
		name          string
		before, after string
		end           bool // the end follows at once
	}{
		{"alone", "", "", false},
		{"after-bytes", "before", "", false},
		{"before-bytes", "", "after", false},
		{"between-bytes", "before", "after", false},
		{"then-end", "before", "", true},
		{"then-bytes-and-end", "before", "after", true},
	}
	for _, tt := range tests {
		for _, end := range ends {
			t.Run(tt.name+"/"+end.name, func(t *testing.T) {
				b := newTestbed(t, Limits{})
				near, far := end.of(b.flow(t))
				inline(t, far)
				write(t, near, tt.before)
				sendUrgent(t, near, '!')
				write(t, near, tt.after)
				if tt.end {
					near.CloseWrite()
				}
				wantBytes(t, far, tt.before)
				waitFor(t, "urgent mark", func() bool { return marked(t, far) })
				wantBytes(t, far, "!"+tt.after)
				if tt.end {
					wantEOF(t, far)
					return
				}
				write(t, near, "go on")
				wantBytes(t, far, "go on")
			})
		}
	}
}

func onSocket(t *testing.T, c *net.TCPConn, f func(fd int) error) {
	t.Helper()
	if err := control(func(fd int, _ bool) error { return f(fd) })("", "", must(c.SyscallConn())); err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func inline(t *testing.T, c *net.TCPConn) {
	t.Helper()
	onSocket(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) })
}

func sendUrgent(t *testing.T, c *net.TCPConn, b byte) {
	t.Helper()
	onSocket(t, c, func(fd int) error { return unix.Send(fd, []byte{b}, unix.MSG_OOB) })
}

func marked(t *testing.T, c *net.TCPConn) (at bool) {
	t.Helper()
	onSocket(t, c, func(fd int) error { at = atMark(fd); return nil })
	return at
}

func TestTCPRefused(t *testing.T) {
	public := testSettings()
	public.AllowSpecial = nil
	strangers := testSettings()
	strangers.Clients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	unreachable := testSettings()
	unreachable.AllowSpecial = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	tests := []struct {
		name, relay string
		settings    Settings
	}{
		{"destination-unreachable", "127.80.1.1", unreachable},
		{"no-egress-of-family", "127.80.1.2", unreachable},
		{"not-mapped", "127.80.9.9", testSettings()},
		{"not-a-relay-address", "127.0.0.9", testSettings()},
		{"egress-address", "127.90.0.1", testSettings()},
		{"special-purpose-destination", "127.80.0.1", public},
		{"not-a-client", "127.80.0.1", strangers},
	}
	b := newTestbed(t, Limits{})
	m := b.addrs.(*fakeMap)
	m.dst[netip.MustParseAddr("127.80.1.1")] = netip.MustParseAddr("192.0.2.1")
	m.dst[netip.MustParseAddr("127.80.1.2")] = netip.MustParseAddr("2001:db8::1")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := b.Update(tt.settings); err != nil {
				t.Fatal(err)
			}
			b.wantRefused(t, tt.relay)
		})
	}
	if s := b.Stats(); s.DialFailed[TCP] != 2 || s.Refused[TCP] != 5 {
		t.Errorf("got %d failed dials, %d refused; want 2, 5", s.DialFailed[TCP], s.Refused[TCP])
	}
}

func TestTCPOverLimit(t *testing.T) {
	tests := []struct {
		name    string
		limits  Limits
		healthy bool
	}{
		{"in-all", Limits{TCPFlows: 2}, false},
		{"per-client", Limits{TCPFlowsPerClient: 2}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newTestbed(t, tt.limits)
			first, _ := b.flow(t)
			b.flow(t)
			if got := b.Healthy(); got != tt.healthy {
				t.Errorf("got healthy %v; want %v", got, tt.healthy)
			}
			b.wantRefused(t, "127.80.0.1")
			if s := b.Stats(); s.OverLimit[TCP] != 1 {
				t.Errorf("got %d over the limit; want 1", s.OverLimit[TCP])
			}
			reset(first)
			b.waitActive(t, 1)
			b.flow(t)
		})
	}
}

func TestTCPDrain(t *testing.T) {
	t.Run("flows-end", func(t *testing.T) {
		b := newTestbed(t, Limits{})
		client, server := b.flow(t)
		b.stop()
		waitFor(t, "refusal", func() bool {
			c, err := b.tryDial("127.80.0.2")
			if err == nil {
				c.Close()
			}
			return err != nil
		})
		if b.Healthy() {
			t.Error("got healthy; want not, while draining")
		}
		write(t, client, "last")
		wantBytes(t, server, "last")
		client.Close()
		wantEOF(t, server)
	})
	t.Run("flows-stay", func(t *testing.T) {
		b := newTestbed(t, Limits{DrainTimeout: time.Millisecond})
		client, server := b.flow(t)
		write(t, client, "under way")
		wantBytes(t, server, "under way")
		b.stop()
		wantReset(t, client)
		wantReset(t, server)
	})
}

func TestTCPIdle(t *testing.T) {
	t.Run("both-open", func(t *testing.T) {
		b := newTestbed(t, Limits{TCPIdle: 50 * time.Millisecond})
		client, server := b.flow(t)
		wantReset(t, client)
		wantReset(t, server)
	})
	t.Run("half-closed", func(t *testing.T) {
		b := newTestbed(t, Limits{TCPHalfClosed: 50 * time.Millisecond})
		client, server := b.flow(t)
		server.CloseWrite()
		wantEOF(t, client)
		wantReset(t, server)
	})
}

// TestTCPStalledReset has a destination that takes no more bytes while the client, which has sent too many for it,
// resets.
func TestTCPStalledReset(t *testing.T) {
	b := newTestbed(t, Limits{TCPIdle: time.Minute, TCPHalfClosed: 160 * time.Millisecond})
	client, server := b.flow(t)
	stall(t, client)
	waitFor(t, "pipe held", func() bool { return b.holding() == 1 })
	reset(client)
	b.waitActive(t, 0)
	if _, err := io.Copy(io.Discard, server); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got error %v; want a reset", err)
	}
}

// stall writes until nothing more is taken, and returns how many bytes were.
func stall(t *testing.T, c *net.TCPConn) (sent int64) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for {
		c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := c.Write(buf)
		sent += int64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return sent
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// holding returns how many pipes are held.
func (b *testbed) holding() (n int32) {
	b.flows.each(func(f *tcpFlow) { n += f.holding.Load() })
	return n
}
