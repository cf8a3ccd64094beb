package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// askFrom asks "NAME TYPE" from client and returns the data of the first record, or the RCODE if there is none.
func askFrom(t *testing.T, h *forwarder, client, name string, qtype uint16) string {
	t.Helper()
	q := &query{msg: dnstest.Pack(t, dnstest.Query(name, qtype)), client: netip.AddrPortFrom(netip.MustParseAddr(client), 5353), local: testLocal, transport: UDP}
	out, how := h.answerNow(q, nil)
	if how == pending {
		out = h.answer(t.Context(), q, nil)
	}
	m := dnstest.Unpack(t, out)
	if len(m.Answer) == 0 {
		return dns.RcodeToString[m.Rcode]
	}
	if h, ok := m.Answer[0].(*dns.HTTPS); ok {
		return strconv.Itoa(int(h.Priority))
	}
	return dns.Field(m.Answer[0], 1)
}

// TestForeignTarget: what somebody publishes about the name of somebody else decides nothing for those who did not ask
// for it, nor for longer than it was given for, nor against a rule.
func TestForeignTarget(t *testing.T) {
	w := dnstest.World{
		"evil.example. 86400 HTTPS 1 imap.victim.example. ech=AAEC", "imap.victim.example. 86400 A 192.0.2.1",
		"evil.example. 86400 HTTPS 2 rule.victim.example. ech=AAEC", "rule.victim.example. 86400 A 192.0.2.3",
		"evil.example. 86400 SVCB 1 svcb.victim.example. ipv4hint=192.0.2.1", "svcb.victim.example. 86400 AAAA 2001:db8:1::7",
	}
	const real, relayed = "192.0.2.1", "198.51.100.1"
	synctest.Test(t, func(t *testing.T) {
		h := steeringHandler(t, Steering{Policy: dnstest.Rules("!rule.victim.example ech"), Relay: new(dnstest.Relay)}, w)
		ask := func(client, name string, qtype uint16, want string) {
			t.Helper()
			if got := askFrom(t, h, client, name, qtype); got != want {
				t.Errorf("%s asks for %s %s: got %s; want %s", client, name, dns.TypeToString[qtype], got, want)
			}
		}
		ask("192.0.2.66", "imap.victim.example.", dns.TypeA, real)
		for range 2 { // from the upstream and from the cache
			ask("192.0.2.66", "evil.example.", dns.TypeHTTPS, "1")
			ask("192.0.2.66", "imap.victim.example.", dns.TypeA, relayed)
			ask("192.0.2.66", "rule.victim.example.", dns.TypeA, "192.0.2.3")
			ask("192.0.2.77", "imap.victim.example.", dns.TypeA, real)
		}
		ask("192.0.2.77", "evil.example.", dns.TypeHTTPS, "1")
		ask("192.0.2.77", "imap.victim.example.", dns.TypeA, relayed)
		time.Sleep(DefaultSteerTTL + time.Second)
		ask("192.0.2.66", "imap.victim.example.", dns.TypeA, real)
	})
}

// TestForeignTargetsAreNotFlushed: 20,000 records that point elsewhere, of names that the operator has listed or not, do
// not make what is known of another be forgotten.
func TestForeignTargetsAreNotFlushed(t *testing.T) {
	for _, rules := range []dnstest.Rules{"example", "ech"} {
		t.Run(string(rules), func(t *testing.T) {
			up := &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
				name := m.Question[0].Name
				switch {
				case m.Question[0].Qtype == dns.TypeHTTPS && name == "shop.example.":
					return dnstest.World{"shop.example. 20 HTTPS 1 edge.test. ech=AAEC"}.Response(name, dns.TypeHTTPS), nil
				case m.Question[0].Qtype == dns.TypeHTTPS:
					return dnstest.World{name + " 86400 HTTPS 1 t." + name[:len(name)-len("example.")] + "test. ech=AAEC"}.Response(name, dns.TypeHTTPS), nil
				}
				return dnstest.World{name + " 300 A 192.0.2.1"}.Response(name, m.Question[0].Qtype), nil
			}}
			h := testHandler(t, Config{Settings: Settings{Steering: &Steering{Policy: rules, Relay: new(dnstest.Relay), Clients: everybody}}}, up)
			h.budgets = nil // which would keep a client from asking so much at once
			askFrom(t, h, "192.0.2.1", "shop.example.", dns.TypeHTTPS)
			for i := range 20000 {
				askFrom(t, h, "192.0.2.66", fmt.Sprintf("n%d.example.", i), dns.TypeHTTPS)
			}
			if got := askFrom(t, h, "192.0.2.1", "edge.test.", dns.TypeA); got != "198.51.100.1" {
				t.Errorf("got %s; want the relay's address", got)
			}
			if got := askFrom(t, h, "192.0.2.66", "n19999.example.", dns.TypeHTTPS); got != "NOERROR" {
				t.Errorf("got the record %s, whose target cannot be remembered; want none", got)
			}
		})
	}
}

// TestDecisionUnderWay: a decision that was begun before it was known that a name is a target does not stay.
func TestDecisionUnderWay(t *testing.T) {
	w := dnstest.World{"shop.example. 300 HTTPS 1 edge.test. alpn=h2", "edge.test. 300 A 192.0.2.1"}
	relay := &slowRelay{asked: make(chan struct{}), release: make(chan struct{})}
	h := steeringHandler(t, Steering{Policy: dnstest.Rules("192.0.2.1/32 shop.example"), Relay: relay}, w)
	done := make(chan string)
	go func() { done <- askFrom(t, h, "192.0.2.1", "edge.test.", dns.TypeA) }()
	<-relay.asked
	askFrom(t, h, "192.0.2.1", "shop.example.", dns.TypeHTTPS)
	close(relay.release)
	if got := <-done; got != "198.51.100.1" {
		t.Errorf("got %s; want the relay's address", got)
	}
	if relay.n < 2 {
		t.Errorf("decided once; want a second time after more was known")
	}
}

// slowRelay waits in the first call of RelayAddr.
type slowRelay struct {
	dnstest.Relay
	asked, release chan struct{}
	n              int
}

func (r *slowRelay) Answer() Answer { return r }

func (r *slowRelay) RelayAddr(
	ctx context.Context, dst netip.Addr, v6 bool, ttl time.Duration, fresh func(used, size uint64) bool,
) (netip.Addr, bool, error) {
	if r.n++; r.n == 1 {
		close(r.asked)
		<-r.release
	}
	return r.Relay.RelayAddr(ctx, dst, v6, ttl, fresh)
}
