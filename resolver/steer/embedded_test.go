package steer

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// vectors are those of RFC 6052, Section 2.4, for 192.0.2.33.
var vectors = map[string]string{
	"2001:db8::/32":         "2001:db8:c000:221::",
	"2001:db8:100::/40":     "2001:db8:1c0:2:21::",
	"2001:db8:122::/48":     "2001:db8:122:c000:2:2100::",
	"2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
	"2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
	"2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
	"64:ff9b::/96":          "64:ff9b::192.0.2.33",
}

// TestNAT64 steers what a DNS64 makes of a steered address as that, in records and hints, for name and address rules.
func TestNAT64(t *testing.T) {
	for prefix, addr := range vectors {
		for _, rules := range []dnstest.Rules{"www.example", "192.0.2.32/28"} {
			t.Run(strings.ReplaceAll(prefix, "/", "-")+"-"+string(rules), func(t *testing.T) {
				s, err := New(Config{Policy: rules, Relay: new(dnstest.Relay), NAT64: []netip.Prefix{netip.MustParsePrefix(prefix)}}, nil, func(string) {})
				if err != nil {
					t.Fatal(err)
				}
				w := dnstest.World{"www.example. 300 AAAA " + addr, "www.example. 300 HTTPS 1 . ipv6hint=" + addr}
				want := []string{"steered", "www.example. 60 AAAA 2001:db8:5ea1::21"}
				if diff := cmp.Diff(want, s.ask(t, w, "www.example. AAAA")); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				want = []string{"steered", "www.example. 60 HTTPS 1 . ipv6hint=2001:db8:5ea1::21"}
				if diff := cmp.Diff(want, s.ask(t, w, "www.example. HTTPS")); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestEmbeddedAddress: forms of addresses that lead to 192.0.2.1, without anything being configured.
func TestEmbeddedAddress(t *testing.T) {
	for addr, want := range map[string]string{
		"::ffff:192.0.2.1":            "2001:db8:5ea1::1",
		"::ffff:0:192.0.2.1":          "2001:db8:5ea1::1",
		"64:ff9b::192.0.2.1":          "2001:db8:5ea1::1",
		"::192.0.2.1":                 "", // behind a tunnel is another host
		"2002:c000:201::1":            "",
		"2001:0:4136:e378::3fff:fdfe": "",
		"2001:db8:64::192.0.2.1":      "2001:db8:64::c000:201", // no prefix that is known
		"64:ff9b::192.0.3.1":          "64:ff9b::c000:301",
		"2002:c000:301::1":            "2002:c000:301::1",
	} {
		s := steererFor("192.0.2.0/24")
		s.config.Relay = &dnstest.Relay{}
		got := ""
		for _, line := range s.ask(t, dnstest.World{"www.example. 300 AAAA " + addr}, "www.example. AAAA")[1:] {
			if strings.Contains(line, " AAAA ") {
				got = line[strings.LastIndex(line, " ")+1:]
			}
		}
		if got != want {
			t.Errorf("%s: got %q; want %q", addr, got, want)
		}
	}
}

// TestAliasModeHints: clients ignore them, and those that do not must not find the real address.
func TestAliasModeHints(t *testing.T) {
	s := steererFor("cdn.example")
	want := []string{"steered", "www.cdn.example. 60 HTTPS 0 x.example. ipv4hint=198.51.100.1"}
	if diff := cmp.Diff(want, s.ask(t, dnstest.World{"www.cdn.example. 300 HTTPS 0 x.example. ipv4hint=192.0.2.1"}, "www.cdn.example. HTTPS")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCheckNAT64(t *testing.T) {
	for prefix, ok := range map[string]bool{
		"64:ff9b::/96": true, "2001:db8::/32": true, "2001:db8::/33": false, "192.0.2.0/32": false, "2001:db8::1/96": false,
		"2001:db8:0:0:ff00::/96": false, "2001:db8::/128": false,
	} {
		if err := CheckNAT64(netip.MustParsePrefix(prefix)); (err == nil) != ok {
			t.Errorf("%s: got %v; want ok %v", prefix, err, ok)
		}
	}
}

// TestNAT64Prefixes finds each prefix in the addresses that a DNS64 with it makes of those of ipv4only.arpa.
func TestNAT64Prefixes(t *testing.T) {
	for _, tt := range []struct{ addr, want string }{
		{"64:ff9b::192.0.0.170", "64:ff9b::/96"},
		{"2001:db8:122:344::192.0.0.171", "2001:db8:122:344::/96"},
		{"2001:db8:122:344:c0:0:aa00::", "2001:db8:122:344::/64"},
		{"2001:db8:122:3c0:0:aa::", "2001:db8:122:300::/56"},
		{"2001:db8:122:c000:0:aa00::", "2001:db8:122::/48"},
		{"2001:db8:1c0:0:aa::", "2001:db8:100::/40"},
		{"2001:db8:c000:aa::", "2001:db8::/32"},
		{"2001:db8::192.0.0.172", ""},
		{"::ffff:192.0.0.170", ""},
	} {
		got := NAT64Prefixes([]netip.Addr{netip.MustParseAddr(tt.addr), netip.MustParseAddr(tt.addr)})
		var want []netip.Prefix
		if tt.want != "" {
			want = []netip.Prefix{netip.MustParsePrefix(tt.want)}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v; want %v", tt.addr, got, want)
		}
	}
}
