package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestPrefixSet(t *testing.T) {
	var prefixes []netip.Prefix
	for _, s := range strings.Fields("192.0.2.7/32 10.0.0.0/8 10.1.0.0/16 203.0.113.0/25 203.0.113.128/25 " +
		"2001:db8::/32 2001:db8:1::/48 fe80::/10 ::ffff:198.51.100.0/120") {
		prefixes = append(prefixes, netip.MustParsePrefix(s))
	}
	set, err := newPrefixSet(prefixes)
	if err != nil {
		t.Fatal(err)
	}
	if len(set) != 6 {
		t.Errorf("got %d ranges; want those that overlap or touch joined into 6", len(set))
	}
	for addr, want := range map[string]bool{
		"10.0.0.0": true, "10.255.255.255": true, "9.255.255.255": false, "11.0.0.0": false,
		"192.0.2.6": false, "192.0.2.7": true, "192.0.2.8": false, "203.0.113.127": true, "203.0.113.255": true,
		"198.51.100.9": true, "2001:db8:ffff::1": true, "2001:db9::": false, "::": false, "fe80::1%eth0": true,
		"0.0.0.0": false, "255.255.255.255": false, "ffff::": false,
	} {
		if got := set.contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %t; want %t", addr, got, want)
		}
	}
}

func TestPrefixSetOfAll(t *testing.T) {
	set, err := newPrefixSet([]netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0")})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "2001:db8::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"} {
		if !set.contains(netip.MustParseAddr(addr)) {
			t.Errorf("%s is not in it", addr)
		}
	}
	if prefixSet(nil).contains(testClient.Addr()) {
		t.Error("something is in the empty set")
	}
}

func FuzzPrefixSet(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 8, 10, 128, 0, 0, 9}, uint32(0x0a000001))
	f.Add([]byte{0, 0, 0, 0, 0}, uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, a uint32) {
		var prefixes []netip.Prefix
		for c := range slices.Chunk(b, 5) {
			if len(c) == 5 {
				prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte(c)), int(c[4])%33))
			}
		}
		set, err := newPrefixSet(prefixes)
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
		want := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
		if got := set.contains(addr); got != want {
			t.Errorf("%s in %v: got %t; want %t", addr, prefixes, got, want)
		}
	})
}
