package resolver

import (
	"net/netip"
	"strings"
	"testing"
)

func testPrefixSet(t *testing.T, list string) *prefixSet {
	t.Helper()
	var all []netip.Prefix
	for s := range strings.FieldsSeq(list) {
		all = append(all, netip.MustParsePrefix(s))
	}
	set, err := newPrefixSet(all)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestPrefixSet(t *testing.T) {
	set := testPrefixSet(t, "192.0.2.7/32 10.9.8.7/8 10.1.0.0/16 203.0.113.0/25 203.0.113.128/25 "+
		"2001:db8::/32 2001:db8:1::/48 fe80::/10 ::ffff:198.51.100.0/120")
	for addr, want := range map[string]bool{
		"10.0.0.0": true, "10.255.255.255": true, "9.255.255.255": false, "11.0.0.0": false,
		"192.0.2.6": false, "192.0.2.7": true, "192.0.2.8": false, "203.0.113.127": true, "203.0.113.255": true,
		"2001:db8:ffff::1": true, "2001:db9::": false, "::": false, "ffff::": false,
		"0.0.0.0": false, "255.255.255.255": false,
		// Mapped addresses are IPv4, and zones are ignored.
		"198.51.100.9": true, "::ffff:198.51.100.9": true, "::ffff:10.1.2.3": true, "::ffff:11.0.0.0": false,
		"fe80::1": true, "fe80::1%eth0": true, "2001:db9::1%eth0": false, "::ffff:10.1.2.3%eth0": true,
	} {
		if got := set.contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %t; want %t", addr, got, want)
		}
	}
	if _, err := newPrefixSet([]netip.Prefix{{}}); err == nil {
		t.Error("got no error for the zero Prefix; want one")
	}
}

// TestPrefixSetBounds has all addresses in the set, and none.
func TestPrefixSetBounds(t *testing.T) {
	all, all6 := testPrefixSet(t, "::/0 0.0.0.0/0"), testPrefixSet(t, "::/0")
	for _, s := range []string{
		"0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "2001:db8::", "::ffff:192.0.2.1",
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	} {
		addr := netip.MustParseAddr(s)
		if !all.contains(addr) {
			t.Errorf("%s is not in the set of all addresses", addr)
		}
		if got, want := all6.contains(addr), addr.Unmap().Is6(); got != want {
			t.Errorf("%s in the set of all IPv6 addresses: got %t; want %t", addr, got, want)
		}
		if (*prefixSet)(nil).contains(addr) || new(prefixSet).contains(addr) {
			t.Errorf("%s is in an empty set", addr)
		}
	}
	if all.contains(netip.Addr{}) {
		t.Error("the zero Addr is in the set of all addresses")
	}
}

func TestPrefixSetAllocs(t *testing.T) {
	set := testPrefixSet(t, "10.0.0.0/8 2001:db8::/32 fe80::/10")
	for _, s := range []string{"10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "fe80::1%eth0", "192.0.2.1"} {
		addr := netip.MustParseAddr(s)
		if n := testing.AllocsPerRun(100, func() { set.contains(addr) }); n != 0 {
			t.Errorf("%s: got %v allocations; want 0", s, n)
		}
	}
}

// FuzzPrefixSet compares a set with a look at each of its prefixes.
func FuzzPrefixSet(f *testing.F) {
	f.Add([]byte{192, 0, 2, 0, 24, 192, 0, 2, 128, 25, 10, 0, 0, 0, 8}, []byte{192, 0, 2, 200}) // nested
	f.Add([]byte{0, 0, 0, 0, 0, 255, 255, 255, 255, 32}, []byte{255, 255, 255, 255})            // everything
	f.Add([]byte{}, []byte{1, 2, 3, 4})                                                         // nothing
	f.Fuzz(func(t *testing.T, in, addr []byte) {
		var all []netip.Prefix
		for ; len(in) >= 5; in = in[5:] {
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte(in)), int(in[4])%33))
		}
		a, ok := netip.AddrFromSlice(addr)
		if !ok {
			return
		}
		want := false
		for _, p := range all {
			want = want || p.Contains(a.Unmap())
		}
		set, err := newPrefixSet(all)
		if err != nil {
			t.Fatal(err)
		}
		if got := set.contains(a); got != want {
			t.Errorf("%v in %v: got %v; want %v", a, all, got, want)
		}
	})
}
