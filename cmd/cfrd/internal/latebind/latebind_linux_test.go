package latebind

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/reuseport"
	"github.com/cfrd-project/cfrd/e2e/netns"
)

// TestMain runs the tests in a network namespace of their own, whose addresses they change.
func TestMain(m *testing.M) { netns.Main(m) }

// TestListenBeforeTheAddress listens on an address that comes later, while the relay has the port on all addresses.
func TestListenBeforeTheAddress(t *testing.T) {
	for name, test := range map[string]struct {
		addr, network, wildcard string
		free                    bool
	}{
		"ipv4-free":    {"192.0.2.61", "tcp4", "0.0.0.0", true},
		"ipv6-free":    {"2001:db8::61", "tcp6", "::", true},
		"ipv4-waiting": {"192.0.2.62", "tcp4", "0.0.0.0", false},
		"ipv6-waiting": {"2001:db8::62", "tcp6", "::", false},
	} {
		t.Run(name, func(t *testing.T) {
			addr := netip.AddrPortFrom(netip.MustParseAddr(test.addr), netns.Port(t))
			ln, err := Listen(test.network, addr, test.free, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			lc := net.ListenConfig{Control: reuseport.ShareFirst}
			relay, err := lc.Listen(t.Context(), test.network, netip.AddrPortFrom(netip.MustParseAddr(test.wildcard), addr.Port()).String())
			if err != nil {
				t.Fatal(err)
			}
			defer relay.Close()
			accepted := make(chan error, 1)
			go func() {
				c, err := ln.Accept()
				if err == nil {
					err = c.Close()
				}
				accepted <- err
			}()
			prefix := netip.PrefixFrom(addr.Addr(), addr.Addr().BitLen()).String()
			if out, err := exec.Command("ip", "addr", "add", prefix, "dev", "lo").CombinedOutput(); err != nil {
				t.Fatalf("ip addr add: %v\n%s", err, out)
			}
			wantAccepted(t, addr, accepted)
		})
	}
}

// wantAccepted connects to addr until one of the connections is accepted.
func wantAccepted(t *testing.T, addr netip.AddrPort, accepted <-chan error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		if c, err := d.DialContext(ctx, "tcp", addr.String()); err == nil {
			defer c.Close()
		}
		select {
		case err := <-accepted:
			if err != nil {
				t.Fatal(err)
			}
			return
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("no connection was accepted")
		}
	}
}

// TestCloseWhileWaiting ends Accept of a listener whose address never comes.
func TestCloseWhileWaiting(t *testing.T) {
	ln, err := Listen("tcp", netip.MustParseAddrPort("192.0.2.63:80"), false, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := ln.Accept(); done <- err }()
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v; want %v", err, net.ErrClosed)
	}
	if err := ln.Close(); err != nil {
		t.Errorf("second time: %v", err)
	}
}
