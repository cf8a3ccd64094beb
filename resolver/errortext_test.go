package resolver

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// errorTextIn returns the EXTRA-TEXT of the Extended DNS Error of m, or "none" if it has none.
func errorTextIn(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.ExtraText
			}
		}
	}
	return "none"
}

// withError returns a response to m with an Extended DNS Error.
func withError(m *dns.Msg, rcode int, text string) *dns.Msg {
	r := new(dns.Msg).SetRcode(m, rcode)
	r.SetEdns0(1232, false).IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus, ExtraText: text}}
	return r
}

// TestErrorTextIsPassedOn has an upstream say what is wrong, and asks over every transport, twice each: what the cache has
// says the same.
func TestErrorTextIsPassedOn(t *testing.T) {
	long := strings.Repeat("ä", 200)
	for name, row := range map[string]struct {
		text, want string
		rcode      int
	}{
		"failure":            {"no keys have a DS with algorithm 13", "no keys have a DS with algorithm 13", dns.RcodeServerFailure},
		"answer":             {"stale", "stale", dns.RcodeSuccess},
		"utf-8":              {"Schlüssel fehlt", "Schlüssel fehlt", dns.RcodeServerFailure},
		"ends-as-in-c":       {"expired\x00", "expired", dns.RcodeServerFailure},
		"empty":              {"", "", dns.RcodeServerFailure},
		"not-utf-8":          {"\xff\xfe", "", dns.RcodeServerFailure},
		"control-characters": {"\x1b[2Jcleared\n", "", dns.RcodeServerFailure},
		"long":               {long, long[:160], dns.RcodeServerFailure},
		"long-at-odds":       {"x" + long, "x" + long[:158], dns.RcodeServerFailure},
	} {
		t.Run(name, func(t *testing.T) {
			up := &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
				r := withError(m, row.rcode, row.text)
				if row.rcode == dns.RcodeSuccess {
					r.Answer = []dns.RR{dnstest.RR(m.Question[0].Name + " 60 IN A 192.0.2.80")}
				}
				return r, nil
			}}
			h := testHandler(t, Config{}, up)
			for tr := range NumTransports {
				m := dnstest.Query("bogus.example.", dns.TypeA)
				m.SetEdns0(1232, false)
				for range 2 {
					if r, _ := ask(t, h, m, tr); errorTextIn(r) != row.want || edeIn(r) != int(dns.ExtendedErrorCodeDNSBogus) {
						t.Errorf("over %s: got %q; want %q", tr, errorTextIn(r), row.want)
					}
				}
			}
			if r, _ := ask(t, h, dnstest.Query("bogus.example.", dns.TypeA), UDP); r.IsEdns0() != nil {
				t.Errorf("without EDNS: got\n%v\nwant none", r)
			}
		})
	}
}

// TestErrorTextGivesWay has a response that fits into a datagram without the text only.
func TestErrorTextGivesWay(t *testing.T) {
	up := &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		r := withError(m, dns.RcodeSuccess, strings.Repeat("x", 150))
		for i := range 12 {
			r.Answer = append(r.Answer, dnstest.RR(m.Question[0].Name+" 60 IN A 192.0.2."+string(rune('1'+i/10))+string(rune('0'+i%10))))
		}
		return r, nil
	}}
	h := testHandler(t, Config{}, up)
	m := dnstest.Query("many.example.", dns.TypeA)
	m.SetEdns0(512, false)
	r, _ := ask(t, h, m, UDP)
	if r.Truncated || len(r.Answer) != 12 || errorTextIn(r) != "" {
		t.Errorf("got TC %t, %d records, text %q; want all records without the text", r.Truncated, len(r.Answer), errorTextIn(r))
	}
	if r, _ := ask(t, h, m, TCP); errorTextIn(r) == "" {
		t.Error("over TCP: got no text; want it")
	}
}

// saying is a Local that says what is wrong.
type saying struct{}

func (saying) Answer(q dns.Question, _, _ netip.Addr) (*dns.Msg, bool) {
	return withError(&dns.Msg{Question: []dns.Question{q}}, dns.RcodeNameError, "not here"), true
}

func TestErrorTextOfLocalSource(t *testing.T) {
	h := testHandler(t, Config{Settings: Settings{Local: []Local{saying{}}}}, &dnstest.Upstream{})
	m := dnstest.Query("x.test.", dns.TypeA)
	m.SetEdns0(1232, false)
	if r, _ := ask(t, h, m, UDP); errorTextIn(r) != "not here" || r.Rcode != dns.RcodeNameError {
		t.Errorf("got\n%v\nwant NXDOMAIN with the text", r)
	}
}
