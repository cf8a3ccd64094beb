package resolver

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// slowWorld answers what w knows after a round trip, but for the types in silent.
func slowWorld(w dnstest.World, roundTrip time.Duration, silent ...uint16) *dnstest.Upstream {
	return &dnstest.Upstream{Serve: func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
		wait := time.After(roundTrip)
		for _, qtype := range silent {
			if m.Question[0].Qtype == qtype {
				wait = nil
			}
		}
		select {
		case <-wait:
			return w.Response(strings.ToLower(m.Question[0].Name), m.Question[0].Qtype), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}}
}

// TestFirstLookupTakesOneRoundTrip: what steering depends on is asked for at the same time.
func TestFirstLookupTakesOneRoundTrip(t *testing.T) {
	const roundTrip = 50 * time.Millisecond
	w := dnstest.World{"www.example. 300 A 192.0.2.1", "www.example. 300 HTTPS 1 . ech=AAEC"}
	for question, want := range map[string]string{"www.example. A": "NOERROR 198.51.100.1", "www.example. AAAA": "NOERROR 2001:db8:5ea1::1", "www.example. HTTPS": "NOERROR HTTPS"} {
		t.Run(question, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := testHandler(t, Config{Settings: Settings{Steering: &Steering{
					Policy: dnstest.Rules("ech"), Relay: new(dnstest.Relay), Clients: everybody,
				}}}, slowWorld(w, roundTrip))
				start := time.Now()
				if got := addressesFor(t, h, question, nil); got != want {
					t.Errorf("got %s; want %s", got, want)
				}
				if took := time.Since(start); took != roundTrip {
					t.Errorf("took %v; want one round trip of %v", took, roundTrip)
				}
			})
		})
	}
}

// TestSilenceOnHTTPS: a name whose HTTPS records nobody answers for is decided without them, after a short wait, and
// without one for minutes.
func TestSilenceOnHTTPS(t *testing.T) {
	const roundTrip, share = 50 * time.Millisecond, 400 * time.Millisecond
	w := dnstest.World{"www.example. 3600 A 192.0.2.1", "www.example. 3600 AAAA 2001:db8:1::7"}
	synctest.Test(t, func(t *testing.T) {
		h := testHandler(t, Config{Settings: Settings{Steering: &Steering{
			Policy: dnstest.Rules("ech"), Relay: new(dnstest.Relay), Clients: everybody,
		}}}, slowWorld(w, roundTrip, dns.TypeHTTPS))
		for _, step := range []struct {
			after    time.Duration
			question string
			want     string
			took     time.Duration
		}{
			{0, "www.example. A", "NOERROR 192.0.2.1", roundTrip + share},
			{0, "www.example. A", "NOERROR 192.0.2.1", 0},
			{0, "www.example. AAAA", "NOERROR 2001:db8:1::7", roundTrip},
			{10 * time.Second, "www.example. A", "NOERROR 192.0.2.1", 0},
			{silenceTTL, "www.example. A", "NOERROR 192.0.2.1", share},
		} {
			time.Sleep(step.after)
			start := time.Now()
			got := addressesFor(t, h, step.question, nil)
			if took := time.Since(start); got != step.want || took != step.took {
				t.Errorf("%s: got %s after %v; want %s after %v", step.question, got, took, step.want, step.took)
			}
		}
	})
}

func TestSilenceIsBounded(t *testing.T) {
	var s silence
	for i := range maxSilent + 10 {
		s.add(time.Duration(i).String())
	}
	if n := len(s.m); n != maxSilent {
		t.Errorf("got %d names; want %d", n, maxSilent)
	}
}

// waitingRelay never has an address, and counts who waits for one.
type waitingRelay struct {
	dnstest.Relay
	waiting, calls atomic.Int64
}

func (r *waitingRelay) Answer() Answer { return r }

func (r *waitingRelay) RelayAddr(
	ctx context.Context, _ netip.Addr, _ bool, _ time.Duration, _ func(used, size uint64) bool,
) (netip.Addr, bool, error) {
	r.calls.Add(1)
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	<-ctx.Done()
	return netip.Addr{}, false, context.Cause(ctx)
}

// startWaiting runs a server whose steering waits for a relay that never has an address.
func startWaiting(t *testing.T, limits Limits) (*testServer, *waitingRelay) {
	t.Helper()
	relay := new(waitingRelay)
	cfg := clientsOn("127.0.0.0/8")
	cfg.Limits.QueryTimeout = time.Hour // so that nothing but the query's own end ends a flight
	cfg.Settings.Steering = &Steering{Policy: dnstest.Rules("cdn.example"), Relay: relay, Clients: everybody, OnFailure: FailServfail}
	return startRealWith(t, testHandler(t, cfg, dnstest.Records(cdn...)), limits), relay
}

// TestWorkEndsWithItsQuery: steering holds the slot of its query, and ends with the query's time, however it is asked.
func TestWorkEndsWithItsQuery(t *testing.T) {
	overAll(t, func(t *testing.T, tr transport) {
		s, relay := startWaiting(t, Limits{QueryTimeout: 300 * time.Millisecond})
		out, err := tr.dial(t, s)(t.Context(), dnstest.Pack(t, dnstest.Query("www.cdn.example.", dns.TypeA)))
		if err != nil || len(out) < 12 || out[3]&0xf != dns.RcodeServerFailure {
			t.Fatalf("got %x, %v; want SERVFAIL", out, err)
		}
		if relay.waiting.Load() != 0 || relay.calls.Load() == 0 {
			t.Errorf("got %d calls of the relay under way after the query, of %d; want none", relay.waiting.Load(), relay.calls.Load())
		}
		eventually(t, "the slot is given back", func() bool { return s.Stats().InFlight == 0 })
	})
}

// TestNothingOutlivesTheDrain: work for queries has ended when Run returns, which it does after DrainTimeout.
func TestNothingOutlivesTheDrain(t *testing.T) {
	overAll(t, func(t *testing.T, tr transport) {
		s, relay := startWaiting(t, Limits{QueryTimeout: time.Hour, DrainTimeout: 20 * time.Millisecond})
		ask := tr.dial(t, s)
		go ask(t.Context(), dnstest.Pack(t, dnstest.Query("www.cdn.example.", dns.TypeA)))
		eventually(t, "the relay is asked", func() bool { return relay.waiting.Load() != 0 })
		s.stop()
		if err := s.wait(); err != nil || relay.waiting.Load() != 0 {
			t.Errorf("Run: got %v with %d calls of the relay under way; want nil, none", err, relay.waiting.Load())
		}
	})
}
