package resolver

import (
	"context"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// bare answers from records without following or making anything: what is at the name, and the DNAME above it.
func bare(records ...string) *dnstest.Upstream {
	return &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		r := new(dns.Msg).SetReply(m)
		for _, line := range records {
			rr := dnstest.RR(line)
			owner, q := strings.ToLower(rr.Header().Name), m.Question[0]
			switch rtype := rr.Header().Rrtype; {
			case rtype == dns.TypeDNAME && owner != q.Name && dns.IsSubDomain(owner, q.Name), owner == q.Name && rtype == q.Qtype:
				r.Answer = append(r.Answer, rr)
			}
		}
		if len(r.Answer) == 0 {
			r.Ns = append(r.Ns, dnstest.RR("example. 300 SOA ns.example. h.example. 1 2 3 4 40"))
		}
		return r, nil
	}}
}

// TestDNAME: clients get the CNAME that a DNAME stands for, and what it leads to, and are steered by all names of that.
func TestDNAME(t *testing.T) {
	records := []string{
		"old.example. 300 DNAME new.example.", "www.new.example. 300 A 192.0.2.1", "www.new.example. 300 AAAA 2001:db8:1::7",
		"two.example. 300 DNAME old.example.", "loop.example. 300 DNAME a.loop.example.",
		"Mixed.example. 300 DNAME New.example.", "long.example. 300 DNAME " + strings.Repeat("a123456789.", 20) + "example.",
	}
	long := strings.Repeat("b.", 20) + "long.example."
	for _, tt := range []struct {
		name, rules, question, want string
	}{
		{"unsteered", "nothing.example", "www.old.example. A", "NOERROR DNAME CNAME 192.0.2.1"},
		{"steered-by-the-target", "new.example", "www.old.example. A", "NOERROR DNAME CNAME 198.51.100.1"},
		{"steered-by-the-owner", "old.example", "www.old.example. A", "NOERROR DNAME CNAME 198.51.100.1"},
		{"aaaa", "new.example", "www.old.example. AAAA", "NOERROR DNAME CNAME 2001:db8:ab1e::7"},
		{"twice", "new.example", "www.two.example. A", "NOERROR DNAME CNAME DNAME CNAME 198.51.100.1"},
		{"case", "new.example", "www.mixed.example. A", "NOERROR DNAME CNAME 198.51.100.1"},
		{"nodata", "new.example", "www.old.example. TXT", "NOERROR DNAME CNAME"},
		{"cname-asked", "new.example", "www.old.example. CNAME", "NOERROR CNAME"},
		{"dname-asked", "new.example", "old.example. DNAME", "NOERROR DNAME"},
		{"no-end", "new.example", "www.loop.example. A", "SERVFAIL"},
		{"too-long", "new.example", long + " A", "YXDOMAIN DNAME"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := testHandler(t, Config{Settings: Settings{Steering: &Steering{
				Policy: dnstest.Rules(tt.rules), Relay: new(dnstest.Relay), Clients: everybody,
			}}}, bare(records...))
			for range 2 { // the second time from the cache
				if got := addressesFor(t, h, tt.question, nil); got != tt.want {
					t.Errorf("got %s; want %s", got, tt.want)
				}
			}
		})
	}
}
