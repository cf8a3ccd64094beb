package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

func TestZoneOf(t *testing.T) {
	for name, want := range map[string]string{
		".":                            ".",
		"example.":                     "example.",
		"www.example.":                 "www.example.",
		"a.b.c.example.":               "c.example.",
		"a.b.example.co.uk.":           "example.co.uk.",
		"co.uk.":                       "co.uk.",
		"example.co.uk.":               "example.co.uk.",
		"a.b.co.example.":              "co.example.",
		"a.xco.uk.":                    "xco.uk.",
		"4.3.2.1.in-addr.arpa.":        "2.1.in-addr.arpa.",
		"1.in-addr.arpa.":              "1.in-addr.arpa.",
		"a.b." + nibbles + "ip6.arpa.": nibbles + "ip6.arpa.",
		"a.b.xip6.arpa.":               "xip6.arpa.",
		strings.Repeat("a.", 127):      "a.a.",
		strings.Repeat("a.", 119) + "in-addr.arpa.": "a.a.in-addr.arpa.",
	} {
		k, err := wire.NewKey(name, dns.TypeA, 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := wire.NameText(zoneOf(k.Name())); got != want {
			t.Errorf("%s: got %s; want %s", name, got, want)
		}
	}
}

const nibbles = "8.b.d.0.1.0.0.2."

// entrant is a question in a budget.
type entrant struct {
	waiter
	results chan result
}

func enter(t *testing.T, b *budget, name, client string, due time.Time) *entrant {
	t.Helper()
	k, err := wire.NewKey(name, dns.TypeA, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := &entrant{results: make(chan result, 1)}
	e.waiter = waiter{due: due, ousted: e.results}
	b.enter(&e.waiter, k.Name(), netip.MustParseAddr(client))
	return e
}

func TestBudgetShares(t *testing.T) {
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for name, row := range map[string]struct {
		names, clients int // of the flood, which takes turns
		due            time.Time
		least, most    int // queries of the flood under way
	}{
		"one-zone":                 {1, 100, future, 300, 301},
		"one-client":               {100, 1, future, 300, 301},
		"one-zone-that-gives-way":  {1, 100, past, 300, 900},
		"ten-clients":              {100, 10, future, 740, 760},
		"a-hundred-zones":          {100, 100, future, 860, 900},
		"more-than-there-are":      {1000, 1000, future, 850, 900},
		"all-of-them-past-the-due": {1000, 1000, past, 850, 900},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBudget(900)
			var flood []*entrant
			for i := range 5000 {
				e := enter(t, b, fmt.Sprintf("n%d.zone%d.test.", i, i%row.names), fmt.Sprintf("192.0.2.%d", 1+i%min(row.clients, 200)), row.due)
				if b.take(&e.waiter) {
					flood = append(flood, e)
				} else {
					b.leave(&e.waiter)
				}
				if b.used > b.max {
					t.Fatalf("got %d queries; want at most %d", b.used, b.max)
				}
			}
			if b.used < row.least || b.used > row.most {
				t.Errorf("got %d queries of the flood; want %d to %d", b.used, row.least, row.most)
			}
			if b.used < b.max {
				other := enter(t, b, "www.example.", "203.0.113.1", future)
				if !b.take(&other.waiter) {
					t.Errorf("a bystander is refused with %d of %d", b.used, b.max)
				}
				b.give(&other.waiter)
				b.leave(&other.waiter)
			}
			for _, e := range flood {
				b.leave(&e.waiter)
				b.give(&e.waiter)
			}
			if b.used != 0 || len(b.zones)+len(b.clients) != 0 || b.waiting.first != nil || b.waiting.last != nil {
				t.Errorf("got %d queries, %d zones, %d clients left; want none", b.used, len(b.zones), len(b.clients))
			}
		})
	}
}

func TestBudgetHasTheLongestWaitingGiveWay(t *testing.T) {
	b := newBudget(3) // one for each zone
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	first := enter(t, b, "a.slow.test.", "192.0.2.1", past)
	if !b.take(&first.waiter) {
		t.Fatal("the first is refused")
	}
	if b.take(&first.waiter) {
		t.Error("a question made itself give way")
	}
	second := enter(t, b, "b.slow.test.", "192.0.2.2", future)
	if !b.take(&second.waiter) {
		t.Error("the second is refused")
	}
	select {
	case r := <-first.results:
		if r.err != errOusted {
			t.Errorf("got %v; want %v", r.err, errOusted)
		}
	default:
		t.Error("the first need not give way")
	}
	if b.take(&first.waiter) {
		t.Error("who gave way takes again")
	}
	third := enter(t, b, "c.slow.test.", "192.0.2.3", future)
	if b.take(&third.waiter) {
		t.Error("the third is taken, although the second has not had its time")
	}
	if len(second.results) != 0 {
		t.Error("the second gives way before its time")
	}
}

// TestSlowZone has many questions for a zone whose servers are silent, of many clients: other questions are answered, the
// upstream stays healthy, and what waits is bounded.
func TestSlowZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := good(20 * time.Millisecond)
		up := &dnstest.Upstream{Serve: func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
			if strings.HasSuffix(m.Question[0].Name, ".slow.test.") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			r, err := answers.Serve(ctx, m)
			if err == nil && m.Question[0].Name != "." {
				r.Answer[0].Header().Name = m.Question[0].Name
			}
			return r, err
		}}
		p := testPool(t, up)
		b := newBudget(90)
		p.group.budget = b
		ask := func(name, client string) error {
			k, err := wire.NewKey(name, dns.TypeA, 0)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			_, err = p.Resolve(ctx, k, netip.MustParseAddr(client))
			return err
		}
		var wg sync.WaitGroup
		for i := range 2000 {
			wg.Go(func() {
				if err := ask(fmt.Sprintf("n%d.slow.test.", i), fmt.Sprintf("192.0.2.%d", 1+i%12)); err == nil {
					t.Error("got an answer of the slow zone")
				}
			})
			if i%10 == 0 {
				wg.Go(func() {
					if err := ask(fmt.Sprintf("n%d.example.", i), "203.0.113.1"); err != nil {
						t.Errorf("bystander: %v", err)
					}
				})
			}
			time.Sleep(2 * time.Millisecond)
			b.mu.Lock()
			if b.used > b.max {
				t.Errorf("got %d queries; want at most %d", b.used, b.max)
			}
			b.mu.Unlock()
			if !p.list[0].inOrder() {
				t.Fatal("the upstream is sick")
			}
		}
		wg.Wait()
		synctest.Wait()
		if b.used != 0 || len(b.zones)+len(b.clients) != 0 {
			t.Errorf("got %d queries, %d zones, %d clients left; want none", b.used, len(b.zones), len(b.clients))
		}
	})
}

func TestRefusedQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool(t, good(time.Millisecond))
		p.group.budget.used = p.group.budget.max
		start := time.Now()
		if _, err := resolveA(t, p); !errors.Is(err, ErrBusy) {
			t.Errorf("got %v; want %v", err, ErrBusy)
		}
		if got := time.Since(start); got != maxRefusals*refusalPause {
			t.Errorf("got it after %s; want %s", got, maxRefusals*refusalPause)
		}
		go func() {
			time.Sleep(refusalPause)
			p.group.budget.mu.Lock()
			p.group.budget.used = 0
			p.group.budget.mu.Unlock()
		}()
		if _, err := resolveA(t, p); err != nil {
			t.Errorf("when others have ended: %v", err)
		}
	})
}

func TestQuestionHoldsOneSocketOfAnUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool(t, silent())
		go resolveA(t, p)
		for range 40 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			p.group.budget.mu.Lock()
			if got := p.group.budget.used; got != 1 {
				t.Errorf("got %d queries under way; want 1", got)
			}
			p.group.budget.mu.Unlock()
		}
	})
}

func TestSocketsHaveAReserve(t *testing.T) {
	for _, row := range []struct{ max, reserve int64 }{{4096, 256}, {128, 16}, {10, 5}, {2, 1}, {1 << 20, 256}} {
		s := sockets{max: row.max}
		if got := s.reserve(); got != row.reserve {
			t.Errorf("of %d: got a reserve of %d; want %d", row.max, got, row.reserve)
		}
		conns := int64(0)
		for s.takeConn() {
			conns++
		}
		if conns != max(row.reserve*3/4, 1) || s.open.Load() != conns {
			t.Errorf("of %d: got %d connections, %d sockets", row.max, conns, s.open.Load())
		}
		for s.take() {
		}
		if got := s.open.Load(); got != row.max {
			t.Errorf("got %d sockets; want %d", got, row.max)
		}
	}
}
