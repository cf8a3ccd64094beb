package resolver

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// zone returns what answers from lines: "NAME TYPE: RECORD" in the Answer section, with "-" before RECORD in the
// Authority section and with "+" in the Additional section. What has no line is NODATA with an SOA record.
func zone(lines ...string) reply {
	return func(q *dns.Msg, _ bool) *dns.Msg {
		r := new(dns.Msg).SetReply(q)
		asked := strings.ToLower(q.Question[0].Name) + " " + dns.TypeToString[q.Question[0].Qtype] + ": "
		known := false
		for _, l := range lines {
			record, ok := strings.CutPrefix(l, asked)
			known = known || ok
			switch {
			case !ok:
			case record[0] == '-':
				r.Ns = append(r.Ns, dnstest.RR(record[1:]))
			case record[0] == '+':
				r.Extra = append(r.Extra, dnstest.RR(record[1:]))
			default:
				r.Answer = append(r.Answer, dnstest.RR(record))
			}
		}
		if !known {
			r.Ns = []dns.RR{dnstest.RR(". 60 IN SOA ns. root. 1 2 3 4 60")}
		}
		if q.IsEdns0() != nil {
			r.SetEdns0(1232, false)
		}
		return r
	}
}

// TestBesideTheAnswer has upstreams say more than the answer, or less: clients get the answer, the whole of it, and nothing
// else, from the upstream and from the cache.
func TestBesideTheAnswer(t *testing.T) {
	const (
		a    = "www.example. A: www.example. 300 IN A 198.51.100.1"
		evil = "victim.test. 300 IN A 203.0.113.66"
	)
	cert, roots := testCertificate(t)
	for name, row := range map[string]struct {
		lines  []string
		second []string // of another upstream, or nil for none
		qtype  uint16
		rcode  int
		want   []string // the answers, and what else there is
	}{
		"address-for-https": {
			[]string{"www.example. HTTPS: www.example. 300 IN A 203.0.113.66"}, nil, dns.TypeHTTPS, dns.RcodeSuccess, nil,
		},
		"address-for-https-and-a-second-upstream": {
			[]string{"www.example. HTTPS: www.example. 300 IN A 203.0.113.66"},
			[]string{"www.example. HTTPS: www.example. 300 IN HTTPS 1 . alpn=\"h2\""},
			dns.TypeHTTPS, dns.RcodeSuccess,
			[]string{"www.example. 300 IN HTTPS 1 . alpn=\"h2\""},
		},
		"unrelated": {
			[]string{a, "www.example. A: " + evil, "www.example. A: -" + evil, "www.example. A: +" + evil},
			nil,
			dns.TypeA, dns.RcodeSuccess,
			[]string{"www.example. 300 IN A 198.51.100.1"},
		},
		"referral": {
			[]string{"www.example. A: -example. 300 IN NS ns.example.", "www.example. A: +ns.example. 300 IN A 198.51.100.53"},
			nil,
			dns.TypeA, dns.RcodeServerFailure, nil,
		},
		"referral-and-a-second-upstream": {
			[]string{"www.example. A: -example. 300 IN NS ns.example."},
			[]string{a},
			dns.TypeA, dns.RcodeSuccess,
			[]string{"www.example. 300 IN A 198.51.100.1"},
		},
		"alias-alone": {
			[]string{"www.example. A: www.example. 300 IN CNAME a.test.", "a.test. A: a.test. 60 IN CNAME b.test.", "b.test. A: b.test. 60 IN A 198.51.100.2"},
			nil,
			dns.TypeA, dns.RcodeSuccess,
			[]string{"www.example. 300 IN CNAME a.test.", "a.test. 60 IN CNAME b.test.", "b.test. 60 IN A 198.51.100.2"},
		},
		"alias-to-nothing": {
			[]string{"www.example. A: www.example. 300 IN CNAME a.test."},
			nil,
			dns.TypeA, dns.RcodeSuccess,
			[]string{"www.example. 300 IN CNAME a.test.", ". 60 IN SOA ns. root. 1 2 3 4 60"},
		},
		"alias-to-a-referral": {
			[]string{"www.example. A: www.example. 300 IN CNAME a.test.", "a.test. A: -test. 300 IN NS ns.test."},
			nil,
			dns.TypeA, dns.RcodeServerFailure, nil,
		},
		"circle-in-one": {
			[]string{"www.example. A: www.example. 300 IN CNAME a.test.", "www.example. A: a.test. 300 IN CNAME www.example."},
			nil,
			dns.TypeA, dns.RcodeServerFailure, nil,
		},
		"circle-in-two": {
			[]string{"www.example. A: www.example. 300 IN CNAME a.test.", "a.test. A: a.test. 300 IN CNAME www.example."},
			nil,
			dns.TypeA, dns.RcodeServerFailure, nil,
		},
		"circle-behind": {
			[]string{"www.example. A: www.example. 300 IN CNAME a.test.", "a.test. A: a.test. 300 IN CNAME b.test.", "b.test. A: b.test. 300 IN CNAME a.test."},
			nil,
			dns.TypeA, dns.RcodeServerFailure, nil,
		},
		"alias-of-https": {
			[]string{"www.example. HTTPS: www.example. 300 IN CNAME a.test.", "a.test. HTTPS: a.test. 60 IN HTTPS 1 . alpn=\"h2\""},
			nil,
			dns.TypeHTTPS, dns.RcodeSuccess,
			[]string{"www.example. 300 IN CNAME a.test.", "a.test. 60 IN HTTPS 1 . alpn=\"h2\""},
		},
	} {
		for transport, serve := range map[string]func(reply) *brokenUpstream{
			"udp": func(r reply) *brokenUpstream { return serveUDP(t, loopback4, true, r) },
			"dot": func(r reply) *brokenUpstream { return serveTLS(t, loopback6, cert, roots, r) },
		} {
			t.Run(name+"/"+transport, func(t *testing.T) {
				t.Parallel()
				list := []*brokenUpstream{serve(zone(row.lines...))}
				if row.second != nil {
					list = append(list, serve(zone(row.second...)))
				}
				s := serverFor(t, nil, list...)
				for range 2 {
					r := askServer(t, s, "www.example.", row.qtype, false)
					var got []string
					for _, rr := range slices.Concat(r.Answer, r.Ns, r.Extra) {
						if rr.Header().Rrtype != dns.TypeOPT {
							got = append(got, strings.ReplaceAll(rr.String(), "\t", " "))
						}
					}
					if r.Rcode != row.rcode || !slices.Equal(got, row.want) {
						t.Errorf("got\n%v\nwant %s, %q", r, dns.RcodeToString[row.rcode], row.want)
					}
					if row.rcode == dns.RcodeServerFailure && edeIn(r) < 0 {
						t.Errorf("got\n%v\nwant it to say why", r)
					}
				}
			})
		}
	}
}
