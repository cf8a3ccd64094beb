package resolver

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

var cdn = []string{"www.cdn.example. 300 IN A 192.0.2.1", "www.other.example. 300 IN A 192.0.2.2"}

// everybody may use the relay.
var everybody = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// steeringTo returns settings that steer cdn.example to relay.
func steeringTo(relay Relay) *Steering {
	return &Steering{Policy: dnstest.Rules("cdn.example"), Relay: relay, Clients: everybody}
}

// addressOf returns the only address in the answer of m, or "" and why there is none.
func addressOf(t *testing.T, m *dns.Msg) string {
	t.Helper()
	if len(m.Answer) != 1 {
		t.Errorf("got\n%v\nwant one address", m)
		return ""
	}
	return m.Answer[0].(*dns.A).A.String()
}

func TestSteeredAnswerIsMadeAnewFromTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := dnstest.Records(cdn...)
		h := testHandler(t, Config{Settings: Settings{Steering: steeringTo(new(dnstest.Relay))}}, up)
		var answers uint64
		for _, row := range []struct {
			after time.Duration
			how   outcome
			ttl   uint32
			asked int64
		}{
			{0, pending, 60, 1},
			{0, answered, 60, 1},
			{40 * time.Second, answered, 20, 1},
			{40 * time.Second, pending, 60, 1}, // the steered answer is over, what it was made of is not
			{0, answered, 60, 1},
			{180 * time.Second, pending, 40, 1}, // which ends in 40 s
			{40 * time.Second, pending, 60, 2},
		} {
			time.Sleep(row.after)
			r, how := ask(t, h, dnstest.Query("www.cdn.example.", dns.TypeA), UDP)
			answers++
			if got := addressOf(t, r); got != "198.51.100.1" {
				t.Errorf("got %s; want the relay's address", got)
			}
			if ttl := r.Answer[0].Header().Ttl; how != row.how || ttl != row.ttl || up.Asked.Load() != row.asked {
				t.Errorf("got outcome %d, TTL %d, %d queries; want %+v", how, ttl, up.Asked.Load(), row)
			}
		}
		var st Stats
		h.stats(&st)
		if st.Steered != answers || st.CacheHits != 3 || st.CacheMisses != 4 || st.Entries != 1 || st.Responses[0] != answers {
			t.Errorf("got %+v; want %d answers steered, 3 of them from the cache", st, answers)
		}
	})
}

func TestUnsteeredAnswerOfAClientOfTheRelayIsCached(t *testing.T) {
	h := testHandler(t, Config{Settings: Settings{Steering: steeringTo(new(dnstest.Relay))}}, dnstest.Records(cdn...))
	for _, m := range []*dns.Msg{
		dnstest.Query("www.other.example.", dns.TypeA), dnstest.Query("no.cdn.example.", dns.TypeA), dnstest.Query("www.cdn.example.", dns.TypeTXT),
	} {
		for _, want := range []outcome{pending, answered} {
			if _, how := ask(t, h, m, UDP); how != want {
				t.Errorf("%v: got outcome %d; want %d", m.Question[0], how, want)
			}
		}
	}
}

func TestWhoIsSteered(t *testing.T) {
	other := []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")}
	mine := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")}
	for name, row := range map[string]struct {
		clients []netip.Prefix
		do, cd  bool
		down    bool
		fail    FailMode
		want    string // "" is SERVFAIL
		ttl     uint32 // 60 if it is 0
	}{
		"everybody":              {clients: everybody, want: "198.51.100.1"},
		"nobody":                 {want: "192.0.2.1", ttl: 300},
		"this-client":            {clients: mine, want: "198.51.100.1"},
		"other-clients":          {clients: other, want: "192.0.2.1", ttl: 300},
		"do":                     {clients: everybody, do: true, want: "198.51.100.1"},
		"cd":                     {clients: everybody, cd: true, want: "198.51.100.1"},
		"do-and-cd":              {clients: everybody, do: true, cd: true, want: "192.0.2.1", ttl: 300},
		"relay-down-pass":        {clients: everybody, down: true, want: "192.0.2.1", ttl: 5},
		"relay-down-fail":        {clients: everybody, down: true, fail: FailServfail, want: ""},
		"relay-down-fail-others": {clients: other, down: true, fail: FailServfail, want: "192.0.2.1", ttl: 300},
	} {
		t.Run(name, func(t *testing.T) {
			relay := new(dnstest.Relay)
			st := steeringTo(relay)
			st.Clients, st.OnFailure = row.clients, row.fail
			h := testHandler(t, Config{Settings: Settings{Steering: st}}, dnstest.Records(cdn...))
			m := dnstest.Query("www.cdn.example.", dns.TypeA).SetEdns0(1232, row.do)
			m.CheckingDisabled = row.cd
			ask(t, h, m, UDP) // with the relay well: what is cached must not be given out when it is not
			relay.Down = row.down
			for range 2 {
				r, _ := ask(t, h, m, UDP)
				switch {
				case row.want != "":
					if got, ttl := addressOf(t, r), r.Answer[0].Header().Ttl; got != row.want || ttl != cmp.Or(row.ttl, 60) {
						t.Errorf("got %s for %d s; want %s for %d s", got, ttl, row.want, cmp.Or(row.ttl, 60))
					}
				case r.Rcode != dns.RcodeServerFailure || edeIn(r) != int(dns.ExtendedErrorCodeNotReady):
					t.Errorf("got\n%v\nwant SERVFAIL with an error", r)
				}
			}
			other := dnstest.Query("www.other.example.", dns.TypeA).SetEdns0(1232, row.do)
			for _, want := range []outcome{pending, answered} { // no matter how the relay is
				if r, how := ask(t, h, other, UDP); how != want || addressOf(t, r) != "192.0.2.2" {
					t.Errorf("got outcome %d,\n%v\nwant %d, not steered", how, r, want)
				}
			}
		})
	}
}

func TestSteeredAnswersDoNotSurviveAnUpdate(t *testing.T) {
	relay := new(dnstest.Relay)
	h := testHandler(t, Config{Settings: Settings{Steering: steeringTo(relay)}}, dnstest.Records(cdn...))
	m := dnstest.Query("www.cdn.example.", dns.TypeA)
	ask(t, h, m, UDP)
	for rules, want := range map[dnstest.Rules]string{"other.example": "192.0.2.1", "example": "198.51.100.1", "!example": "192.0.2.1"} {
		set := Settings{
			Clients:  []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
			Steering: &Steering{Policy: rules, Relay: relay, Clients: everybody},
		}
		if err := h.update(set); err != nil {
			t.Fatal(err)
		}
		r, how := ask(t, h, m, UDP)
		if got := addressOf(t, r); got != want || how != pending {
			t.Errorf("rules %q: got %s, outcome %d; want %s, not from the cache", rules, got, how, want)
		}
	}
}

// What steering looks up is not steered, is shared with clients' own questions, and is asked of local sources first.
func TestLookupOfSteering(t *testing.T) {
	up := dnstest.Records("www.cdn.example. 300 IN HTTPS 1 . alpn=h3", "here.example. 300 IN TXT upstream")
	h := testHandler(t, Config{Settings: Settings{
		Local:    []Local{localNames("here.example.")},
		Steering: steeringTo(new(dnstest.Relay)),
	}}, up)
	look := h.lookupFor(h.settings.Load(), wire.DO, &query{client: testClient, local: testLocal})
	for _, row := range []struct {
		name  string
		qtype uint16
		asked int64
	}{{"www.cdn.example.", dns.TypeHTTPS, 1}, {"www.cdn.example.", dns.TypeHTTPS, 1}, {"here.example.", dns.TypeTXT, 1}} {
		b, err := look(t.Context(), row.name, row.qtype)
		if err != nil {
			t.Fatal(err)
		}
		if m := dnstest.Unpack(t, b); len(m.Answer) != 1 || up.Asked.Load() != row.asked {
			t.Errorf("%s: got %d queries,\n%v\nwant %d", row.name, up.Asked.Load(), m, row.asked)
		}
	}
	if _, err := look(t.Context(), strings.Repeat("a", 64)+".", dns.TypeA); err == nil {
		t.Error("got no error for a name that is none")
	}
	if p := h.cache.raw(keyOf(t, "www.cdn.example.", dns.TypeHTTPS, wire.DO), 1, h.cache.now()); p == nil {
		t.Error("want the answer cached")
	}
	answer := up.Serve
	up.Serve = func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
		<-ctx.Done() // else the answer might be there first
		return answer(ctx, m)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errLeft)
	if _, err := look(ctx, "new.example.", dns.TypeA); !errors.Is(err, errLeft) {
		t.Errorf("got %v; want %v", err, errLeft)
	}
}

var errLeft = errors.New("client left")
