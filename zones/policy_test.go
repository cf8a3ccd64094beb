package zones

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// documentation lets the tests steer the addresses that tests have to use.
var documentation = prefixes("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")

func prefixes(s ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, p := range s {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

// special stands for the relay's list of special-purpose addresses.
func special(addr netip.Addr) bool { return !addr.IsGlobalUnicast() || addr.IsPrivate() }

func newPolicy(t testing.TB, rules ...Rule) *Policy {
	t.Helper()
	p, err := NewPolicy(rules, special, documentation)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicySteer(t *testing.T) {
	rules := []Rule{
		{Suffixes: []string{"bank.example"}, Pass: true},
		{Suffixes: []string{"cdn.example", "Shop.Example."}},
		{Suffixes: []string{"both.example"}, Prefixes: prefixes("203.0.113.0/24")},
		{Prefixes: prefixes("198.51.100.0/25", "2001:db8:1::/48")},
		{Suffixes: []string{"noech.example"}, ECH: true, Pass: true},
		{ECH: true},
	}
	tests := []struct {
		name           string
		names          string
		addr           string
		ech            bool
		steer, matched bool
	}{
		{"suffix-itself", "cdn.example.", "192.0.2.1", false, true, true},
		{"suffix-below", "a.b.cdn.example.", "192.0.2.1", false, true, true},
		{"suffix-not-on-label-boundary", "mycdn.example.", "192.0.2.1", false, false, false},
		{"suffix-above", "example.", "192.0.2.1", false, false, false},
		{"suffix-case-and-final-dot", "shop.example.", "192.0.2.1", false, true, true},
		{"suffix-behind-escaped-dot", `x\.cdn.example.`, "192.0.2.1", false, false, false},
		{"suffix-behind-escaped-backslash", `x\\.cdn.example.`, "192.0.2.1", false, true, true},
		{"suffix-in-chain", "www.customer.example. c.cdn.example. edge.example.", "192.0.2.1", false, true, true},
		{"exception-wins-by-order", "bank.example. c.cdn.example.", "192.0.2.1", false, false, true},
		{"exception-wins-from-the-chain", "c.cdn.example. bank.example.", "192.0.2.1", false, false, true},
		{"attrleaf-port", "_4443._https.cdn.example.", "192.0.2.1", false, true, true},
		{"attrleaf-dns", "_dns.cdn.example.", "192.0.2.1", false, true, true},
		{"attrleaf-alone", "_dns.", "192.0.2.1", false, false, false},
		{"prefix", "x.example.", "198.51.100.127", false, true, true},
		{"prefix-outside", "x.example.", "198.51.100.128", false, false, false},
		{"prefix-v6", "x.example.", "2001:db8:1::1", false, true, true},
		{"prefix-v6-outside", "x.example.", "2001:db8:2::1", false, false, false},
		{"prefix-excepted-by-name", "www.bank.example.", "198.51.100.1", false, false, true},
		{"suffix-and-prefix", "both.example.", "203.0.113.9", false, true, true},
		{"suffix-without-prefix", "both.example.", "192.0.2.9", false, false, false},
		{"prefix-without-suffix", "x.example.", "203.0.113.9", false, false, false},
		{"ech", "x.example.", "192.0.2.1", true, true, true},
		{"ech-excepted", "noech.example.", "192.0.2.1", true, false, true},
		{"ech-exception-needs-ech", "noech.example.", "192.0.2.1", false, false, false},
		{"special-purpose", "cdn.example.", "10.1.2.3", false, false, true},
		{"special-purpose-v6", "cdn.example.", "fd00::1", true, false, true},
		{"root", ".", "192.0.2.1", false, false, false},
	}
	p := newPolicy(t, rules...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			names, addr := strings.Fields(tt.names), netip.MustParseAddr(tt.addr)
			steer, matched := p.Steer(names, addr, func() bool { return tt.ech })
			if steer != tt.steer || matched != tt.matched {
				t.Errorf("Steer(%v, %s) = %v, %v; want %v, %v", names, addr, steer, matched, tt.steer, tt.matched)
			}
		})
	}
}

// TestPolicyAsksForECHOnlyIfNeeded: the question may cost a round trip to an upstream.
func TestPolicyAsksForECHOnlyIfNeeded(t *testing.T) {
	p := newPolicy(t,
		Rule{Suffixes: []string{"cdn.example"}},
		Rule{Prefixes: prefixes("203.0.113.0/24"), ECH: true},
		Rule{Suffixes: []string{"ech.example"}, ECH: true},
		Rule{Suffixes: []string{"www.ech.example"}, ECH: true},
	)
	tests := []struct {
		name, qname, addr string
		asked             int
	}{
		{"decided-before", "cdn.example.", "203.0.113.1", 0},
		{"other-name-and-prefix", "x.example.", "192.0.2.1", 0},
		{"prefix", "x.example.", "203.0.113.1", 1},
		{"once-for-three-rules", "www.ech.example.", "203.0.113.1", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			p.Steer([]string{tt.qname}, netip.MustParseAddr(tt.addr), func() bool { asked++; return false })
			if asked != tt.asked {
				t.Errorf("got hasECH called %d times; want %d", asked, tt.asked)
			}
		})
	}
}

func TestPolicyScope(t *testing.T) {
	tests := []struct {
		name           string
		rules          []Rule
		ech            bool
		byName, byAddr bool
	}{
		{name: "no-rules"},
		{name: "other-suffix", rules: []Rule{{Suffixes: []string{"other.example"}}}},
		{name: "suffix", rules: []Rule{{Suffixes: []string{"shop.example"}}}, byName: true},
		{name: "suffix-and-prefix", rules: []Rule{{Suffixes: []string{"shop.example"}, Prefixes: prefixes("192.0.2.0/24")}}, byName: true},
		{name: "prefix", rules: []Rule{{Prefixes: prefixes("192.0.2.0/24")}}, byAddr: true},
		{name: "exception-hides-the-rest", rules: []Rule{{Suffixes: []string{"shop.example"}, Pass: true}, {Prefixes: prefixes("192.0.2.0/24")}, {ECH: true}}, ech: true},
		{name: "exception-of-a-prefix-does-not", rules: []Rule{{Prefixes: prefixes("192.0.2.0/24"), Pass: true}, {Suffixes: []string{"."}}}, byName: true},
		{name: "ech-without", rules: []Rule{{ECH: true}}},
		{name: "ech-with", rules: []Rule{{ECH: true}}, ech: true, byName: true},
		{name: "both", rules: []Rule{{Prefixes: prefixes("192.0.2.0/24")}, {ECH: true}}, ech: true, byName: true, byAddr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			byName, byAddr := newPolicy(t, tt.rules...).Scope([]string{"www.shop.example."}, tt.ech)
			if byName != tt.byName || byAddr != tt.byAddr {
				t.Errorf("got byName %v, byAddr %v; want %v, %v", byName, byAddr, tt.byName, tt.byAddr)
			}
		})
	}
}

func TestNewPolicyErrors(t *testing.T) {
	ok := Rule{ECH: true}
	tests := []struct {
		name  string
		rules []Rule
		allow []netip.Prefix
		want  string // beginning of the error
	}{
		{"empty-rule", []Rule{ok, {}}, nil, "rules[1]: matches nothing"},
		{"only-an-action", []Rule{{Pass: true}}, nil, "rules[0]: matches nothing"},
		{"empty-suffix", []Rule{{Suffixes: []string{"a", ""}}}, nil, `rules[0].suffixes[1]: "" is empty`},
		{"wildcard", []Rule{{Suffixes: []string{"*.cdn.example"}}}, nil, `rules[0].suffixes[0]: "*.cdn.example" begins with a wildcard or dot; "cdn.example" already`},
		{"leading-dot", []Rule{{Suffixes: []string{".cdn.example"}}}, nil, `rules[0].suffixes[0]: ".cdn.example" begins with`},
		{"attrleaf", []Rule{{Suffixes: []string{"_dns.cdn.example"}}}, nil, `rules[0].suffixes[0]: "_dns.cdn.example" begins with an underscore`},
		{"unicode", []Rule{{Suffixes: []string{"bücher.example"}}}, nil, `rules[0].suffixes[0]: "bücher.example" contains 'ü'`},
		{"empty-label", []Rule{{Suffixes: []string{"a..example"}}}, nil, `rules[0].suffixes[0]: "a..example" is not a domain name`},
		{"long-label", []Rule{{Suffixes: []string{strings.Repeat("a", 64) + ".example"}}}, nil, `rules[0].suffixes[0]: `},
		{"host-bits", []Rule{ok, {Prefixes: prefixes("10.0.0.0/8", "192.0.2.1/24")}}, nil, "rules[1].prefixes[1]: 192.0.2.1/24 has host bits set; write 192.0.2.0/24"},
		{"zero-prefix", []Rule{{Prefixes: []netip.Prefix{{}}}}, nil, "rules[0].prefixes[0]: not a prefix"},
		{"allow-host-bits", []Rule{ok}, prefixes("10.0.0.1/8"), "allow_special[0]: 10.0.0.1/8 has host bits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := NewPolicy(tt.rules, special, tt.allow); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v; want %s…", err, tt.want)
			}
		})
	}
}

func manyRules(n int) []Rule {
	rules := make([]Rule, 0, n)
	for i := range n {
		rules = append(rules, Rule{Suffixes: []string{fmt.Sprintf("site%d.example", i)}, Pass: i%2 == 0})
	}
	return append(rules, Rule{Prefixes: prefixes("203.0.113.0/24")}, Rule{ECH: true})
}

func TestPolicySteerDoesNotAllocate(t *testing.T) {
	p := newPolicy(t, manyRules(1000)...)
	names := []string{"_4443._https.www.site501.example.", "a.b.c.edge.example.", "site77.example."}
	addr := netip.MustParseAddr("192.0.2.1")
	hasECH := func() bool { return false }
	if n := testing.AllocsPerRun(100, func() { p.Steer(names, addr, hasECH) }); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

func BenchmarkPolicySteer(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("rules-%d", n), func(b *testing.B) {
			p := newPolicy(b, manyRules(n)...)
			names := []string{"www.shop.example.", "shop.cdn.example.", "edge7.cdn.example."}
			addr := netip.MustParseAddr("192.0.2.1")
			hasECH := func() bool { return false }
			b.ReportAllocs()
			for b.Loop() {
				p.Steer(names, addr, hasECH)
			}
		})
	}
}

// naiveSteer is the rules' definition, word by word.
func naiveSteer(rules []Rule, names []string, addr netip.Addr, ech bool) (steer, matched bool) {
	for _, r := range rules {
		suffix, prefix := len(r.Suffixes) == 0, len(r.Prefixes) == 0
		for _, s := range r.Suffixes {
			s = strings.ToLower(strings.TrimSuffix(s, "."))
			for _, n := range names {
				for strings.HasPrefix(n, "_") {
					_, n, _ = strings.Cut(n, ".")
				}
				suffix = suffix || s == "" || strings.HasSuffix("."+n, "."+s+".")
			}
		}
		for _, p := range r.Prefixes {
			prefix = prefix || p.Contains(addr)
		}
		if suffix && prefix && (ech || !r.ECH) {
			return !r.Pass, true
		}
	}
	return false, false
}

// FuzzPolicy reads rules from text, one a line: "[!][e] suffix|prefix …", and compares with naiveSteer.
func FuzzPolicy(f *testing.F) {
	f.Add("! bank.example\n cdn.example 203.0.113.0/24\ne\n 2001:db8::/32 2001:db8:1::/48", "www.bank.example. c.cdn.example.", "203.0.113.1", true)
	f.Add(" . \n! example", "_1._tcp.example.", "192.0.2.1", false)                     // the root suffix first
	f.Add(" a.b\n! b\n b 192.0.2.0/25 192.0.2.0/24", "x.a.b. b.", "192.0.2.200", false) // overlapping prefixes
	f.Fuzz(func(t *testing.T, text, chain, address string, ech bool) {
		addr, err := netip.ParseAddr(address)
		names := strings.Fields(strings.ToLower(chain))
		if err != nil || addr.Zone() != "" || addr.Is4In6() || strings.ContainsAny(chain, `\`) {
			t.Skip()
		}
		for i, n := range names {
			if names[i], err = canonicalSuffix(strings.TrimLeft(n, "_")); err != nil {
				t.Skip()
			}
		}
		var rules []Rule
		for line := range strings.Lines(text) {
			var r Rule
			for w := range strings.FieldsSeq(line) {
				if p, err := netip.ParsePrefix(w); err == nil {
					r.Prefixes = append(r.Prefixes, p)
				} else if w == "!" {
					r.Pass = true
				} else if w == "e" {
					r.ECH = true
				} else {
					r.Suffixes = append(r.Suffixes, w)
				}
			}
			rules = append(rules, r)
		}
		p, err := NewPolicy(rules, special, prefixes("0.0.0.0/0", "::/0"))
		if err != nil {
			t.Skip()
		}
		steer, matched := p.Steer(names, addr, func() bool { return ech })
		wantSteer, wantMatched := naiveSteer(rules, names, addr, ech)
		if steer != wantSteer || matched != wantMatched {
			t.Errorf("rules %+v, names %q, addr %s, ech %v: got %v, %v; want %v, %v", rules, names, addr, ech, steer, matched, wantSteer, wantMatched)
		}
		if byName, byAddr := p.Scope(names, ech); steer && !byName && !byAddr {
			t.Errorf("rules %+v, names %q: steered, but out of scope", rules, names)
		}
	})
}
