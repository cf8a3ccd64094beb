package steer

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// steererFor returns a steerer with rules, for a test to change.
func steererFor(rules dnstest.Rules) *Steerer {
	s, err := New(Config{Policy: rules, Relay: new(dnstest.Relay)}, nil, func(string) {})
	if err != nil {
		panic(err)
	}
	return s
}

// ask returns what s makes of the world's answer to "NAME TYPE": the verdict, then the records of the three sections,
// with "-" and "+" as world has them.
func (s *Steerer) ask(t *testing.T, w dnstest.World, question string) []string {
	t.Helper()
	name, qtype, _ := strings.Cut(question, " ")
	reply := dnstest.Pack(t, w.Response(name, dns.StringToType[qtype]))
	before := slices.Clone(reply)
	k, err := wire.NewKey(name, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	client := netip.MustParseAddr("192.0.2.200")
	got, err := s.Apply(t.Context(), Request{Response: reply, Lookup: w.Lookup(t), Led: s.Led(client, k.Name())})
	if !s.Give(client, got.Leads, 0) {
		t.Error("leads cannot be noted")
	}
	out, v := got.Octets, got.Verdict
	if err != nil {
		return []string{err.Error()}
	}
	if !slices.Equal(reply, before) {
		t.Error("the reply itself was changed")
	}
	m := dnstest.Unpack(t, out)
	if m.AuthenticatedData == (v == Steered) {
		t.Errorf("got AD %v in a reply that is %s; want it if nothing that was signed was changed", m.AuthenticatedData, v.text())
	}
	lines := []string{v.text()}
	for i, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, r := range rrs {
			line := strings.Join(strings.Fields(strings.Replace(r.String(), "\tIN\t", " ", 1)), " ")
			lines = append(lines, []string{"", "-", "+"}[i]+strings.ReplaceAll(line, `"`, ""))
		}
	}
	return lines
}

func (v Verdict) text() string { return [...]string{"untouched", "steered", "shortened", "passed"}[v] }

// madeSOA is the SOA record of a NODATA answer of ours.
func madeSOA(name string) string {
	return "-" + name + " 60 SOA " + name + " nobody.invalid. 1 3600 1200 604800 60"
}

func TestSteer(t *testing.T) {
	const negative = "-example. 300 SOA ns.example. h.example. 1 2 3 4 40"
	tests := []struct {
		name     string
		rules    dnstest.Rules
		relay    dnstest.Relay
		hints    HintMode
		world    dnstest.World
		question string
		want     []string
	}{
		{
			name: "a", rules: "cdn.example", question: "www.cdn.example. A",
			world: dnstest.World{"www.cdn.example. 300 A 192.0.2.1", "www.cdn.example. 300 A 192.0.2.2"},
			want:  []string{"steered", "www.cdn.example. 60 A 198.51.100.1", "www.cdn.example. 60 A 198.51.100.2"},
		}, {
			name: "low-ttl-stays", rules: "cdn.example", question: "www.cdn.example. A",
			world: dnstest.World{"www.cdn.example. 7 A 192.0.2.1"},
			want:  []string{"steered", "www.cdn.example. 7 A 198.51.100.1"},
		}, {
			name: "no-rule", rules: "other.example", question: "www.cdn.example. A",
			world: dnstest.World{"www.cdn.example. 300 A 192.0.2.1"},
			want:  []string{"untouched", "www.cdn.example. 300 A 192.0.2.1"},
		}, {
			name: "one-of-an-rrset", rules: "192.0.2.0/31", question: "www.example. A",
			world: dnstest.World{"www.example. 300 A 192.0.2.1", "www.example. 300 A 192.0.2.2"},
			want:  []string{"steered", "www.example. 60 A 198.51.100.1", "www.example. 60 A 192.0.2.2"},
		}, {
			name: "relay-address-is-not-steered-again", rules: "cdn.example", question: "www.cdn.example. A",
			world: dnstest.World{"www.cdn.example. 300 A 198.51.100.1"},
			want:  []string{"untouched", "www.cdn.example. 300 A 198.51.100.1"},
		}, {
			name: "chain-is-kept-and-any-name-counts", rules: "cdn.example", question: "Shop.example. A",
			world: dnstest.World{"Shop.example. 300 CNAME s.cdn.example.", "s.cdn.example. 200 CNAME edge.example.", "edge.example. 100 A 192.0.2.1"},
			want:  []string{"steered", "Shop.example. 300 CNAME s.cdn.example.", "s.cdn.example. 200 CNAME edge.example.", "edge.example. 60 A 198.51.100.1"},
		}, {
			name: "exception-in-the-chain", rules: "!bank.example cdn.example", question: "bank.example. A",
			world: dnstest.World{"bank.example. 300 CNAME s.cdn.example.", "s.cdn.example. 300 A 192.0.2.1"},
			want:  []string{"untouched", "bank.example. 300 CNAME s.cdn.example.", "s.cdn.example. 300 A 192.0.2.1"},
		}, {
			name: "aaaa", rules: "cdn.example", question: "www.cdn.example. AAAA",
			world: dnstest.World{"www.cdn.example. 300 AAAA 2001:db8:1::7", "www.cdn.example. 300 A 192.0.2.1"},
			want:  []string{"steered", "www.cdn.example. 60 AAAA 2001:db8:ab1e::7"},
		}, {
			name: "a-without-ipv4-pool-is-nodata", rules: "cdn.example", relay: dnstest.Relay{No4: true}, question: "www.example. A",
			world: dnstest.World{"www.example. 300 CNAME www.cdn.example.", "www.cdn.example. 300 A 192.0.2.1", "-cdn.example. 300 NS ns.cdn.example."},
			want:  []string{"steered", "www.example. 300 CNAME www.cdn.example.", madeSOA("www.cdn.example.")},
		}, {
			name: "aaaa-without-ipv6-pool-is-made-of-a", rules: "cdn.example", relay: dnstest.Relay{No6: true}, question: "www.example. AAAA",
			world: dnstest.World{"www.example. 300 CNAME www.cdn.example.", "www.cdn.example. 300 AAAA 2001:db8:1::7", "www.cdn.example. 50 A 192.0.2.1"},
			want:  []string{"steered", "www.example. 300 CNAME www.cdn.example.", "www.cdn.example. 50 AAAA 2001:db8:5ea1::1"},
		}, {
			name: "aaaa-that-nothing-stands-for-is-nodata", rules: "cdn.example", relay: dnstest.Relay{No6: true, NoSeal: true}, question: "www.cdn.example. AAAA",
			world: dnstest.World{"www.cdn.example. 300 AAAA 2001:db8:1::7", "www.cdn.example. 50 A 192.0.2.1"},
			want:  []string{"steered", madeSOA("www.cdn.example.")},
		}, {
			name: "aaaa-nodata-is-made-of-a", rules: "cdn.example", question: "www.cdn.example. AAAA",
			world: dnstest.World{"www.cdn.example. 300 A 192.0.2.1", "www.cdn.example. 300 A 192.0.2.2"},
			want:  []string{"steered", "www.cdn.example. 40 AAAA 2001:db8:5ea1::1", "www.cdn.example. 40 AAAA 2001:db8:5ea1::2"},
		}, {
			name: "aaaa-nodata-without-a-way-stays", rules: "cdn.example", relay: dnstest.Relay{NoSeal: true}, question: "www.cdn.example. AAAA",
			world: dnstest.World{"www.cdn.example. 300 A 192.0.2.1"},
			want:  []string{"untouched", negative},
		}, {
			name: "aaaa-nodata-of-unsteered-a-stays", rules: "192.0.2.0/32", question: "www.cdn.example. AAAA",
			world: dnstest.World{"www.cdn.example. 300 A 192.0.2.1"},
			want:  []string{"untouched", negative},
		}, {
			name: "aaaa-nodata-out-of-scope-is-not-looked-up", rules: "other.example", question: "www.example. AAAA",
			world: dnstest.World{"www.example. 300 A 192.0.2.1", "fail www.example. A"},
			want:  []string{"untouched", negative},
		}, {
			name: "aaaa-nodata-with-failing-a-is-kept-briefly", rules: "cdn.example", question: "www.cdn.example. AAAA",
			world: dnstest.World{"www.cdn.example. 300 A 192.0.2.1", "fail www.cdn.example. A"},
			want:  []string{"shortened", "-example. 5 SOA ns.example. h.example. 1 2 3 4 40"},
		}, {
			name: "nxdomain-passes", rules: "cdn.example", question: "no.cdn.example. AAAA",
			want: []string{"untouched", negative},
		}, {
			name: "ipv4-rule-leaves-aaaa", rules: "192.0.2.0/24", question: "www.example. AAAA",
			world: dnstest.World{"www.example. 300 AAAA 2001:db8:1::7", "www.example. 300 A 192.0.2.1"},
			want:  []string{"untouched", "www.example. 300 AAAA 2001:db8:1::7"},
		}, {
			name: "any-does-not-leak", rules: "cdn.example", relay: dnstest.Relay{No6: true}, question: "www.cdn.example. ANY",
			world: dnstest.World{"www.cdn.example. 300 A 192.0.2.1", "www.cdn.example. 300 AAAA 2001:db8:1::7", "www.cdn.example. 300 TXT x"},
			want:  []string{"steered", "www.cdn.example. 60 A 198.51.100.1", "www.cdn.example. 300 TXT x"},
		}, {
			name: "https-hints", rules: "cdn.example", question: "www.cdn.example. HTTPS",
			world: dnstest.World{"www.cdn.example. 300 HTTPS 1 . alpn=h3,h2 port=8443 ipv4hint=192.0.2.1,192.0.2.2 ech=AAEC ipv6hint=2001:db8:1::7 key65281=x"},
			want:  []string{"steered", "www.cdn.example. 60 HTTPS 1 . alpn=h3,h2 port=8443 ipv4hint=198.51.100.1,198.51.100.2 ech=AAEC ipv6hint=2001:db8:ab1e::7 key65281=x"},
		}, {
			name: "https-hints-stripped", rules: "cdn.example", hints: HintsStrip, question: "www.cdn.example. HTTPS",
			world: dnstest.World{"www.cdn.example. 300 HTTPS 1 . mandatory=alpn,ipv4hint alpn=h2 ipv4hint=192.0.2.1 ech=AAEC ipv6hint=2001:db8:1::7"},
			want:  []string{"steered", "www.cdn.example. 60 HTTPS 1 . mandatory=alpn alpn=h2 ech=AAEC"},
		}, {
			name: "https-hints-of-others-are-not-stripped", rules: "192.0.2.1/32", hints: HintsStrip, question: "www.example. HTTPS",
			world: dnstest.World{"www.example. 300 HTTPS 1 . ipv4hint=192.0.2.1,192.0.2.2"},
			want:  []string{"steered", "www.example. 60 HTTPS 1 . ipv4hint=192.0.2.2"},
		}, {
			name: "https-mandatory-that-is-empty-then", rules: "cdn.example", relay: dnstest.Relay{No4: true}, question: "www.cdn.example. HTTPS",
			world: dnstest.World{"www.cdn.example. 300 HTTPS 1 . mandatory=ipv4hint ipv4hint=192.0.2.1 ech=AAEC"},
			want:  []string{"steered", "www.cdn.example. 60 HTTPS 1 . ech=AAEC"},
		}, {
			name: "https-without-hints-stays", rules: "cdn.example", question: "www.cdn.example. HTTPS",
			world: dnstest.World{"www.cdn.example. 300 HTTPS 1 . alpn=h2 ech=AAEC", "www.cdn.example. 300 RRSIG HTTPS 13 3 300 20300101000000 20200101000000 1 example. AAAA"},
			want:  []string{"untouched", "www.cdn.example. 300 HTTPS 1 . alpn=h2 ech=AAEC", "www.cdn.example. 300 RRSIG HTTPS 13 3 300 20300101000000 20200101000000 1 example. AAAA"},
		}, {
			name: "https-behind-cname", rules: "cdn.example", question: "shop.example. HTTPS",
			world: dnstest.World{"shop.example. 300 CNAME s.cdn.example.", "s.cdn.example. 300 HTTPS 1 . ipv4hint=192.0.2.1"},
			want:  []string{"steered", "shop.example. 300 CNAME s.cdn.example.", "s.cdn.example. 60 HTTPS 1 . ipv4hint=198.51.100.1"},
		}, {
			name: "https-target-decides", rules: "cdn.example", question: "shop.example. HTTPS",
			world: dnstest.World{"shop.example. 30 HTTPS 1 s.cdn.example. ipv4hint=192.0.2.1"},
			want:  []string{"steered", "shop.example. 30 HTTPS 1 s.cdn.example. ipv4hint=198.51.100.1"},
		}, {
			name: "https-by-ech-of-the-record", rules: "ech", question: "shop.example. HTTPS",
			world: dnstest.World{"shop.example. 30 HTTPS 1 . ipv4hint=192.0.2.1", "shop.example. 30 HTTPS 2 . ipv4hint=192.0.2.2 ech=AAEC", "fail shop.example. HTTPS"},
			want:  []string{"steered", "shop.example. 30 HTTPS 1 . ipv4hint=198.51.100.1", "shop.example. 30 HTTPS 2 . ipv4hint=198.51.100.2 ech=AAEC"},
		}, {
			name: "attrleaf", rules: "shop.example", question: "_4443._https.shop.example. HTTPS",
			world: dnstest.World{"_4443._https.shop.example. 30 HTTPS 1 . ipv4hint=192.0.2.1"},
			want:  []string{"steered", "_4443._https.shop.example. 30 HTTPS 1 . ipv4hint=198.51.100.1"},
		}, {
			name: "svcb", rules: "isp.example", question: "_dns.isp.example. SVCB",
			world: dnstest.World{"_dns.isp.example. 30 SVCB 1 dns.isp.example. alpn=dot ipv6hint=2001:db8:1::7"},
			want:  []string{"steered", "_dns.isp.example. 30 SVCB 1 dns.isp.example. alpn=dot ipv6hint=2001:db8:ab1e::7"},
		}, {
			name: "additional", rules: "shop.example", question: "shop.example. HTTPS",
			world: dnstest.World{
				"shop.example. 30 HTTPS 1 edge.example. alpn=h2", "+edge.example. 300 A 192.0.2.1",
				"+edge.example. 300 AAAA 2001:db8:1::7", "+other.example. 300 A 192.0.2.3", "+edge.example. 300 TXT x",
			},
			want: []string{
				"steered", "shop.example. 30 HTTPS 1 edge.example. alpn=h2", "+edge.example. 60 A 198.51.100.1",
				"+edge.example. 60 AAAA 2001:db8:ab1e::7", "+other.example. 300 A 192.0.2.3", "+edge.example. 300 TXT x",
			},
		}, {
			name: "additional-behind-alias", rules: "shop.example", question: "shop.example. HTTPS",
			world: dnstest.World{
				"shop.example. 30 HTTPS 0 alias.example.", "+alias.example. 30 CNAME c.example.",
				"+c.example. 30 HTTPS 1 . ipv4hint=192.0.2.1", "+c.example. 30 A 192.0.2.1",
			},
			want: []string{
				"steered", "shop.example. 30 HTTPS 0 alias.example.", "+alias.example. 30 CNAME c.example.",
				"+c.example. 30 HTTPS 1 . ipv4hint=198.51.100.1", "+c.example. 30 A 198.51.100.1",
			},
		}, {
			name: "additional-of-mx-by-its-own-name", rules: "cdn.example", question: "example. MX",
			world: dnstest.World{"example. 300 MX 10 mail.cdn.example.", "+mail.cdn.example. 300 A 192.0.2.1"},
			want:  []string{"steered", "example. 300 MX 10 mail.cdn.example.", "+mail.cdn.example. 60 A 198.51.100.1"},
		}, {
			name: "duplicate-goes", rules: "cdn.example", question: "www.cdn.example. A",
			world: dnstest.World{"www.cdn.example. 300 A 192.0.2.1", "+www.cdn.example. 300 A 192.0.2.1"},
			want:  []string{"steered", "www.cdn.example. 60 A 198.51.100.1"},
		}, {
			name: "signatures-of-the-changed-go", rules: "cdn.example", question: "www.example. A",
			world: dnstest.World{
				"www.example. 300 CNAME www.cdn.example.", "www.example. 300 RRSIG CNAME 13 2 300 20300101000000 20200101000000 1 example. AAAA",
				"www.cdn.example. 300 A 192.0.2.1", "www.cdn.example. 300 RRSIG A 13 3 300 20300101000000 20200101000000 1 example. AAAA",
				"-www.cdn.example. 300 RRSIG A 13 3 300 20300101000000 20200101000000 1 example. AAAA", "-cdn.example. 300 NSEC x.cdn.example. A RRSIG NSEC",
			},
			want: []string{"steered", "www.example. 300 CNAME www.cdn.example.", "www.cdn.example. 60 A 198.51.100.1", "-cdn.example. 300 NSEC x.cdn.example. A RRSIG NSEC"},
		}, {
			name: "mapped-aaaa-is-the-ipv4-address", rules: "192.0.2.1/32", question: "www.example. AAAA",
			world: dnstest.World{"www.example. 300 AAAA ::ffff:192.0.2.1"},
			want:  []string{"steered", "www.example. 60 AAAA 2001:db8:5ea1::1"},
		}, {
			name: "ech-a", rules: "ech", question: "www.example. A",
			world: dnstest.World{"www.example. 300 A 192.0.2.1", "www.example. 300 HTTPS 1 . ech=AAEC"},
			want:  []string{"steered", "www.example. 60 A 198.51.100.1"},
		}, {
			name: "ech-a-without", rules: "ech", question: "www.example. A",
			world: dnstest.World{"www.example. 300 A 192.0.2.1", "www.example. 300 HTTPS 1 . alpn=h2"},
			want:  []string{"untouched", "www.example. 300 A 192.0.2.1"},
		}, {
			name: "ech-aaaa-made-of-a", rules: "ech", question: "www.example. AAAA",
			world: dnstest.World{"www.example. 300 A 192.0.2.1", "www.example. 300 HTTPS 1 . ech=AAEC"},
			want:  []string{"steered", "www.example. 40 AAAA 2001:db8:5ea1::1"},
		}, {
			name: "ech-behind-cname-and-alias", rules: "ech", question: "www.example. A",
			world: dnstest.World{
				"www.example. 300 CNAME shop.example.", "shop.example. 300 A 192.0.2.1", "shop.example. 300 HTTPS 0 alias.example.",
				"alias.example. 300 HTTPS 0 last.example.", "last.example. 300 HTTPS 1 . ech=AAEC",
			},
			want: []string{"steered", "www.example. 300 CNAME shop.example.", "shop.example. 60 A 198.51.100.1"},
		}, {
			name: "ech-of-the-name-behind-attrleaf", rules: "ech", question: "_4443._https.www.example. HTTPS",
			world: dnstest.World{"_4443._https.www.example. 30 HTTPS 1 . ipv4hint=192.0.2.1", "www.example. 300 HTTPS 1 . ech=AAEC"},
			want:  []string{"steered", "_4443._https.www.example. 30 HTTPS 1 . ipv4hint=198.51.100.1"},
		}, {
			name: "ech-of-other-names-is-not-looked-up", rules: "!bank.example cdn.example ech", question: "example. MX",
			world: dnstest.World{
				"example. 300 MX 10 mail.example.", "+mail.example. 300 A 192.0.2.1", "+mail.bank.example. 300 A 192.0.2.2",
				"fail mail.example. HTTPS",
			},
			want: []string{"shortened", "example. 300 MX 10 mail.example.", "+mail.bank.example. 300 A 192.0.2.2"},
		}, {
			name: "ech-alias-loop-ends", rules: "ech", question: "www.example. A",
			world: dnstest.World{"www.example. 300 A 192.0.2.1", "www.example. 300 HTTPS 0 b.example.", "b.example. 300 HTTPS 0 www.example."},
			want:  []string{"untouched", "www.example. 300 A 192.0.2.1"},
		}, {
			name: "ech-unknown-is-none-for-a-short-time", rules: "ech", question: "www.example. A",
			world: dnstest.World{"www.example. 300 A 192.0.2.1", "fail www.example. HTTPS"},
			want:  []string{"shortened", "www.example. 5 A 192.0.2.1"},
		}, {
			name: "cname-loop-ends", rules: "cdn.example", question: "a.cdn.example. A",
			world: dnstest.World{"a.cdn.example. 300 CNAME b.cdn.example.", "b.cdn.example. 300 CNAME a.cdn.example."},
			want: slices.Concat([]string{"untouched"}, slices.Repeat([]string{
				"a.cdn.example. 300 CNAME b.cdn.example.", "b.cdn.example. 300 CNAME a.cdn.example.",
			}, 10), []string{negative}),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := steererFor(tt.rules)
			s.config.Relay, s.config.Hints = &tt.relay, tt.hints
			if diff := cmp.Diff(tt.want, s.ask(t, tt.world, tt.question)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.question, diff)
			}
			for _, ttl := range tt.relay.Asked {
				if ttl > DefaultTTL {
					t.Errorf("the relay was asked for %v; want no more than %v", ttl, DefaultTTL)
				}
			}
		})
	}
}

// TestSteerAgrees: A, AAAA and HTTPS of a name, which clients ask at once, carry the same relay addresses.
func TestSteerAgrees(t *testing.T) {
	w := dnstest.World{
		"www.example. 300 A 192.0.2.1", "www.example. 300 A 192.0.2.2", "www.example. 300 AAAA 2001:db8:1::7",
		"www.example. 300 HTTPS 1 . ipv4hint=192.0.2.1,192.0.2.2 ech=AAEC ipv6hint=2001:db8:1::7",
	}
	for _, rules := range []dnstest.Rules{"www.example", "ech", "192.0.2.0/31 2001:db8:1::/48"} {
		s := steererFor(rules)
		var direct []string
		for _, question := range []string{"www.example. A", "www.example. AAAA"} {
			for _, line := range s.ask(t, w, question)[1:] {
				direct = append(direct, line[strings.LastIndex(line, " ")+1:])
			}
		}
		https := s.ask(t, w, "www.example. HTTPS")[1]
		want := "www.example. 60 HTTPS 1 . ipv4hint=" + direct[0] + "," + direct[1] + " ech=AAEC ipv6hint=" + direct[2]
		if https != want {
			t.Errorf("rules %s: got %s; want %s", rules, https, want)
		}
	}
}

// TestSteerDead has addresses that the relay cannot reach. They are left out as long as another one is there, unless
// they are not the relay's at all.
func TestSteerDead(t *testing.T) {
	w := dnstest.World{
		"two.cdn.example. 300 A 192.0.2.1", "two.cdn.example. 300 A 192.0.2.2",
		"all.cdn.example. 300 A 192.0.2.1", "all.cdn.example. 300 A 192.0.2.3",
		"two.cdn.example. 300 HTTPS 1 . ipv4hint=192.0.2.1,192.0.2.2",
		"six.cdn.example. 300 AAAA 2001:db8:1::1", "six.cdn.example. 300 AAAA 2001:db8:1::2",
		"both.cdn.example. 300 AAAA 2001:db8:1::1", "both.cdn.example. 300 A 192.0.2.2",
		"four.cdn.example. 300 A 192.0.2.1", "four.cdn.example. 300 AAAA 2001:db8:1::2",
		"none.cdn.example. 300 A 192.0.2.1", "none.cdn.example. 300 AAAA 2001:db8:1::1",
		"other.example. 300 A 192.0.2.1", "other.example. 300 A 192.0.2.2",
	}
	s := steererFor("cdn.example")
	s.config.Relay = &dnstest.Relay{Died: []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8:1::1"),
	}}
	for question, want := range map[string][]string{
		"two.cdn.example. A":     {"steered", "two.cdn.example. 60 A 198.51.100.2"},
		"two.cdn.example. AAAA":  {"steered", "two.cdn.example. 40 AAAA 2001:db8:5ea1::2"},
		"two.cdn.example. HTTPS": {"steered", "two.cdn.example. 60 HTTPS 1 . ipv4hint=198.51.100.2"},
		"all.cdn.example. A":     {"steered", "all.cdn.example. 60 A 198.51.100.1", "all.cdn.example. 60 A 198.51.100.3"},
		"six.cdn.example. AAAA":  {"steered", "six.cdn.example. 60 AAAA 2001:db8:ab1e::2"},
		"both.cdn.example. AAAA": {"steered", "both.cdn.example. 60 AAAA 2001:db8:5ea1::2"},
		"four.cdn.example. A":    {"steered", madeSOA("four.cdn.example.")},
		"none.cdn.example. AAAA": {"steered", "none.cdn.example. 60 AAAA 2001:db8:ab1e::1"},
		"other.example. A":       {"untouched", "other.example. 300 A 192.0.2.1", "other.example. 300 A 192.0.2.2"},
	} {
		if diff := cmp.Diff(want, s.ask(t, w, question)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", question, diff)
		}
	}
}

func TestSteerFailure(t *testing.T) {
	w := dnstest.World{
		"www.cdn.example. 300 A 192.0.2.1", "www.cdn.example. 3 TXT x",
		"www.cdn.example. 300 HTTPS 1 . ipv4hint=192.0.2.1", "+x.example. 300 A 192.0.2.2",
	}
	exhausted := errors.New("no address left")
	t.Run("pass", func(t *testing.T) {
		s := steererFor("cdn.example")
		s.config.Relay = &dnstest.Relay{Err: exhausted}
		want := []string{"passed", "www.cdn.example. 5 A 192.0.2.1", "+x.example. 5 A 192.0.2.2"}
		if diff := cmp.Diff(want, s.ask(t, w, "www.cdn.example. A")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("aaaa-made-of-a", func(t *testing.T) {
		s := steererFor("cdn.example")
		s.config.Relay = &dnstest.Relay{Err: exhausted}
		want := []string{"passed", "-example. 5 SOA ns.example. h.example. 1 2 3 4 40", "+x.example. 5 A 192.0.2.2"}
		if diff := cmp.Diff(want, s.ask(t, w, "www.cdn.example. AAAA")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("servfail", func(t *testing.T) {
		s := steererFor("cdn.example")
		s.config.Relay, s.config.OnFailure = &dnstest.Relay{Err: exhausted}, FailServfail
		for _, qtype := range []uint16{dns.TypeA, dns.TypeHTTPS, dns.TypeAAAA} {
			_, err := s.Apply(t.Context(), Request{Response: dnstest.Pack(t, w.Response("www.cdn.example.", qtype)), Lookup: w.Lookup(t)})
			if !errors.Is(err, ErrRelayFailed) || !errors.Is(err, exhausted) {
				t.Errorf("%s: got %v; want %v", dns.TypeToString[qtype], err, ErrRelayFailed)
			}
		}
	})
}

// BenchmarkSteer is what steering adds to a question that is not in the cache.
func BenchmarkSteer(b *testing.B) {
	w := dnstest.World{
		"www.shop.example. 300 CNAME s.cdn.example.", "s.cdn.example. 300 A 192.0.2.1", "s.cdn.example. 300 A 192.0.2.2",
	}
	reply := dnstest.Pack(b, w.Response("www.shop.example.", dns.TypeA))
	for name, rules := range map[string]dnstest.Rules{"steered": "cdn.example", "untouched": "other.example"} {
		b.Run(name, func(b *testing.B) {
			s := steererFor(rules)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Apply(b.Context(), Request{Response: reply, Lookup: nil}); err != nil {
					b.Fatal(err)
				}
				s.config.Relay = new(dnstest.Relay) // the old one remembers every question
			}
		})
	}
}

// TestOneCommit has the addresses of a response committed once, all together, and none given out if that fails.
func TestOneCommit(t *testing.T) {
	response := hostile(t, dns.TypeA, 0, manyRecords(50, ". 300 A 192.0.%[2]d.%[3]d")...)
	for _, failure := range []error{nil, errors.New("no space left on device")} {
		for _, mode := range []FailMode{FailPass, FailServfail} {
			relay := &dnstest.Relay{CommitErr: failure}
			s, err := New(Config{Policy: dnstest.Rules("."), Relay: relay, OnFailure: mode}, nil, func(string) {})
			if err != nil {
				t.Fatal(err)
			}
			res, err := s.Apply(t.Context(), Request{Response: response})
			if relay.Commits != 1 {
				t.Errorf("got %d commits; want 1", relay.Commits)
			}
			want := Steered
			if failure != nil && mode == FailPass {
				want = Passed
			}
			if failed := failure != nil && mode == FailServfail; failed != errors.Is(err, ErrRelayFailed) || !failed && res.Verdict != want {
				t.Errorf("failure %v, mode %d: got verdict %d, %v; want %d", failure, mode, res.Verdict, err, want)
			}
		}
	}
}
