package addrmap

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sharedStore stands for a store that several tables write, such as etcd. Each of them is a writer of its own.
type sharedStore struct {
	mu      sync.Mutex
	records map[netip.Addr]record // by relay address
	log     []record              // in the order in which they were written
	grown   *sync.Cond
}

func newSharedStore() *sharedStore {
	s := &sharedStore{records: map[netip.Addr]record{}}
	s.grown = sync.NewCond(&s.mu)
	return s
}

func (s *sharedStore) add(w write) (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &batch{done: make(chan struct{})}
	defer close(b.done)
	in, found := s.records[w.lease.relay]
	if found && in.dst != w.lease.dst && in != w.lease.replaces {
		b.err = errTaken
		return b, nil
	}
	r := record{w.lease.relay, w.lease.dst, w.expiry}
	s.records[r.relay] = r
	s.log = append(s.log, r)
	s.grown.Broadcast()
	w.lease.raise(w.expiry)
	return b, nil
}

func (s *sharedStore) run(ctx context.Context, arrived func(record)) error {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.grown.Broadcast()
	})
	defer stop()
	for next := 0; ; next++ {
		s.mu.Lock()
		for next == len(s.log) && ctx.Err() == nil {
			s.grown.Wait()
		}
		if ctx.Err() != nil {
			s.mu.Unlock()
			return nil
		}
		r := s.log[next]
		s.mu.Unlock()
		arrived(r)
	}
}

func (s *sharedStore) close() error { return nil }

// sharing returns a map that leases addresses of prefix and shares s.
func sharing(t *testing.T, s *sharedStore, prefix string) *Map {
	t.Helper()
	m, err := Open(Config{Table: &TableConfig{Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}})
	if err != nil {
		t.Fatal(err)
	}
	m.store, m.table4.store = s, s
	return m
}

// follow has maps follow their store until the test ends.
func follow(t *testing.T, maps ...*Map) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, m := range maps {
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// destinationOf returns what a relay address stands for in m, or the zero Addr.
func destinationOf(m *Map, relay netip.Addr) netip.Addr {
	dst, release, ok := m.Acquire(relay)
	if ok {
		release()
	}
	return dst
}

var dst1, dst2 = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")

func leaseIn(t *testing.T, m *Map, dst netip.Addr) netip.Addr {
	t.Helper()
	relay, err := m.Relay(dst, false, time.Minute)
	if err != nil {
		t.Fatalf("%v: %v", dst, err)
	}
	return relay
}

func TestLeasesArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharedStore()
		a, b := sharing(t, s, "10.99.0.0/24"), sharing(t, s, "10.99.0.0/24")
		follow(t, a, b)
		one, two := leaseIn(t, a, dst1), leaseIn(t, b, dst2)
		synctest.Wait()
		for _, m := range []*Map{a, b} {
			if got := destinationOf(m, one); got != dst1 {
				t.Errorf("%v: got %v; want %v", one, got, dst1)
			}
			if got := destinationOf(m, two); got != dst2 {
				t.Errorf("%v: got %v; want %v", two, got, dst2)
			}
			if used, _, _, _ := m.Usage(); used != 2 {
				t.Errorf("got %d addresses leased; want 2", used)
			}
		}
		if got := leaseIn(t, b, dst1); got != one {
			t.Errorf("got %v for what the other has leased; want %v", got, one)
		}
	})
}

// TestAddressConflict has two tables lease the last address before either has heard of the other.
func TestAddressConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharedStore()
		a, b := sharing(t, s, "10.99.0.0/32"), sharing(t, s, "10.99.0.0/32")
		relay := leaseIn(t, a, dst1)
		if _, err := b.Relay(dst2, false, time.Minute); !errors.Is(err, ErrExhausted) {
			t.Errorf("got error %v; want %v", err, ErrExhausted)
		}
		if got := destinationOf(b, relay); got.IsValid() {
			t.Errorf("got %v for an address that the other has leased; want nothing", got)
		}
		follow(t, a, b)
		synctest.Wait()
		for _, m := range []*Map{a, b} {
			if got := destinationOf(m, relay); got != dst1 {
				t.Errorf("got %v; want %v, who was first", got, dst1)
			}
		}
	})
}

// TestDestinationConflict has two tables lease different addresses for one destination. Both stand for it, and both
// tables hand out the same one from then on.
func TestDestinationConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharedStore()
		a, b := sharing(t, s, "10.99.1.0/32"), sharing(t, s, "10.99.0.0/32")
		for _, m := range []*Map{a, b} { // they could have drawn these out of the same pool
			m.prefixes = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}
		}
		high, low := leaseIn(t, a, dst1), leaseIn(t, b, dst1)
		follow(t, a, b)
		synctest.Wait()
		for _, m := range []*Map{a, b} {
			for _, relay := range []netip.Addr{high, low} {
				if got := destinationOf(m, relay); got != dst1 {
					t.Errorf("%v: got %v; want %v", relay, got, dst1)
				}
			}
			if got := leaseIn(t, m, dst1); got != low {
				t.Errorf("got %v; want %v from both", got, low)
			}
		}
	})
}

// TestArrivalOrder enters the same records in both orders.
func TestArrivalOrder(t *testing.T) {
	relay := netip.MustParseAddr("10.99.0.1")
	for name, records := range map[string][2]record{
		"another-destination-later": {{relay, dst2, 9e9}, {relay, dst1, 9e9 + 1}},
		"at-the-same-time":          {{relay, dst1, 9e9}, {relay, dst2, 9e9}},
	} {
		for _, order := range [][2]int{{0, 1}, {1, 0}} {
			m := sharing(t, newSharedStore(), "10.99.0.0/24")
			m.arrived(records[order[0]])
			_, release, ok := m.Acquire(relay)
			m.arrived(records[order[1]])
			if got := destinationOf(m, relay); !ok || got != dst1 {
				t.Errorf("%s, order %v: got %v; want %v", name, order, got, dst1)
			}
			release() // of a flow that may have outlived its lease
		}
	}
}

// TestReuseWaitsForTheStore has a table reuse an address whose lease expired, while another has made that longer.
func TestReuseWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharedStore()
		a, b := sharing(t, s, "10.99.0.0/32"), sharing(t, s, "10.99.0.0/32")
		relay := leaseIn(t, a, dst1)
		b.arrived(s.log[0])
		time.Sleep(2 * time.Hour) // in the bubble: the lease expires in both tables
		if got := leaseIn(t, b, dst1); got != relay {
			t.Fatalf("got %v; want %v", got, relay)
		}
		if _, err := a.Relay(dst2, false, time.Minute); !errors.Is(err, ErrExhausted) {
			t.Errorf("got error %v; want %v: the other table has made the lease longer", err, ErrExhausted)
		}
		a.arrived(s.log[len(s.log)-1])
		if got := destinationOf(a, relay); got != dst1 {
			t.Errorf("got %v; want %v", got, dst1)
		}
		time.Sleep(2 * time.Hour)
		if got := leaseIn(t, a, dst2); got != relay {
			t.Errorf("got %v; want %v, whose lease has expired everywhere", got, relay)
		}
	})
}
