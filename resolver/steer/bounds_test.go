package steer

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// hostile returns a response to qtype with names CNAMEs of as many labels as fit, and records at the end of the chain.
func hostile(tb testing.TB, qtype uint16, chain int, records ...dns.RR) []byte {
	tb.Helper()
	name := func(i int) string { return strings.Repeat("a.", 120) + fmt.Sprintf("%c.example.", 'b'+i) }
	m := new(dns.Msg).SetQuestion(name(0), qtype)
	m.Response, m.Compress = true, true
	for i := range chain {
		m.Answer = append(m.Answer, &dns.CNAME{
			Hdr:    dns.RR_Header{Name: name(i), Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 300},
			Target: name(i + 1),
		})
	}
	for _, rr := range records {
		rr = dns.Copy(rr)
		if rr.Header().Name == "." {
			rr.Header().Name = name(chain)
		}
		m.Answer = append(m.Answer, rr)
	}
	return dnstest.Pack(tb, m)
}

// manyHints returns an HTTPS record with n addresses in its ipv4hint.
func manyHints(n int) *dns.HTTPS {
	hint := new(dns.SVCBIPv4Hint)
	for i := range n {
		hint.Hint = append(hint.Hint, []byte{192, 0, byte(i >> 8), byte(i)})
	}
	return &dns.HTTPS{SVCB: dns.SVCB{
		Hdr:      dns.RR_Header{Name: ".", Rrtype: dns.TypeHTTPS, Class: dns.ClassINET, Ttl: 300},
		Priority: 1, Target: ".", Value: []dns.SVCBKeyValue{hint},
	}}
}

// manyRecords returns n records that make makes of numbers.
func manyRecords(n int, format string) (rrs []dns.RR) {
	for i := range n {
		rrs = append(rrs, dnstest.RR(fmt.Sprintf(format, i, i>>8, i&0xff)))
	}
	return rrs
}

// hostileAnswers are as expensive as an answer can be, each in its own way.
func hostileAnswers(tb testing.TB) map[string][]byte {
	return map[string][]byte{
		"hints-behind-a-chain":  hostile(tb, dns.TypeHTTPS, 13, manyHints(14800)),
		"addresses":             hostile(tb, dns.TypeA, 13, manyRecords(3000, "%[1]d.x.example. 300 A 192.0.%[2]d.%[3]d")...),
		"addresses-of-the-name": hostile(tb, dns.TypeA, 13, manyRecords(3000, ". 300 A 192.0.%[2]d.%[3]d")...),
		"records-that-point-away": hostile(tb, dns.TypeHTTPS, 13,
			manyRecords(400, ". 300 HTTPS 1 "+strings.Repeat("b.", 50)+"%[1]d.example. ipv4hint=192.0.%[2]d.%[3]d")...),
		"names": hostile(tb, dns.TypeA, 0,
			manyRecords(250, strings.Repeat("b.", 115)+"%[1]d.example. 300 A 192.0.%[2]d.%[3]d")...),
	}
}

// TestCostIsBounded: what is counted is labels, calls of the policy and new leases, not time.
func TestCostIsBounded(t *testing.T) {
	for name, response := range hostileAnswers(t) {
		for _, rules := range []dnstest.Rules{"nothing.example", "ech", ".", "!x.example 192.0.0.0/16 ech"} {
			t.Run(name+"-"+string(rules), func(t *testing.T) {
				policy, relay := &dnstest.Counted{Policy: rules}, &dnstest.Relay{Size: 1 << 16}
				s, err := New(Config{Policy: policy, Relay: relay}, nil, func(string) {})
				if err != nil {
					t.Fatal(err)
				}
				lookups := 0
				lookup := func(context.Context, string, uint16) ([]byte, error) { lookups++; return response, nil }
				res, err := s.Apply(t.Context(), Request{Response: response, Lookup: lookup})
				if err != nil {
					t.Fatal(err)
				}
				if policy.Labels > maxLabels || policy.Calls > 2*maxAddresses || relay.Leased() > maxNew || lookups > maxAliases+1 {
					t.Errorf("got %d labels, %d calls, %d new leases, %d lookups; want no more than %d, %d, %d, %d", policy.Labels,
						policy.Calls, relay.Leased(), lookups, maxLabels, 2*maxAddresses, maxNew, maxAliases+1)
				}
				checkCut(t, res, rules)
			})
		}
	}
}

// checkCut checks that what is left of a hostile answer goes soon, and leaks nothing.
func checkCut(t *testing.T, res Result, rules dnstest.Rules) {
	t.Helper()
	m := dnstest.Unpack(t, res.Octets)
	for _, rr := range m.Answer {
		if res.Cut && rr.Header().Ttl > unsureTTL {
			t.Errorf("got %s; want a TTL of at most %d", rr, unsureTTL)
		}
		if a, ok := rr.(*dns.A); ok && rules == "." {
			addr, _ := netip.AddrFromSlice(a.A)
			if netip.MustParsePrefix("192.0.0.0/16").Contains(addr) {
				t.Errorf("%s leaks", rr)
			}
		}
	}
}

// TestFirstAddressIsHad: the bounds leave something of an answer that goes beyond them.
func TestFirstAddressIsHad(t *testing.T) {
	s := steererFor(".")
	s.config.Relay = &dnstest.Relay{Size: 1 << 16}
	res, err := s.Apply(t.Context(), Request{Response: hostileAnswers(t)["addresses-of-the-name"], Lookup: nil})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	for _, rr := range dnstest.Unpack(t, res.Octets).Answer {
		if rr.Header().Rrtype == dns.TypeA {
			n++
		}
	}
	if n != maxNew || !res.Cut || res.Verdict != Steered {
		t.Errorf("got %d addresses, cut %v, %s; want %d, cut, steered", n, res.Cut, res.Verdict.text(), maxNew)
	}
}

// TestUnreachableHintsStay: what no rule can steer is nobody's expense, and is left as it is.
func TestUnreachableHintsStay(t *testing.T) {
	res, err := steererFor("nothing.example").Apply(t.Context(), Request{Response: hostileAnswers(t)["hints-behind-a-chain"], Lookup: nil})
	if err != nil || res.Verdict != Untouched || res.Cut {
		t.Errorf("got %v, %v, cut %v; want it untouched", err, res.Verdict.text(), res.Cut)
	}
}

// BenchmarkHostile is the most that steering can be made to work for one answer.
func BenchmarkHostile(b *testing.B) {
	for name, response := range hostileAnswers(b) {
		b.Run(name, func(b *testing.B) {
			s := steererFor("ech .")
			lookup := func(context.Context, string, uint16) ([]byte, error) { return response, nil }
			b.SetBytes(int64(len(response)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Apply(b.Context(), Request{Response: response, Lookup: lookup}); err != nil {
					b.Fatal(err)
				}
				s.config.Relay = new(dnstest.Relay) // the old one remembers every question
			}
		})
	}
}
