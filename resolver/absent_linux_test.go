package resolver

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// addAddress gives the loopback interface an address until the test ends.
func addAddress(t *testing.T, addr netip.Addr) {
	t.Helper()
	netns.Require(t)
	args := []string{"addr", "add", netip.PrefixFrom(addr, addr.BitLen()).String(), "dev", "lo"}
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
	t.Cleanup(func() { exec.Command("ip", append([]string{"addr", "del"}, args[2:]...)...).Run() })
	// The kernel adds the route behind our back, and a socket that is connected before keeps the wrong one.
	eventually(t, "the route to "+addr.String(), func() bool {
		out, err := exec.Command("ip", "route", "get", addr.String()).Output()
		return err == nil && strings.HasPrefix(string(out), "local ")
	})
}

// TestAddressComesLater starts a server on an address that the host does not have, beside one that it has, and adds the
// address while it runs: bound beforehand, and once it is there.
func TestAddressComesLater(t *testing.T) {
	for name, test := range map[string]struct {
		addr string
		free bool
	}{
		"ipv4-free":    {"192.0.2.51", true},
		"ipv6-free":    {"2001:db8::51", true},
		"ipv4-waiting": {"192.0.2.52", false},
		"ipv6-waiting": {"2001:db8::52", false},
	} {
		t.Run(name, func(t *testing.T) {
			later := netip.AddrPortFrom(netip.MustParseAddr(test.addr), netns.Port(t))
			tlsPort := netip.AddrPortFrom(later.Addr(), netns.Port(t))
			web := []netip.AddrPort{
				netip.AddrPortFrom(later.Addr(), netns.Port(t)), netip.AddrPortFrom(later.Addr(), netns.Port(t)),
			}
			changed := make(chan struct{}, 8)
			s := startServer(t, func(c *Config) {
				c.FreeBind, c.AddressesChanged = test.free, func() { changed <- struct{}{} }
				c.Listen.Do53 = append(c.Listen.Do53, later)
				c.Listen.DoT = append(c.Listen.DoT, tlsPort)
				c.Listen.DoH = append(c.Listen.DoH, web...)
				c.Listen.DoQ = append(c.Listen.DoQ, tlsPort)
			})
			overAll(t, func(t *testing.T, tr transport) {
				if _, err := tr.dial(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
					t.Errorf("at the address that is there: %v", err)
				}
			})
			if got := len(s.Absent()); got != 5 {
				t.Fatalf("got %d listeners that wait; want 5: %v", got, s.Absent())
			}

			addAddress(t, later.Addr())
			eventually(t, "nothing that waits", func() bool { return len(s.Absent()) == 0 })
			<-changed
			at := *s
			srv := *s.Server
			srv.where = &places{addrs: Listen{
				Do53: []netip.AddrPort{later}, DoT: []netip.AddrPort{tlsPort}, DoH: web, DoQ: []netip.AddrPort{tlsPort},
			}}
			at.Server = &srv
			overAll(t, func(t *testing.T, tr transport) {
				if _, err := tr.dial(t, &at)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
					t.Errorf("at the address that came: %v", err)
				}
			})
		})
	}
}

// TestInterfaceComesLater listens on a link-local address of an interface that does not exist yet, which no option can bind
// beforehand.
func TestInterfaceComesLater(t *testing.T) {
	netns.Require(t)
	addr := netip.MustParseAddrPort("[fe80::53%late0]:20953")
	s := startServer(t, func(c *Config) {
		c.FreeBind = true
		c.Listen.Do53 = append(c.Listen.Do53, addr)
	})
	if got := s.Absent(); len(got) != 1 {
		t.Fatalf("got %v; want one listener that waits", got)
	}
	for _, args := range [][]string{
		{"link", "add", "late0", "type", "veth", "peer", "name", "late1"},
		{"link", "set", "late1", "up"},
		{"addr", "add", "fe80::53/64", "dev", "late0", "nodad"},
		{"link", "set", "late0", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { exec.Command("ip", "link", "del", "late0").Run() })
	eventually(t, "nothing that waits", func() bool { return len(s.Absent()) == 0 })
	at := *s
	srv := *s.Server
	srv.where = &places{addrs: Listen{Do53: []netip.AddrPort{addr}}}
	at.Server = &srv
	for _, tr := range transports[:2] {
		if _, err := tr.dial(t, &at)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
			t.Errorf("over %s: %v", tr.name, err)
		}
	}
}
