package resolver

import (
	"encoding/binary"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// ownPrefix makes every address of a prefix one of this namespace, from which can be sent, until the test ends.
func ownPrefix(t *testing.T, prefix string) {
	t.Helper()
	netns.Require(t)
	const nonlocal = "/proc/sys/net/ipv6/ip_nonlocal_bind"
	if err := os.WriteFile(nonlocal, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(nonlocal, []byte("0"), 0); err != nil {
			t.Error(err)
		}
	})
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{Dst: dst, LinkIndex: 1, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST}
	if err := netlink.RouteReplace(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.RouteDel(r); err != nil {
			t.Error(err)
		}
	})
}

// prefixesOf returns n addresses from first on, each of the next /64, or the next address in IPv4.
func prefixesOf(first string, n int) (addrs []netip.Addr) {
	a := netip.MustParseAddr(first)
	for range n {
		addrs = append(addrs, a)
		if a.Is4() {
			a = a.Next()
			continue
		}
		b := a.As16()
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+1)
		a = netip.AddrFrom16(b)
	}
	return addrs
}

// A customer that connects from as many prefixes of his own as there are connections has no more of them than one
// customer may, over every transport, and whoever else comes is served over every transport.
func TestPrefixesShareConnections(t *testing.T) {
	ownPrefix(t, "2001:db8::/32")
	for name, row := range map[string]struct {
		from []netip.Addr
		most int
	}{
		"ipv6-56": {prefixesOf("2001:db8:7:a00::1", 50), 10},
		"ipv6-48": {prefixesOf("2001:db8:7:f0::1", 200), 30}, // of four /56
		"ipv4-24": {prefixesOf("127.3.2.1", 200), 30},
	} {
		t.Run(name, func(t *testing.T) {
			for _, attacked := range []Transport{TCP, DoT, DoH, DoH3, DoQ} {
				t.Run(attacked.String(), func(t *testing.T) {
					s := startServer(t, func(c *Config) {
						for _, l := range []*[]netip.AddrPort{&c.Listen.Do53, &c.Listen.DoT, &c.Listen.DoH, &c.Listen.DoQ} {
							*l = append(*l, netip.MustParseAddrPort("[2001:db8::53]:0"))
						}
						c.Limits = Limits{Connections: 100, ConnectionsPerClient: 5, IdleTimeout: time.Hour, Prefixes: []PrefixLimit{
							{IPv6: 56, Connections: 10}, {IPv4: 24, IPv6: 48, Connections: 30},
						}}
					})
					idle(t, s, attacked, row.from, 120)
					most := row.most + 100/leavingShare // those that are ending
					eventually(t, "the customer has no more than is his", func() bool { return s.Stats().Connections[attacked] <= most })
					overConnections(t, func(t *testing.T, tr transport) {
						if _, err := tr.dial(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
							t.Error(err)
						}
					})
				})
			}
		})
	}
}
