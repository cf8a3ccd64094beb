package ddr

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

func addrs(list ...string) (as []netip.Addr) {
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// mixed are addresses of every scope in both families.
var mixed = addrs("127.0.0.1", "10.0.0.53", "100.64.0.53", "192.0.2.53", "169.254.0.53", "::1", "fd00::53", "2001:db8::53", "fe80::53")

func TestUsable(t *testing.T) {
	tests := map[string]struct {
		addrs, at, want []netip.Addr
	}{
		"global-client":     {mixed, addrs("198.51.100.1", "192.0.2.53"), addrs("192.0.2.53", "2001:db8::53")},
		"global-ipv6":       {mixed, addrs("2001:db8:1::1", "2001:db8::53"), addrs("192.0.2.53", "2001:db8::53")},
		"asked-private":     {mixed, addrs("198.51.100.1", "10.0.0.53"), addrs("10.0.0.53", "100.64.0.53", "192.0.2.53", "2001:db8::53")},
		"private-client":    {mixed, addrs("10.1.1.1", "192.0.2.53"), addrs("10.0.0.53", "100.64.0.53", "192.0.2.53", "2001:db8::53")},
		"shared-client":     {mixed, addrs("100.64.1.1", "192.0.2.53"), addrs("10.0.0.53", "100.64.0.53", "192.0.2.53", "2001:db8::53")},
		"unique-local":      {mixed, addrs("fd00::1", "2001:db8::53"), addrs("192.0.2.53", "fd00::53", "2001:db8::53")},
		"loopback":          {mixed, addrs("127.0.0.1", "127.0.0.1"), addrs("127.0.0.1", "192.0.2.53", "::1", "2001:db8::53")},
		"link-local":        {mixed, addrs("fe80::1", "fe80::53"), addrs("192.0.2.53", "2001:db8::53", "fe80::53")},
		"other-link":        {mixed, addrs("fe80::1", "fe80::54"), addrs("192.0.2.53", "2001:db8::53")},
		"link-local-ipv4":   {mixed, addrs("169.254.0.1", "169.254.0.53"), addrs("192.0.2.53", "169.254.0.53", "2001:db8::53")},
		"nobody-known":      {mixed, nil, addrs("192.0.2.53", "2001:db8::53")},
		"only-private-ipv4": {addrs("10.0.0.53", "2001:db8::53"), nil, addrs("10.0.0.53", "2001:db8::53")},
		"only-loopback":     {addrs("127.0.0.1", "::1"), addrs("198.51.100.1", "192.0.2.53"), nil},
		"loopback-only":     {addrs("127.0.0.1", "::1"), addrs("127.0.0.1"), addrs("127.0.0.1", "::1")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Usable(test.addrs, test.at...); !slices.Equal(got, test.want) {
				t.Errorf("got %v; want %v", got, test.want)
			}
		})
	}
}

// TestOnlyUsableAddressesAreNamed looks for addresses in everything that a zone with addresses of every scope says.
func TestOnlyUsableAddressesAreNamed(t *testing.T) {
	cfg := config()
	cfg.OwnName, cfg.Addresses, cfg.Services = true, mixed, nil
	for _, p := range []Protocol{DoT, DoH, DoH3, DoQ} {
		cfg.Services = append(cfg.Services, service(p, "[::]:853"))
	}
	z := zone(t, cfg)
	want := addrs("192.0.2.53", "2001:db8::53")
	for _, q := range []dns.Question{
		{Name: "dns.example.", Qtype: dns.TypeA},
		{Name: "dns.example.", Qtype: dns.TypeAAAA},
		{Name: "dns.example.", Qtype: dns.TypeHTTPS},
		{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB},
		{Name: "_dns.dns.example.", Qtype: dns.TypeSVCB},
	} {
		q.Qclass = dns.ClassINET
		m, ok := z.Answer(q, netip.MustParseAddr("198.51.100.1"), v4)
		if !ok || len(m.Answer) == 0 {
			t.Errorf("%v: got %v; want an answer", q, m)
			continue
		}
		wantAddresses(t, q.String(), append(m.Answer, m.Extra...), want)
	}
	rrs, err := z.Records()
	if err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, "Records", rrs, want)
}

// wantAddresses makes sure that rrs have no other addresses than want.
func wantAddresses(t *testing.T, what string, rrs []dns.RR, want []netip.Addr) {
	t.Helper()
	for _, rr := range rrs {
		var addr netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			addr, _ = netip.AddrFromSlice(rr.A.To4())
		case *dns.AAAA:
			addr, _ = netip.AddrFromSlice(rr.AAAA)
		default:
			continue
		}
		if !slices.Contains(want, addr) {
			t.Errorf("%s: got %v; want of %v", what, addr, want)
		}
	}
}

// TestServiceOnLoopbackOnly has DoT on a loopback address alone, which no other client can use.
func TestServiceOnLoopbackOnly(t *testing.T) {
	cfg := config()
	cfg.Addresses, cfg.Services = addrs("127.0.0.1", "192.0.2.53"), []Service{service(DoT, "127.0.0.1:853")}
	z := zone(t, cfg)
	if got, err := z.Resolvers(v4); err == nil {
		t.Errorf("got %v; want none", got)
	}
}
