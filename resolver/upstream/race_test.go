package upstream

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// testGroup returns a group that ends with the test.
func testGroup(t *testing.T) *Group {
	ctx, stop := context.WithCancel(context.Background())
	g := NewGroup(ctx, func() int64 { return 0 }, zerolog.Nop())
	t.Cleanup(func() {
		stop()
		g.Wait()
	})
	return g
}

// testPool returns a pool of these upstreams, in this order.
func testPool(t *testing.T, xs ...Exchanger) *Pool {
	t.Helper()
	var list []Config
	for i, x := range xs {
		addr := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.53"), uint16(i+1))
		list = append(list, Config{Addr: addr, Exchanger: x})
	}
	p, err := testGroup(t).Pool(list, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// testKey returns the key of the question for the address of www.example.
func testKey(t testing.TB) *wire.Key {
	t.Helper()
	k, err := wire.NewKey("www.example.", dns.TypeA, 0)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// resolveA asks p for the address of www.example.
func resolveA(t *testing.T, p *Pool) (*wire.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return p.Resolve(ctx, testKey(t))
}

var errTest = errors.New("test")

// failing returns an upstream that fails after some time; good returns one that answers.
func failing(after time.Duration) *dnstest.Upstream { return rcodeAfter(after, -1) }

func good(after time.Duration) *dnstest.Upstream { return rcodeAfter(after, dns.RcodeSuccess) }

// silent returns an upstream that never answers.
func silent() *dnstest.Upstream { return rcodeAfter(time.Hour, dns.RcodeSuccess) }

// rcodeAfter returns an upstream that answers with rcode, or with an error if that is negative.
func rcodeAfter(after time.Duration, rcode int) *dnstest.Upstream {
	return &dnstest.Upstream{Serve: func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
		select {
		case <-time.After(after):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if rcode < 0 {
			return nil, errTest
		}
		r := new(dns.Msg).SetRcode(m, rcode)
		if rcode == dns.RcodeSuccess {
			r.Answer = []dns.RR{dnstest.RR("www.example. 300 IN A 198.51.100.1")}
		}
		return r, nil
	}}
}

func TestFailover(t *testing.T) {
	const ms = time.Millisecond
	wrong := &dnstest.Upstream{Serve: func(context.Context, *dns.Msg) (*dns.Msg, error) {
		return new(dns.Msg).SetReply(dnstest.Query("other.example.", dns.TypeA)), nil
	}}
	for name, row := range map[string]struct {
		upstreams []*dnstest.Upstream
		rcode     int
		err       error
		asked     []uint64
	}{
		"first-answers":           {[]*dnstest.Upstream{good(ms), good(ms)}, 0, nil, []uint64{1, 0}},
		"first-fails":             {[]*dnstest.Upstream{failing(ms), good(ms)}, 0, nil, []uint64{1, 1}},
		"first-is-silent":         {[]*dnstest.Upstream{silent(), good(ms)}, 0, nil, []uint64{1, 1}},
		"first-is-slow":           {[]*dnstest.Upstream{good(2 * time.Second), silent()}, 0, nil, []uint64{2, 1}},
		"first-is-malformed":      {[]*dnstest.Upstream{wrong, good(ms)}, 0, nil, []uint64{1, 1}},
		"servfail-is-final":       {[]*dnstest.Upstream{rcodeAfter(ms, dns.RcodeServerFailure), good(ms)}, dns.RcodeServerFailure, nil, []uint64{1, 0}},
		"refused-is-not":          {[]*dnstest.Upstream{rcodeAfter(ms, dns.RcodeRefused), good(ms)}, 0, nil, []uint64{1, 1}},
		"refused-by-all":          {[]*dnstest.Upstream{rcodeAfter(ms, dns.RcodeRefused), rcodeAfter(ms, dns.RcodeNotImplemented)}, dns.RcodeRefused, nil, []uint64{1, 1}},
		"refused-or-silent":       {[]*dnstest.Upstream{rcodeAfter(ms, dns.RcodeRefused), silent()}, dns.RcodeRefused, nil, []uint64{2, 1}},
		"only-one-and-it-fails":   {[]*dnstest.Upstream{failing(ms)}, 0, errTest, []uint64{3}},
		"only-one-and-it-is-mute": {[]*dnstest.Upstream{silent()}, 0, errUnanswered, []uint64{3}},
		"all-fail":                {[]*dnstest.Upstream{failing(ms), failing(ms), failing(ms), failing(ms)}, 0, errTest, []uint64{1, 1, 1, 1}},
		"more-than-are-asked": {
			[]*dnstest.Upstream{failing(ms), failing(ms), failing(ms), failing(ms), failing(ms), failing(ms), good(ms)},
			0, errTest,
			[]uint64{1, 1, 1, 1, 1, 1, 0},
		},
		"none": {nil, 0, errNoUpstream, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var xs []Exchanger
				for _, u := range row.upstreams {
					xs = append(xs, u)
				}
				p := testPool(t, xs...)
				r, err := resolveA(t, p)
				if !errors.Is(err, row.err) || err == nil && int(r.Rcode()) != row.rcode {
					t.Errorf("got %v, %v; want RCODE %d, %v", r, err, row.rcode, row.err)
				}
				var asked []uint64 // without the probes that may have begun
				for _, u := range p.list {
					asked = append(asked, u.stats().Queries)
				}
				if !slices.Equal(asked, row.asked) {
					t.Errorf("got %d queries; want %d", asked, row.asked)
				}
			})
		})
	}
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		up := good(time.Millisecond)
		first := &dnstest.Upstream{Serve: func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
			if down.Load() {
				return nil, errTest
			}
			return up.Serve(ctx, m)
		}}
		second := good(time.Millisecond)
		p := testPool(t, first, second)
		ask := func() {
			t.Helper()
			if _, err := resolveA(t, p); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		down.Store(true)
		for range suspectAfter {
			if !p.list[0].healthy() {
				t.Fatal("sick too early")
			}
			ask()
		}
		if p.list[0].healthy() || !p.list[1].healthy() {
			t.Fatalf("got health %t, %t; want the first sick", p.list[0].healthy(), p.list[1].healthy())
		}
		asked := first.Asked.Load()
		ask()
		if got := first.Asked.Load(); got != asked {
			t.Errorf("got %d queries to the sick one; want none", got-asked)
		}
		time.Sleep(10 * time.Minute) // probes become seldom
		if got := first.Asked.Load() - asked; got < 10 || got > 20 {
			t.Errorf("got %d probes in 10 minutes; want about one a minute", got)
		}
		down.Store(false)
		time.Sleep(2 * maxBackoff)
		if !p.list[0].healthy() {
			t.Error("got no probe that found it well")
		}
		asked = second.Asked.Load()
		ask()
		if got := second.Asked.Load(); got != asked {
			t.Error("the first is not asked first again")
		}
		if st := p.list[0].stats(); st.Name != "udp://192.0.2.53:1" || !st.Healthy || st.Failures < suspectAfter || st.Queries <= st.Failures {
			t.Errorf("got %+v", st)
		}
	})
}

// Names that nobody answers must not make an upstream sick that answers others.
func TestSlowNamesDoNotMakeSick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := good(time.Millisecond)
		p := testPool(t, &dnstest.Upstream{Serve: func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
			if m.Question[0].Name == "." {
				return root.Serve(ctx, m)
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		for range 2 * suspectAfter {
			if _, err := resolveA(t, p); !errors.Is(err, errUnanswered) {
				t.Errorf("got %v; want %v", err, errUnanswered)
			}
			if !p.list[0].healthy() {
				t.Fatal("sick")
			}
		}
	})
}

func TestDelayFollowsTheRoundTripTime(t *testing.T) {
	u := testPool(t, silent()).list[0]
	if got := u.delay(); got != firstDelay {
		t.Errorf("at first: got %s; want %s", got, firstDelay)
	}
	for _, row := range []struct {
		rtt, want time.Duration
	}{{time.Millisecond, minDelay}, {10 * time.Second, maxDelay}} {
		for range 50 {
			u.succeed(row.rtt)
		}
		if got := u.delay(); got != row.want {
			t.Errorf("at %s: got %s; want %s", row.rtt, got, row.want)
		}
	}
}
