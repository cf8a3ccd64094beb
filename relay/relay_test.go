package relay

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// fakeMap is an address map of relay addresses within prefix.
type fakeMap struct {
	prefix netip.Prefix
	dst    map[netip.Addr]netip.Addr // by relay address
	held   atomic.Int64              // acquired and not released
}

// relayPrefix and egressPrefix are loopback addresses, which need no route.
var (
	relayPrefix  = netip.MustParsePrefix("127.80.0.0/16")
	egressPrefix = netip.MustParsePrefix("127.90.0.0/16")
	loopback4    = netip.MustParsePrefix("127.0.0.0/8")
)

// newFakeMap returns a map that maps each address of relayPrefix to the loopback address with the same last octets:
// 127.80.0.1 to 127.0.0.1.
func newFakeMap() *fakeMap {
	m := &fakeMap{prefix: relayPrefix, dst: map[netip.Addr]netip.Addr{}}
	for i := range byte(8) {
		m.dst[netip.AddrFrom4([4]byte{127, 80, 0, i})] = netip.AddrFrom4([4]byte{127, 0, 0, i})
	}
	return m
}

func (m *fakeMap) Acquire(relay netip.Addr) (netip.Addr, func(), bool) {
	dst, ok := m.dst[relay]
	if !ok {
		return netip.Addr{}, nil, false
	}
	m.held.Add(1)
	return dst, func() { m.held.Add(-1) }, true
}

func (m *fakeMap) Contains(addr netip.Addr) bool { return m.prefix.Contains(addr) }

func (m *fakeMap) Prefixes() []netip.Prefix { return []netip.Prefix{m.prefix} }

// testSettings let clients on loopback relay to loopback.
func testSettings() Settings {
	return Settings{
		Clients:      []netip.Prefix{loopback4},
		Egress:       []netip.Prefix{egressPrefix},
		AllowSpecial: []netip.Prefix{loopback4},
	}
}

// TestMain runs the tests in a network namespace of their own, so that no other program has a port of theirs.
func TestMain(m *testing.M) { netns.Main(m) }
