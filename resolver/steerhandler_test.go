package resolver

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// steeringHandler returns a handler that steers by rules what w knows.
func steeringHandler(t *testing.T, steering Steering, w dnstest.World, local ...Local) *forwarder {
	t.Helper()
	steering.Clients = everybody
	return testHandler(t, Config{Settings: Settings{Steering: &steering, Local: local}}, w.Upstream())
}

// answerTo asks "NAME TYPE" and returns the RCODE and what the Answer section has, a word each: the data of an address
// record, else the type.
func addressesFor(t *testing.T, h *forwarder, question string, change func(*dns.Msg)) string {
	t.Helper()
	name, qtype, _ := strings.Cut(question, " ")
	m := dnstest.Query(name, dns.StringToType[qtype])
	if change != nil {
		change(m)
	}
	r, _ := ask(t, h, m, UDP)
	words := []string{dns.RcodeToString[r.Rcode]}
	for _, a := range r.Answer {
		switch a := a.(type) {
		case *dns.A:
			words = append(words, a.A.String())
		case *dns.AAAA:
			words = append(words, a.AAAA.String())
		default:
			words = append(words, dns.TypeToString[a.Header().Rrtype])
		}
	}
	return strings.Join(words, " ")
}

// TestTargetIsSteeredAfterItsAddressWasCached: somebody asked for the target by itself before the record that points
// to it was seen.
func TestTargetIsSteeredAfterItsAddressWasCached(t *testing.T) {
	w := dnstest.World{"shop.example. 300 HTTPS 1 edge.example. alpn=h2", "edge.example. 300 A 192.0.2.1"}
	h := steeringHandler(t, Steering{Policy: dnstest.Rules("shop.example"), Relay: new(dnstest.Relay)}, w)
	for _, step := range []struct{ question, want string }{
		{"edge.example. A", "NOERROR 192.0.2.1"},
		{"shop.example. HTTPS", "NOERROR HTTPS"},
		{"edge.example. A", "NOERROR 198.51.100.1"},
		{"edge.example. AAAA", "NOERROR 2001:db8:5ea1::1"},
	} {
		if got := addressesFor(t, h, step.question, nil); got != step.want {
			t.Errorf("%s: got %s; want %s", step.question, got, step.want)
		}
	}
	if err := h.update(Settings{
		Clients:  []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Steering: &Steering{Policy: dnstest.Rules("shop.example"), Relay: new(dnstest.Relay), Clients: everybody},
	}); err != nil {
		t.Fatal(err)
	}
	if got, want := addressesFor(t, h, "edge.example. A", nil), "NOERROR 198.51.100.1"; got != want {
		t.Errorf("after new settings: got %s; want %s", got, want)
	}
}

// cnames is a local source of CNAME records: "NAME TARGET".
type cnames string

func (c cnames) Answer(q dns.Question, client, local netip.Addr) (*dns.Msg, bool) {
	name, target, _ := strings.Cut(string(c), " ")
	if q.Name != name {
		return nil, false
	}
	hdr := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 60}
	return &dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}, Answer: []dns.RR{&dns.CNAME{Hdr: hdr, Target: target}}}, true
}

func TestLocalChainIsCompleted(t *testing.T) {
	w := dnstest.World{"c.cdn.example. 300 CNAME d.cdn.example.", "d.cdn.example. 300 A 192.0.2.1"}
	h := steeringHandler(t, Steering{Policy: dnstest.Rules("isp.example"), Relay: new(dnstest.Relay)}, w,
		cnames("www.isp.example. c.cdn.example."), cnames("www.other.example. C.cdn.example."), cnames("lost.example. nowhere.example."),
		cnames("loop.example. loop.example."))
	dnssec := func(m *dns.Msg) { m.SetEdns0(1232, true); m.CheckingDisabled = true }
	tests := []struct {
		name, question string
		change         func(*dns.Msg)
		want           string
	}{
		{"steered-by-the-local-name", "www.isp.example. A", nil, "NOERROR CNAME CNAME 198.51.100.1"},
		{"aaaa-made-of-a", "www.isp.example. AAAA", nil, "NOERROR CNAME CNAME 2001:db8:5ea1::1"},
		{"not-steered", "www.other.example. A", nil, "NOERROR CNAME CNAME 192.0.2.1"},
		{"not-steered-for-validators", "www.isp.example. A", dnssec, "NOERROR CNAME CNAME 192.0.2.1"},
		{"nodata", "www.other.example. TXT", nil, "NOERROR CNAME CNAME"},
		{"nxdomain", "lost.example. A", nil, "NXDOMAIN CNAME"},
		{"cname-asked", "www.isp.example. CNAME", nil, "NOERROR CNAME"},
		{"no-recursion", "www.isp.example. A", func(m *dns.Msg) { m.RecursionDesired = false }, "NOERROR CNAME"},
		{"loop-ends", "loop.example. A", nil, "NOERROR CNAME CNAME"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := addressesFor(t, h, tt.question, tt.change); got != tt.want {
				t.Errorf("got %s; want %s", got, tt.want)
			}
		})
	}
}

// TestRelayFailure: what clients see, and what is counted, if the relay cannot take a destination.
func TestRelayFailure(t *testing.T) {
	w := dnstest.World{"www.example. 300 A 192.0.2.1"}
	tests := []struct {
		name string
		mode FailMode
		want []string
	}{
		{"pass", FailPass, []string{"NOERROR 192.0.2.1", "5"}},
		{"servfail", FailServfail, []string{"SERVFAIL", "Not Ready"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			relay := &exhausted{}
			h := steeringHandler(t, Steering{Policy: dnstest.Rules("www.example"), Relay: relay, OnFailure: tt.mode}, w)
			m := dnstest.Query("www.example.", dns.TypeA)
			m.SetEdns0(1232, false)
			r, _ := ask(t, h, m, UDP)
			got := []string{dns.RcodeToString[r.Rcode]}
			if len(r.Answer) > 0 {
				got[0] += " " + r.Answer[0].(*dns.A).A.String()
				got = append(got, strings.Fields(r.Answer[0].String())[1])
			} else {
				got = append(got, dns.ExtendedErrorCodeToString[uint16(edeIn(r))])
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var s Stats
			h.stats(&s)
			if s.SteerFailed != 1 || s.Steered != 0 {
				t.Errorf("got SteerFailed %d, Steered %d; want 1, 0", s.SteerFailed, s.Steered)
			}
		})
	}
}

// exhausted is a relay that is well, but has no address left.
type exhausted struct{ dnstest.Relay }

func (*exhausted) RelayAddr(netip.Addr, bool, time.Duration) (netip.Addr, bool, error) {
	return netip.Addr{}, false, errors.New("no relay address left")
}
