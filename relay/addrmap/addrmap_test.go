package addrmap

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// openTest opens a map and closes it when the test ends.
func openTest(t testing.TB, cfg Config) *Map {
	t.Helper()
	m, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// allWays is a configuration with everything on.
func allWays() Config {
	return Config{
		Sealed: &SealedConfig{Prefix: testPrefix, Key: testKey[:]},
		Table: &TableConfig{Prefixes: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64"),
		}},
	}
}

func TestWays(t *testing.T) {
	sealedOnly, tableOnly := allWays(), allWays()
	sealedOnly.Table, tableOnly.Sealed = nil, nil
	for _, tt := range []struct {
		name string
		cfg  Config
		dst  string
		v6   bool
		want string // the prefix of the relay address, or nothing
	}{
		{"ipv4-in-ipv6", allWays(), "198.51.100.1", true, "2001:db8:cf::/64"},
		{"ipv4-in-ipv4", allWays(), "198.51.100.1", false, "192.0.2.0/24"},
		{"ipv6-in-ipv6", allWays(), "2001:db8:d::1", true, "2001:db8:1::/64"},
		{"ipv6-in-ipv4", allWays(), "2001:db8:d::1", false, ""},
		{"mapped-in-ipv6", allWays(), "::ffff:198.51.100.1", true, "2001:db8:cf::/64"},
		{"mapped-in-ipv4", allWays(), "::ffff:198.51.100.1", false, "192.0.2.0/24"},
		{"sealed-only-ipv4-in-ipv6", sealedOnly, "198.51.100.1", true, "2001:db8:cf::/64"},
		{"sealed-only-ipv4-in-ipv4", sealedOnly, "198.51.100.1", false, ""},
		{"sealed-only-ipv6-in-ipv6", sealedOnly, "2001:db8:d::1", true, ""},
		{"table-only-ipv4-in-ipv6", tableOnly, "198.51.100.1", true, ""},
		{"table-only-ipv4-in-ipv4", tableOnly, "198.51.100.1", false, "192.0.2.0/24"},
		{"table-only-ipv6-in-ipv6", tableOnly, "2001:db8:d::1", true, "2001:db8:1::/64"},
		{"nothing-configured", Config{}, "198.51.100.1", true, ""},
		{"own-ipv4-relay-address", allWays(), "192.0.2.1", false, ""},
		{"own-ipv4-relay-address-sealed", allWays(), "192.0.2.1", true, ""},
		{"own-ipv4-relay-address-mapped", allWays(), "::ffff:192.0.2.1", true, ""},
		{"own-ipv6-relay-address", allWays(), "2001:db8:1::1", true, ""},
		{"own-sealed-address", allWays(), "2001:db8:cf::1", true, ""},
		{"unspecified-ipv4", allWays(), "0.0.0.0", true, ""},
		{"unspecified-ipv6", allWays(), "::", true, ""},
		{"multicast-ipv4", allWays(), "224.0.0.1", false, ""},
		{"multicast-ipv6", allWays(), "ff02::1", true, ""},
		{"zone", allWays(), "fe80::1%eth0", true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := openTest(t, tt.cfg)
			dst := netip.MustParseAddr(tt.dst)
			relay, err := m.Relay(dst, tt.v6, time.Minute)
			if tt.want == "" {
				if !errors.Is(err, ErrNoWay) {
					t.Errorf("Relay: got %v, %v; want ErrNoWay", relay, err)
				}
				return
			}
			if err != nil || !netip.MustParsePrefix(tt.want).Contains(relay) || !m.Contains(relay) {
				t.Fatalf("Relay: got %v, %v; want an address in %s", relay, err, tt.want)
			}
			got, release, ok := m.Acquire(relay)
			if !ok || got != dst.Unmap() {
				t.Fatalf("Acquire(%v): got %v, %v; want %v", relay, got, ok, dst.Unmap())
			}
			release()
		})
	}
}

func TestInvalidAddresses(t *testing.T) {
	m := openTest(t, allWays())
	if got, err := m.Relay(netip.Addr{}, true, 0); !errors.Is(err, ErrNoWay) {
		t.Errorf("Relay: got %v, %v; want ErrNoWay", got, err)
	}
	for _, relay := range []string{"192.0.2.1", "2001:db8:1::1", "2001:db8:cf::1", "203.0.113.1", "2001:db8::1", "::1"} {
		if got, _, ok := m.Acquire(netip.MustParseAddr(relay)); ok {
			t.Errorf("Acquire(%s), which nobody leased: got %v", relay, got)
		}
	}
	if got, _, ok := m.Acquire(netip.Addr{}); ok || m.Contains(netip.Addr{}) {
		t.Errorf("Acquire of no address: got %v, %v", got, ok)
	}
	if got, _, ok := openTest(t, Config{}).Acquire(netip.MustParseAddr("192.0.2.1")); ok {
		t.Errorf("Acquire with nothing configured: got %v", got)
	}
}

// TestSealedLoop opens an address that was sealed before its destination became a relay address.
func TestSealedLoop(t *testing.T) {
	cfg := allWays()
	before := openTest(t, Config{Sealed: cfg.Sealed})
	dst := netip.MustParseAddr("192.0.2.1")
	relay, err := before.Relay(dst, true, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, ok := openTest(t, cfg).Acquire(relay); ok {
		t.Errorf("got %v; want nothing", got)
	}
}

func TestTTLs(t *testing.T) {
	cfg := allWays()
	cfg.Sealed.Epoch = 30 * 24 * time.Hour
	m := openTest(t, cfg)
	dst := netip.MustParseAddr("198.51.100.1")
	for _, tt := range []struct {
		ttl time.Duration
		ok  bool
	}{{-time.Second, true}, {0, true}, {maxTTL, true}, {maxTTL + 1, false}, {1<<63 - 1, false}} {
		if got, err := m.Relay(dst, false, tt.ttl); (err == nil) != tt.ok {
			t.Errorf("TTL %v: got %v, %v; want ok %v", tt.ttl, got, err, tt.ok)
		}
	}
}

func TestPrefixesAndUsage(t *testing.T) {
	m := openTest(t, allWays())
	want := []netip.Prefix{testPrefix, netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}
	if diff := cmp.Diff(want, m.Prefixes(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("Prefixes (-want +got):\n%s", diff)
	}
	leaseN(t, m, 3, netip.IPv4Unspecified(), 0)
	leaseN(t, m, 5, netip.IPv6Unspecified(), 0)
	used4, size4, used6, size6 := m.Usage()
	if diff := cmp.Diff([]uint64{3, 254, 5, defaultLeases}, []uint64{used4, size4, used6, size6}); diff != "" {
		t.Errorf("Usage (-want +got):\n%s", diff)
	}
	if !m.Contains(netip.MustParseAddr("::ffff:192.0.2.255")) || m.Contains(netip.MustParseAddr("192.0.3.0")) {
		t.Error("Contains: got wrong answers at the end of a prefix")
	}
}

func TestBadConfig(t *testing.T) {
	prefixes := func(s ...string) func(*Config) {
		return func(cfg *Config) {
			cfg.Table.Prefixes = nil
			for _, p := range s {
				cfg.Table.Prefixes = append(cfg.Table.Prefixes, netip.MustParsePrefix(p))
			}
		}
	}
	sealed := func(s string) func(*Config) {
		return func(cfg *Config) { cfg.Sealed.Prefix = netip.MustParsePrefix(s) }
	}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"sealed-without-prefix", func(cfg *Config) { cfg.Sealed.Prefix = netip.Prefix{} }, []string{"sealed.prefix", "/64"}},
		{"sealed-prefix-of-48-bits", sealed("2001:db8::/48"), []string{"sealed.prefix", "2001:db8::/48", "/64"}},
		{"sealed-prefix-of-ipv4", sealed("10.0.0.0/8"), []string{"sealed.prefix", "/64"}},
		{"sealed-prefix-with-host-bits", sealed("2001:db8::1/64"), []string{"sealed.prefix", "host bits", "want 2001:db8::/64"}},
		{"sealed-prefix-multicast", sealed("ff02::/64"), []string{"sealed.prefix", "multicast"}},
		{"no-key", func(cfg *Config) { cfg.Sealed.Key = nil }, []string{"sealed.key", "missing"}},
		{"short-key", func(cfg *Config) { cfg.Sealed.Key = make([]byte, 16) }, []string{"sealed.key", "16", "32"}},
		{"short-epoch", func(cfg *Config) { cfg.Sealed.Epoch = time.Second }, []string{"sealed.epoch", "1s", "1m0s"}},
		{"negative-epoch", func(cfg *Config) { cfg.Sealed.Epoch = -time.Hour }, []string{"sealed.epoch"}},
		{"fractional-epoch", func(cfg *Config) { cfg.Sealed.Epoch = time.Hour + 1 }, []string{"sealed.epoch", "whole seconds"}},
		{"no-pool", prefixes(), []string{"table.prefixes", "at least one"}},
		{"invalid-pool", func(cfg *Config) { cfg.Table.Prefixes[1] = netip.Prefix{} }, []string{"table.prefixes[1]"}},
		{"pool-with-host-bits", prefixes("192.0.2.1/24"), []string{"table.prefixes[0]", "want 192.0.2.0/24"}},
		{"pool-above-8", prefixes("10.0.0.0/8", "12.0.0.0/7"), []string{"table.prefixes[1]", "too large", "/8"}},
		{"pool-of-everything", prefixes("::/0"), []string{"table.prefixes[0]", "everything"}},
		{"pool-multicast", prefixes("224.0.0.0/24"), []string{"table.prefixes[0]", "multicast"}},
		{"pool-mapped", prefixes("::ffff:192.0.2.0/120"), []string{"table.prefixes[0]", "IPv4 form"}},
		{"pools-overlap", prefixes("192.0.2.0/24", "192.0.2.128/25"), []string{"192.0.2.0/24", "table.prefixes[1]: 192.0.2.128/25", "overlap"}},
		{"pool-overlaps-sealed", prefixes("2001:db8:cf::/80"), []string{"2001:db8:cf::/64", "table.prefixes[0]: 2001:db8:cf::/80", "overlap"}},
		{"negative-grace", func(cfg *Config) { cfg.Table.Grace = -1 }, []string{"table.grace"}},
		{"endless-grace", func(cfg *Config) { cfg.Table.Grace = 1<<63 - 1 }, []string{"table.grace", "720h"}},
		{"negative-leases", func(cfg *Config) { cfg.Table.MaxLeases = -1 }, []string{"table.max_leases"}},
		{"too-many-leases", func(cfg *Config) { cfg.Table.MaxLeases = 1 << 30 }, []string{"table.max_leases"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := allWays()
			tt.change(&cfg)
			m, err := Open(cfg)
			if err == nil {
				_ = m.Close()
			}
			wantError(t, err, tt.want...)
		})
	}
}

// TestValidate wants everything that is wrong at once, and no complaint about a key that is read later.
func TestValidate(t *testing.T) {
	cfg := allWays()
	cfg.Sealed.Key = nil
	if err := cfg.Validate(); err != nil {
		t.Errorf("without a key: got error %v; want none", err)
	}
	cfg.Sealed.Epoch, cfg.Table.Grace = time.Second, -1
	cfg.Table.Prefixes = append(cfg.Table.Prefixes, cfg.Table.Prefixes[0])
	err := cfg.Validate()
	wantError(t, err, "sealed.epoch: ", "table.grace: ", "table.prefixes[2]: ")
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 3 {
		t.Errorf("got %q; want three errors", lines)
	}
}
