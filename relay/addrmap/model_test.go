package addrmap

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"
	"time"
)

// model is what a table of one IPv4 pool should do, written down without any regard to speed.
type model struct {
	capacity int
	now      int64
	leases   map[netip.Addr]*modelLease // by destination
}

type modelLease struct {
	relay       netip.Addr
	until, disk int64
	releases    []func() // of the flows
}

const modelGrace = 10

func (m *model) byRelay(relay netip.Addr) (netip.Addr, *modelLease) {
	for dst, l := range m.leases {
		if l.relay == relay {
			return dst, l
		}
	}
	return netip.Addr{}, nil
}

// spare returns the leases whose address a new destination may get: those that expired first.
func (m *model) spare() map[netip.Addr]*modelLease {
	first := make(map[netip.Addr]*modelLease)
	var until int64
	for dst, l := range m.leases {
		if l.until > m.now || len(l.releases) > 0 || len(first) > 0 && l.until > until {
			continue
		}
		if l.until < until {
			clear(first)
		}
		until = l.until
		first[dst] = l
	}
	return first
}

// relay checks what the table answered and follows it.
func (m *model) relay(t *testing.T, dst netip.Addr, ttl int64, relay netip.Addr, err error) {
	t.Helper()
	l := m.leases[dst]
	if l == nil {
		if l = m.lease(t, dst, relay, err); l == nil {
			return
		}
		m.leases[dst] = l
	}
	if err != nil || l.relay != relay {
		t.Fatalf("Relay(%v): got %v, %v; want %v", dst, relay, err, l.relay)
	}
	need := m.now + ttl + modelGrace + 1
	if l.until < need {
		l.until = need + slack
	}
	if l.disk < need+ahead/2 {
		l.disk = need + slack + ahead
	}
}

// lease checks a new lease and returns it, or nil if there was rightly none.
func (m *model) lease(t *testing.T, dst, relay netip.Addr, err error) *modelLease {
	t.Helper()
	full, spare := len(m.leases) >= m.capacity, m.spare()
	if full && len(spare) == 0 {
		if !errors.Is(err, ErrExhausted) {
			t.Fatalf("Relay(%v) with all addresses in use: got %v, %v; want ErrExhausted", dst, relay, err)
		}
		return nil
	}
	old, _ := m.byRelay(relay)
	switch {
	case err != nil:
		t.Fatalf("Relay(%v) with %d of %d in use: got %v", dst, len(m.leases), m.capacity, err)
	case !full && old.IsValid():
		t.Fatalf("Relay(%v): got %v of %v, while others were never used", dst, relay, old)
	case full && spare[old] == nil:
		t.Fatalf("Relay(%v): got %v of %v; want one of %v", dst, relay, old, spare)
	}
	delete(m.leases, old)
	return &modelLease{relay: relay}
}

// usage returns the leases that live or are held. The table learns that an expired lease is held only when it needs
// the address, so the least number is given too.
func (m *model) usage() (least, most uint64) {
	for _, l := range m.leases {
		if l.until > m.now {
			least++
		}
		if l.until > m.now || len(l.releases) > 0 {
			most++
		}
	}
	return least, most
}

// restart forgets flows and what is not on disk.
func (m *model) restart() {
	for _, l := range m.leases {
		l.until, l.releases = l.disk, nil
	}
}

// FuzzTable runs a sequence of operations, two octets each, on a small table and on the model.
func FuzzTable(f *testing.F) {
	f.Add(uint8(0), []byte("\x00\x00\x00\x01\x00\x02\x20\x00\x60\x30\x00\x03\x40\x00\x00\x03"))
	f.Add(uint8(1), []byte("\x00\x01\x20\x01\x60\xff\x00\x02\x00\x03\x00\x04\x40\x00\x00\x04\x80\x00\x00\x01"))
	f.Add(uint8(3), []byte("\x05\x01\x06\x02\x07\x03\x60\x10\x08\x04\x60\xff\x60\xff\x80\x00\x00\x05\x00\x06\x00\x07\x20\x06"))
	f.Fuzz(runModel)
}

// TestTableAgainstModel is FuzzTable with long sequences.
func TestTableAgainstModel(t *testing.T) {
	for seed := range uint64(32) {
		r := rand.New(rand.NewPCG(seed, 0))
		ops := make([]byte, 2*400)
		for i := range ops {
			ops[i] = byte(r.Uint32())
		}
		runModel(t, uint8(seed), ops)
	}
}

// runModel runs operations on a table of some shape and on the model.
func runModel(t *testing.T, shape uint8, ops []byte) {
	cfg := fuzzConfig(t, shape)
	clock := &testClock{testTime}
	cfg.Table.Clock = clock.now
	table := openFuzz(t, cfg)
	m := &model{capacity: int(table.table4.capacity), now: testTime.Unix(), leases: make(map[netip.Addr]*modelLease)}
	for ; len(ops) >= 2; ops = ops[2:] {
		op, arg := ops[0], int(ops[1])
		dst := destination(arg%24, netip.IPv4Unspecified())
		switch op >> 5 {
		case 0: // ask, for up to 31 s
			ttl := int64(op & 31)
			relay, err := table.Relay(dst, false, time.Duration(ttl)*time.Second)
			m.relay(t, dst, ttl, relay, err)
		case 1: // begin a flow to whatever stands for a destination
			if l := m.leases[dst]; l != nil {
				got, release, ok := table.Acquire(l.relay)
				if !ok || got != dst {
					t.Fatalf("Acquire(%v): got %v, %v; want %v", l.relay, got, ok, dst)
				}
				l.releases = append(l.releases, release)
			}
		case 2: // end a flow
			if l := m.leases[dst]; l != nil && len(l.releases) > 0 {
				l.releases[0]()
				l.releases = l.releases[1:]
			}
		case 3: // time goes by, at times much
			step := int64(arg) << (op & 7)
			m.now += step
			clock.t = clock.t.Add(time.Duration(step) * time.Second)
		case 4: // restart
			if cfg.Table.Path != "" {
				if err := table.Close(); err != nil {
					t.Fatal(err)
				}
				table = openFuzz(t, cfg)
				m.restart()
			}
		case 5: // an address of the pool that may be leased or not
			relay := table.table4.pool.at(uint64(arg) % table.table4.pool.size)
			want, l := m.byRelay(relay)
			got, release, ok := table.Acquire(relay)
			if ok != (l != nil) || got != want {
				t.Fatalf("Acquire(%v): got %v, %v; want %v", relay, got, ok, want)
			}
			if ok {
				release()
			}
		default:
			least, most := m.usage()
			if used, _, _, _ := table.Usage(); used < least || used > most {
				t.Fatalf("Usage: got %d; want %d to %d", used, least, most)
			}
		}
		checkTable(t, table.table4)
	}
	if len(table.table4.byDst) != len(m.leases) {
		t.Fatalf("got %d leases; want %d", len(table.table4.byDst), len(m.leases))
	}
}

// fuzzConfig returns one of several small tables, with a file or without.
func fuzzConfig(t *testing.T, shape uint8) Config {
	cfg := &TableConfig{Grace: modelGrace * time.Second}
	switch shape >> 1 & 3 {
	case 0:
		cfg.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/29")}
	case 1:
		cfg.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30"), netip.MustParsePrefix("192.0.2.9/32")}
	case 2:
		cfg.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		cfg.MaxLeases = 5
	case 3:
		cfg.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.8/29")}
		cfg.MaxLeases = 5
	}
	if shape&1 == 1 {
		cfg.Path = filepath.Join(t.TempDir(), "leases.db")
	}
	return Config{Table: cfg}
}

// openFuzz opens a table that does not sync, for speed.
func openFuzz(t *testing.T, cfg Config) *Map {
	m := openTest(t, cfg)
	if m.store != nil {
		m.store.(*fileStore).db.NoSync = true
	}
	return m
}
