package addrmap

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// destination returns the n-th destination of the tests, of the family of like.
func destination(n int, like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0xc6120000+uint32(n)))) // 198.18.0.0/15
	}
	a := netip.MustParseAddr("2001:db8:d::").As16()
	binary.BigEndian.PutUint64(a[8:], uint64(n))
	return netip.AddrFrom16(a)
}

// tableFor returns the table for like's family.
func tableFor(m *Map, like netip.Addr) *table {
	if like.Is4() {
		return m.table4
	}
	return m.table6
}

// lasts is how long a lease for ttl is kept from new ones, at most.
func lasts(t *table, ttl time.Duration) time.Duration {
	return time.Duration(t.seconds(ttl)+slack) * time.Second
}

func TestTableToExhaustion(t *testing.T) {
	for _, tt := range []struct {
		prefixes []string
		size     int
	}{
		{[]string{"192.0.2.0/32"}, 1},
		{[]string{"192.0.2.0/31"}, 2},
		{[]string{"192.0.2.0/30"}, 2},
		{[]string{"192.0.2.16/28"}, 14},
		{[]string{"192.0.2.32/27"}, 30},
		{[]string{"192.0.2.0/26"}, 62},
		{[]string{"192.0.2.0/25"}, 126},
		{[]string{"192.0.2.0/24"}, 254},
		{[]string{"192.0.2.0/28", "198.51.100.0/29", "203.0.113.7/32"}, 14 + 6 + 1},
		{[]string{"10.99.0.0/20"}, 4094},
		{[]string{"2001:db8::1/128"}, 1},
		{[]string{"2001:db8::2/127"}, 2},
		{[]string{"2001:db8::/120"}, 255},
		{[]string{"2001:db8::/120", "2001:db8:1::ff00/121"}, 255 + 127},
	} {
		t.Run(tt.prefixes[0], func(t *testing.T) {
			cfg := TableConfig{}
			for _, p := range tt.prefixes {
				cfg.Prefixes = append(cfg.Prefixes, netip.MustParsePrefix(p))
			}
			exhaust(t, cfg, tt.size)
		})
	}
}

// TestTableToMaxLeases is the same where addresses are drawn from a pool that is larger than the table.
func TestTableToMaxLeases(t *testing.T) {
	for _, tt := range []struct {
		prefix string
		leases int
	}{
		{"2001:db8::/64", 100},
		{"3fff::/20", 7},
		{"2001:db8::/119", 250},
		{"2001:db8::/119", 300},
		{"10.0.0.0/8", 1000},
		{"192.0.2.0/24", 1},
	} {
		t.Run(tt.prefix, func(t *testing.T) {
			exhaust(t, TableConfig{Prefixes: []netip.Prefix{netip.MustParsePrefix(tt.prefix)}, MaxLeases: tt.leases}, tt.leases)
		})
	}
}

// exhaust leases all addresses of cfg, of which there are size, and then again after they have expired.
func exhaust(t *testing.T, cfg TableConfig, size int) {
	clock := &testClock{testTime}
	cfg.Clock = clock.now
	m := openTest(t, Config{Table: &cfg})
	like := cfg.Prefixes[0].Addr()
	for _, base := range []int{0, 10000} {
		relays := make(map[netip.Addr]netip.Addr)
		for n := range size {
			dst := destination(base+n, like)
			relay, err := m.Relay(dst, like.Is6(), time.Minute)
			if err != nil {
				t.Fatalf("Relay(%v), number %d of %d: %v", dst, n, size, err)
			}
			if other, ok := relays[relay]; ok {
				t.Fatalf("Relay(%v) and Relay(%v): both %v", dst, other, relay)
			}
			if !m.Contains(relay) {
				t.Fatalf("Relay(%v): got %v; want an address in %v", dst, relay, cfg.Prefixes)
			}
			relays[relay] = dst
		}
		if used, got := tableFor(m, like).usage(); used != uint64(size) || got != uint64(size) {
			t.Errorf("Usage: got %d of %d; want %d of %d", used, got, size, size)
		}
		extra := destination(base+size, like)
		if relay, err := m.Relay(extra, like.Is6(), 0); !errors.Is(err, ErrExhausted) {
			t.Errorf("Relay beyond the pool: got %v, %v; want ErrExhausted", relay, err)
		}
		for relay, dst := range relays {
			if again, err := m.Relay(dst, like.Is6(), 0); again != relay || err != nil {
				t.Errorf("Relay(%v) again: got %v, %v; want %v", dst, again, err, relay)
			}
			got, release, ok := m.Acquire(relay)
			if !ok || got != dst {
				t.Fatalf("Acquire(%v): got %v, %v; want %v", relay, got, ok, dst)
			}
			release()
		}
		clock.t = clock.t.Add(lasts(tableFor(m, like), time.Minute))
		if used, _ := tableFor(m, like).usage(); used != 0 {
			t.Errorf("Usage after the leases: got %d; want 0", used)
		}
		for relay := range relays {
			if got, _, ok := m.Acquire(relay); ok {
				t.Fatalf("Acquire(%v) after the lease, address not needed: got %v; want nothing", relay, got)
			}
		}
		checkTable(t, tableFor(m, like))
	}
}

func TestReservedAddressesAreNotLeased(t *testing.T) {
	m := openTest(t, Config{Table: &TableConfig{Prefixes: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/29"), netip.MustParsePrefix("2001:db8::/125"),
	}}})
	for _, tt := range []struct {
		like     string
		reserved []string
		n        int
	}{
		{"192.0.2.0", []string{"192.0.2.0", "192.0.2.7"}, 6},
		{"2001:db8::", []string{"2001:db8::"}, 7},
	} {
		like := netip.MustParseAddr(tt.like)
		for n := range tt.n {
			if _, err := m.Relay(destination(n, like), like.Is6(), 0); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range tt.reserved {
			if dst, _, ok := m.Acquire(netip.MustParseAddr(s)); ok {
				t.Errorf("%s: leased to %v", s, dst)
			}
		}
	}
}

func TestLeaseLastsTTLAndGrace(t *testing.T) {
	clock := &testClock{testTime.Add(999 * time.Millisecond)} // the table rounds down
	m := openTest(t, Config{Table: &TableConfig{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, Clock: clock.now, Grace: 2 * time.Minute,
	}})
	a, b := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	if _, err := m.Relay(a, false, time.Minute); err != nil {
		t.Fatal(err)
	}
	clock.t = clock.t.Add(3 * time.Minute)
	if got, err := m.Relay(b, false, 0); !errors.Is(err, ErrExhausted) {
		t.Errorf("at the end of TTL and grace: got %v, %v; want ErrExhausted", got, err)
	}
	if _, err := m.Relay(a, false, time.Second); err != nil {
		t.Fatal(err)
	}
	clock.t = clock.t.Add(time.Second + 2*time.Minute)
	if got, err := m.Relay(b, false, 0); !errors.Is(err, ErrExhausted) {
		t.Errorf("at the end of a renewed lease: got %v, %v; want ErrExhausted", got, err)
	}
	clock.t = clock.t.Add((slack + 2) * time.Second)
	if _, err := m.Relay(b, false, 0); err != nil {
		t.Errorf("after the lease: got %v", err)
	}
}

func TestLeaseHeldByFlows(t *testing.T) {
	clock := &testClock{testTime}
	m := openTest(t, Config{Table: &TableConfig{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/31")}, Clock: clock.now,
	}})
	like := netip.MustParseAddr("192.0.2.2")
	var dsts, relays [4]netip.Addr
	lease := func(n int) error {
		var err error
		dsts[n] = destination(n, like)
		relays[n], err = m.Relay(dsts[n], false, 0)
		return err
	}
	if err := errors.Join(lease(0), lease(1)); err != nil {
		t.Fatal(err)
	}
	_, release1, _ := m.Acquire(relays[0])
	_, release2, _ := m.Acquire(relays[0])
	_, release3, _ := m.Acquire(relays[1])
	clock.t = clock.t.Add(lasts(m.table4, 0))
	if used, _, _, _ := m.Usage(); used != 2 {
		t.Errorf("Usage with both leases under flows: got %d; want 2", used)
	}
	// Two flows hold the first, one the second. What belongs to a flow may begin after the lease has expired.
	if dst, release, ok := m.Acquire(relays[1]); !ok || dst != dsts[1] {
		t.Errorf("another flow where one goes on: got %v, %v; want %v", dst, ok, dsts[1])
	} else {
		release()
	}
	if err := lease(2); !errors.Is(err, ErrExhausted) {
		t.Errorf("all addresses under flows: got %v; want ErrExhausted", err)
	}
	release1()
	if err := lease(2); !errors.Is(err, ErrExhausted) {
		t.Errorf("all addresses still under flows: got %v; want ErrExhausted", err)
	}
	release3()
	if err := lease(2); err != nil || relays[2] != relays[1] {
		t.Errorf("one address without flow: got %v, %v; want %v", relays[2], err, relays[1])
	}
	release2()
	if err := lease(3); err != nil || relays[3] != relays[0] {
		t.Errorf("the other address without flow: got %v, %v; want %v", relays[3], err, relays[0])
	}
}

// TestRenewedUnderFlow has a lease that expired under a flow asked for again.
func TestRenewedUnderFlow(t *testing.T) {
	clock := &testClock{testTime}
	m := openTest(t, Config{Table: &TableConfig{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32")}, Clock: clock.now,
	}})
	a, b := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	relay, err := m.Relay(a, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, release, _ := m.Acquire(relay)
	clock.t = clock.t.Add(lasts(m.table4, 0))
	if _, err := m.Relay(b, false, 0); !errors.Is(err, ErrExhausted) {
		t.Fatalf("got %v; want ErrExhausted", err)
	}
	if got, err := m.Relay(a, false, time.Hour); got != relay || err != nil {
		t.Fatalf("got %v, %v; want %v", got, err, relay)
	}
	release()
	if _, err := m.Relay(b, false, 0); !errors.Is(err, ErrExhausted) {
		t.Errorf("after the flow, within the new lease: got %v; want ErrExhausted", err)
	}
	clock.t = clock.t.Add(lasts(m.table4, time.Hour))
	if got, err := m.Relay(b, false, 0); got != relay || err != nil {
		t.Errorf("after the new lease: got %v, %v; want %v", got, err, relay)
	}
}

// TestEndedLeaseIsForgotten: nothing is left of a destination in memory, whose address is free again.
func TestEndedLeaseIsForgotten(t *testing.T) {
	for _, prefix := range []string{"192.0.2.0/30", "10.0.0.0/8", "2001:db8::2/127", "2001:db8::/64"} {
		t.Run(prefix, func(t *testing.T) {
			clock := &testClock{testTime}
			p := netip.MustParsePrefix(prefix)
			m := openTest(t, Config{Table: &TableConfig{Prefixes: []netip.Prefix{p}, Clock: clock.now, MaxLeases: 2}})
			tab := tableFor(m, p.Addr())
			for n := range 20 {
				one, two := destination(2*n, p.Addr()), destination(2*n+1, p.Addr())
				if _, err := m.Relay(one, p.Addr().Is6(), 0); err != nil {
					t.Fatal(err)
				}
				relay, err := m.Relay(two, p.Addr().Is6(), 0)
				if err != nil {
					t.Fatal(err)
				}
				_, release, _ := m.Acquire(relay)
				clock.t = clock.t.Add(lasts(tab, 0) + (rest-1)*time.Second)
				if m.forget(); len(tab.byDst) != 2 {
					t.Fatalf("just before: got %d leases; want both", len(tab.byDst))
				}
				clock.t = clock.t.Add(time.Second)
				if m.forget(); len(tab.byDst) != 1 || tab.byDst[two] == nil {
					t.Fatalf("got %d leases; want the one under a flow", len(tab.byDst))
				}
				release()
				if m.forget(); len(tab.byDst)+len(tab.byRelay)+len(tab.live)+len(tab.idle) != 0 {
					t.Fatalf("after the flow: got %d leases; want none", len(tab.byDst))
				}
				checkTable(t, tab)
			}
		})
	}
}

func TestReleaseTwicePanics(t *testing.T) {
	m := openTest(t, Config{Table: &TableConfig{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}})
	relay, err := m.Relay(netip.MustParseAddr("198.51.100.1"), false, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, release, _ := m.Acquire(relay)
	release()
	defer func() {
		if recover() == nil {
			t.Error("second release: got no panic")
		}
	}()
	release()
}

func TestLongestExpiredGoesFirst(t *testing.T) {
	clock := &testClock{testTime}
	m := openTest(t, Config{Table: &TableConfig{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28")}, Clock: clock.now,
	}})
	like := netip.MustParseAddr("192.0.2.0")
	ttl := rand.New(rand.NewPCG(1, 1)).Perm(14)
	order := make([]netip.Addr, len(ttl))
	for n, minutes := range ttl {
		relay, err := m.Relay(destination(n, like), false, time.Duration(minutes)*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		order[minutes] = relay
	}
	clock.t = clock.t.Add(time.Hour)
	for n, want := range order {
		if got, err := m.Relay(destination(100+n, like), false, 0); got != want || err != nil {
			t.Errorf("number %d: got %v, %v; want %v", n, got, err, want)
		}
	}
}

func TestAddressesAreNotPredictable(t *testing.T) {
	// Not a test of randomness, only that there is some: two tables agree on 20 addresses by a chance of 254^-20.
	var leased [2][20]netip.Addr
	for i := range leased {
		m := openTest(t, Config{Table: &TableConfig{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}})
		for n := range leased[i] {
			leased[i][n], _ = m.Relay(destination(n, netip.IPv4Unspecified()), false, 0)
		}
	}
	if leased[0] == leased[1] {
		t.Errorf("two tables: both leased %v", leased[0])
	}
}

// TestTableConcurrently has destinations and flows come and go in a pool that is too small for them, and checks that
// an address never changes its meaning under a flow.
func TestTableConcurrently(t *testing.T) {
	var mu sync.Mutex
	clock := testTime
	m := openTest(t, Config{Table: &TableConfig{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/27")},
		Clock: func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return clock
		},
	}})
	var flows atomic.Int32
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 0))
			for range 3000 {
				dst := destination(r.IntN(60), netip.IPv4Unspecified())
				relay, err := m.Relay(dst, false, time.Duration(r.IntN(100))*time.Second)
				if err != nil {
					if !errors.Is(err, ErrExhausted) {
						t.Error(err)
					}
					mu.Lock()
					clock = clock.Add(time.Duration(r.IntN(60)) * time.Second)
					mu.Unlock()
					continue
				}
				// The others may have moved the clock past the lease by now: only under a flow is the answer fixed.
				got, release, ok := m.Acquire(relay)
				if !ok {
					continue
				}
				flows.Add(1)
				again, release2, ok := m.Acquire(relay)
				if !ok || again != got {
					t.Errorf("%v under a flow: got %v, %v; want %v", relay, again, ok, got)
				}
				release()
				release2()
			}
		})
	}
	wg.Wait()
	if flows.Load() == 0 {
		t.Error("there was no flow at all")
	}
	checkTable(t, m.table4)
}

// checkTable checks what always holds between the parts of a table.
func checkTable(t testing.TB, tab *table) {
	t.Helper()
	if len(tab.byDst) != len(tab.byRelay) {
		t.Errorf("got %d destinations and %d relay addresses", len(tab.byDst), len(tab.byRelay))
	}
	queued := 0
	for relay, l := range tab.byRelay {
		if l.relay != relay || tab.byDst[l.dst] != l {
			t.Errorf("%v: not entered both ways", relay)
		}
		if l.parked.Load() != (l.queue == nil) {
			t.Errorf("%v: got parked %v, in a queue %v", relay, l.parked.Load(), l.queue != nil)
		}
		if l.parked.Load() && l.flows.Load() == 0 {
			t.Errorf("%v: parked without a flow", relay)
		}
		if l.queue != nil {
			queued++
			if (*l.queue)[l.index] != l {
				t.Errorf("%v: not in its queue", relay)
			}
		}
	}
	if n := len(tab.live) + len(tab.idle); n != queued {
		t.Errorf("queues hold %d leases; want %d", n, queued)
	}
}

func TestTableAllocations(t *testing.T) {
	m := openTest(t, Config{Table: &TableConfig{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}})
	dst := netip.MustParseAddr("198.51.100.1")
	relay, err := m.Relay(dst, false, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := m.Relay(dst, false, time.Minute); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("Relay: got %v allocations; want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		_, release, _ := m.Acquire(relay)
		release()
	}); n > 0 {
		t.Errorf("Acquire and release: got %v allocations; want 0", n)
	}
}
