package resolver

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// localTXT knows nothing of other types.
type localTXT struct{ localNames }

func (l localTXT) Answer(q dns.Question, client, local netip.Addr) (*dns.Msg, bool) {
	if q.Qtype != dns.TypeTXT {
		return nil, false
	}
	return l.localNames.Answer(q, client, local)
}

// TestPublicName asks as somebody who is not a client.
func TestPublicName(t *testing.T) {
	tests := map[string]struct {
		name  string
		qtype uint16
		rcode int
		txt   bool
	}{
		"public":                {"_acme-challenge.dns.example.", dns.TypeTXT, dns.RcodeSuccess, true},
		"in-capitals":           {"_ACME-Challenge.DNS.Example.", dns.TypeTXT, dns.RcodeSuccess, true},
		"type-that-nobody-has":  {"_acme-challenge.dns.example.", dns.TypeMX, dns.RcodeRefused, false},
		"any":                   {"_acme-challenge.dns.example.", dns.TypeANY, dns.RcodeRefused, false},
		"below":                 {"a._acme-challenge.dns.example.", dns.TypeTXT, dns.RcodeRefused, false},
		"above":                 {"dns.example.", dns.TypeTXT, dns.RcodeRefused, false},
		"of-another-source":     {"www.example.", dns.TypeTXT, dns.RcodeRefused, false},
		"of-the-upstream-cache": {"up.example.", dns.TypeTXT, dns.RcodeRefused, false},
		"root":                  {".", dns.TypeTXT, dns.RcodeRefused, false},
	}
	upstream := dnstest.Records("up.example. 300 IN TXT found", "_acme-challenge.dns.example. 300 IN MX 1 mail.example.")
	h := testHandler(t, Config{Settings: Settings{
		Local:  []Local{localNames("www.example.")},
		Public: &Public{"_acme-challenge.dns.example.", localTXT{"_acme-challenge.dns.example."}},
	}}, upstream)
	for _, name := range []string{"up.example.", "_acme-challenge.dns.example."} {
		for _, qtype := range []uint16{dns.TypeTXT, dns.TypeMX} {
			ask(t, h, dnstest.Query(name, qtype), UDP) // as a client, which fills the cache
		}
	}
	asked := upstream.Asked.Load()
	for name, test := range tests {
		for _, recursion := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				m := dnstest.Query(test.name, test.qtype)
				m.RecursionDesired = recursion
				q := &query{msg: dnstest.Pack(t, m), client: netip.MustParseAddrPort("203.0.113.1:53"), local: testLocal}
				out, how := h.answerNow(q, nil)
				if how == pending {
					out = h.answer(t.Context(), q, nil)
				}
				var r dns.Msg
				if err := r.Unpack(out); err != nil || r.Rcode != test.rcode || len(r.Answer) > 0 != test.txt {
					t.Errorf("got error %v,\n%v\nwant %s, with an answer: %t", err, &r, dns.RcodeToString[test.rcode], test.txt)
				}
			})
		}
	}
	if got := upstream.Asked.Load(); got != asked {
		t.Errorf("the upstream was asked %d times on behalf of outsiders; want never", got-asked)
	}
	if r, _ := ask(t, h, dnstest.Query("_acme-challenge.dns.example.", dns.TypeTXT), UDP); len(r.Answer) == 0 {
		t.Errorf("a client got\n%v\nwant the answer too", r)
	}
}

// TestRefusalDoesNotAllocate keeps a flood of outsiders cheap, with a public name to compare with.
func TestRefusalDoesNotAllocate(t *testing.T) {
	h := testHandler(t, Config{Settings: Settings{
		Public: &Public{"_acme-challenge.dns.example.", localNames("_acme-challenge.dns.example.")},
	}})
	q := &query{msg: dnstest.Pack(t, dnstest.Query("www.example.", dns.TypeA)), client: netip.MustParseAddrPort("203.0.113.1:53"), local: testLocal}
	dst := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { h.answerNow(q, dst) }); n > 0 {
		t.Errorf("got %v allocations; want none", n)
	}
}

func TestPublicNameErrors(t *testing.T) {
	for name, p := range map[string]*Public{
		"no-name":      {"..", localNames("www.example.")},
		"nobody-there": {"www.example.", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newForwarder(&Config{Settings: Settings{Public: p}}); err == nil {
				t.Error("got no error; want one")
			}
		})
	}
}
