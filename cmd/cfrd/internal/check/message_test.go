package check

import (
	"testing"

	"github.com/miekg/dns"
)

// FuzzParseMessage checks that no reply makes the verifier panic, and that what the DNS library accepts is accepted
// with the same number of records.
func FuzzParseMessage(f *testing.F) {
	m := Question(discoveryName, dns.TypeSVCB)
	m.Response = true
	m.Answer = append(m.Answer, &dns.SVCB{
		Hdr:      dns.RR_Header{Name: discoveryName, Rrtype: dns.TypeSVCB, Class: dns.ClassINET},
		Priority: 1, Target: "dns.example.", Value: []dns.SVCBKeyValue{&dns.SVCBAlpn{Alpn: []string{"dot"}}},
	})
	seed, _ := m.Pack()
	f.Add(seed)
	f.Add(seed[:len(seed)-3])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseMessage(b)
		var oracle dns.Msg
		if oracle.Unpack(b) != nil || oracle.Rcode > 0xf {
			return
		}
		// The library stops at the end of the octets whatever the header counts.
		counts := [3]int{len(oracle.Answer), len(oracle.Ns), len(oracle.Extra)}
		if err == nil && (len(got.answer) != counts[0] || len(got.extra) != counts[2]) {
			t.Errorf("got %d and %d records; want %d and %d", len(got.answer), len(got.extra), counts[0], counts[2])
		}
	})
}
