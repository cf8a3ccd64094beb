package addrmap

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var (
	testKey    = sha256.Sum256([]byte("a key for tests"))
	testPrefix = netip.MustParsePrefix("2001:db8:cf::/64")
	testTime   = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
)

// testClock is a clock that stands still.
type testClock struct{ t time.Time }

func (c *testClock) now() time.Time { return c.t }

func newTestSealer(clock *testClock) *sealer {
	return newSealer(&SealedConfig{Prefix: testPrefix, Key: testKey[:], Clock: clock.now})
}

// TestSealedAddresses pins what resolvers and relays of different versions have to agree on. If it has to change,
// so has sealLabel.
func TestSealedAddresses(t *testing.T) {
	for _, tt := range []struct {
		dst    string
		number int64
		want   string
	}{
		{"192.0.2.1", 0, "2001:db8:cf:0:f4b2:1054:cf6c:da1a"},
		{"192.0.2.1", 1, "2001:db8:cf:0:1fcb:e4ee:2c91:2bd7"},
		{"192.0.2.2", 20635, "2001:db8:cf:0:6e31:534e:523f:768"},
		{"0.0.0.0", 20635, "2001:db8:cf:0:76c5:9ff1:2284:1e3a"},
		{"255.255.255.255", 20635, "2001:db8:cf:0:de2e:2328:150f:bf6"},
	} {
		f := sealCipher(testKey[:], testPrefix, tt.number)
		dst := netip.MustParseAddr(tt.dst)
		got := seal(f, testPrefix, dst)
		if got.String() != tt.want {
			t.Errorf("seal(%v) in epoch %d: got %v; want %s", dst, tt.number, got, tt.want)
		}
		if back, ok := open(f, got); back != dst || !ok {
			t.Errorf("open(%v): got %v, %v; want %v", got, back, ok, dst)
		}
	}
}

func TestSealIsBijective(t *testing.T) {
	f := sealCipher(testKey[:], testPrefix, 1)
	seen := make(map[netip.Addr]netip.Addr)
	// A /16 at both ends and in the middle, and a random walk over the rest.
	check := func(n uint32) {
		dst := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
		relay := seal(f, testPrefix, dst)
		if !testPrefix.Contains(relay) {
			t.Fatalf("seal(%v): got %v; want an address in %v", dst, relay, testPrefix)
		}
		if other, ok := seen[relay]; ok && other != dst {
			t.Fatalf("seal(%v) and seal(%v): both %v", dst, other, relay)
		}
		seen[relay] = dst
		if got, ok := open(f, relay); got != dst || !ok {
			t.Fatalf("open(seal(%v)): got %v, %v", dst, got, ok)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range uint32(1 << 12) {
		check(i)
		check(0xc0000000 + i)
		check(^i)
		check(r.Uint32())
	}
}

func TestOpenRefuses(t *testing.T) {
	const attempts = 50_000 // chance of a hit: 1 in 80,000
	f := sealCipher(testKey[:], testPrefix, 1)
	r := rand.New(rand.NewPCG(3, 4))
	for range attempts {
		a := testPrefix.Addr().As16()
		binary.BigEndian.PutUint64(a[8:], r.Uint64())
		if dst, ok := open(f, netip.AddrFrom16(a)); ok {
			t.Fatalf("open of a random address: got %v", dst)
		}
	}
	dst := netip.MustParseAddr("192.0.2.1")
	relay := seal(f, testPrefix, dst)
	for bit := range 64 {
		a := relay.As16()
		a[8+bit/8] ^= 1 << (bit % 8)
		if dst, ok := open(f, netip.AddrFrom16(a)); ok {
			t.Errorf("open with bit %d changed: got %v", bit, dst)
		}
	}
	other := netip.MustParsePrefix("2001:db8:cf:1::/64")
	otherKey := testKey
	otherKey[31] ^= 1
	for _, tt := range []struct {
		name string
		f    *ff1
	}{
		{"wrong-key", sealCipher(otherKey[:], testPrefix, 1)},
		{"wrong-prefix", sealCipher(testKey[:], other, 1)},
		{"wrong-epoch", sealCipher(testKey[:], testPrefix, 2)},
	} {
		if dst, ok := open(tt.f, relay); ok {
			t.Errorf("%s: got %v; want nothing", tt.name, dst)
		}
	}
}

func TestSealedEpochs(t *testing.T) {
	day := 24 * time.Hour
	start := testTime.Truncate(day)
	resolver := &testClock{start.Add(day - time.Second)}
	relay := &testClock{}
	dst := netip.MustParseAddr("192.0.2.1")
	addr, err := newTestSealer(resolver).relay(dst, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s := newTestSealer(relay)
	for _, tt := range []struct {
		name string
		at   time.Duration // since the start of the epoch in which it was sealed
		want bool
	}{
		{"same-epoch", 0, true},
		{"clock-of-the-relay-behind", -time.Second, true},
		{"clock-of-the-relay-a-day-behind", -day, true},
		{"clock-of-the-relay-more-than-a-day-behind", -day - time.Second, false},
		{"next-epoch", day, true},
		{"end-of-next-epoch", 2*day - time.Second, true},
		{"after-next-epoch", 2 * day, false},
		{"clock-set-back", day, true},
		{"much-later", 1000 * day, false},
	} {
		relay.t = start.Add(tt.at)
		got, ok := s.destination(addr)
		if ok != tt.want || ok && got != dst {
			t.Errorf("%s: got %v, %v; want %v", tt.name, got, ok, tt.want)
		}
	}
}

func TestSealedAddressChangesWithEpoch(t *testing.T) {
	clock := &testClock{testTime}
	s := newTestSealer(clock)
	dst := netip.MustParseAddr("192.0.2.1")
	seen := make(map[netip.Addr]bool)
	for range 5 {
		addr, err := s.relay(dst, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := s.relay(dst, time.Hour); again != addr {
			t.Errorf("within an epoch: got %v and %v", addr, again)
		}
		if seen[addr] {
			t.Errorf("got %v in two epochs", addr)
		}
		seen[addr] = true
		clock.t = clock.t.Add(24 * time.Hour)
	}
}

func TestSealedTTLBeyondEpoch(t *testing.T) {
	s := newTestSealer(&testClock{testTime})
	dst := netip.MustParseAddr("192.0.2.1")
	if _, err := s.relay(dst, 24*time.Hour); err != nil {
		t.Errorf("TTL of an epoch: got %v", err)
	}
	if got, err := s.relay(dst, 24*time.Hour+1); err == nil {
		t.Errorf("TTL beyond an epoch: got %v; want an error", got)
	}
}

func TestSealedAllocations(t *testing.T) {
	m := openTest(t, Config{Sealed: &SealedConfig{Prefix: testPrefix, Key: testKey[:]}})
	dst := netip.MustParseAddr("192.0.2.1")
	relay, err := m.Relay(dst, true, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := m.Relay(dst, true, time.Minute); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("Relay: got %v allocations; want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		_, release, ok := m.Acquire(relay)
		if !ok {
			t.Fatal("not acquired")
		}
		release()
	}); n > 0 {
		t.Errorf("Acquire and release: got %v allocations; want 0", n)
	}
}

// FuzzSeal seals and opens; FuzzFF1 has the reference.
func FuzzSeal(f *testing.F) {
	f.Add(uint32(0xc0000201), uint64(0), int64(20635), []byte("key"))
	f.Add(uint32(0), uint64(1)<<63, int64(-1), []byte(nil))
	f.Add(^uint32(0), ^uint64(0), int64(1)<<62, make([]byte, 32))
	f.Fuzz(func(t *testing.T, n uint32, iid uint64, number int64, secret []byte) {
		key := sha256.Sum256(secret)
		c := sealCipher(key[:], testPrefix, number)
		dst := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
		relay := seal(c, testPrefix, dst)
		if got, ok := open(c, relay); got != dst || !ok || !testPrefix.Contains(relay) {
			t.Fatalf("open(%v): got %v, %v; want %v", relay, got, ok, dst)
		}
		a := testPrefix.Addr().As16()
		binary.BigEndian.PutUint64(a[8:], iid)
		if got, ok := open(c, netip.AddrFrom16(a)); ok && seal(c, testPrefix, got) != netip.AddrFrom16(a) {
			t.Fatalf("open(%x): got %v, which seals to %v", iid, got, seal(c, testPrefix, got))
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	s := newSealer(&SealedConfig{Prefix: testPrefix, Key: testKey[:]})
	dst := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.relay(dst, time.Minute)
	}
}

func BenchmarkOpen(b *testing.B) {
	s := newSealer(&SealedConfig{Prefix: testPrefix, Key: testKey[:]})
	hit, _ := s.relay(netip.MustParseAddr("192.0.2.1"), time.Minute)
	for name, addr := range map[string]netip.Addr{"hit": hit, "miss": hit.Next()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = s.destination(addr)
			}
		})
	}
}
