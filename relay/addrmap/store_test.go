package addrmap

import (
	"errors"
	"maps"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// tableConfig is a table with leases in path.
func tableConfig(path string, clock *testClock, prefixes ...string) Config {
	cfg := TableConfig{Path: path, Clock: clock.now}
	for _, p := range prefixes {
		cfg.Prefixes = append(cfg.Prefixes, netip.MustParsePrefix(p))
	}
	return Config{Table: &cfg}
}

// reopen closes m and opens another one.
func reopen(t testing.TB, m *Map, cfg Config) *Map {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return openTest(t, cfg)
}

// leaseN leases addresses for n destinations like like and returns relay addresses by destination.
func leaseN(t testing.TB, m *Map, n int, like netip.Addr, ttl time.Duration) map[netip.Addr]netip.Addr {
	t.Helper()
	leases := make(map[netip.Addr]netip.Addr)
	for i := range n {
		dst := destination(i, like)
		relay, err := m.Relay(dst, like.Is6(), ttl)
		if err != nil {
			t.Fatalf("Relay(%v): %v", dst, err)
		}
		leases[dst] = relay
	}
	return leases
}

// checkLeases checks that relay addresses still stand for what they were leased to.
func checkLeases(t testing.TB, m *Map, leases map[netip.Addr]netip.Addr) {
	t.Helper()
	for dst, relay := range leases {
		got, release, ok := m.Acquire(relay)
		if !ok || got != dst {
			t.Errorf("Acquire(%v): got %v, %v; want %v", relay, got, ok, dst)
			continue
		}
		release()
		if again, err := m.Relay(dst, dst.Is6(), 0); again != relay || err != nil {
			t.Errorf("Relay(%v): got %v, %v; want %v", dst, again, err, relay)
		}
	}
}

func TestLeasesSurviveRestart(t *testing.T) {
	clock := &testClock{testTime}
	path := filepath.Join(t.TempDir(), "leases.db")
	cfg := tableConfig(path, clock, "192.0.2.0/25", "2001:db8:1::/64")
	m := openTest(t, cfg)
	leases4 := leaseN(t, m, 100, netip.IPv4Unspecified(), time.Minute)
	leases6 := leaseN(t, m, 100, netip.IPv6Unspecified(), time.Minute)

	m = reopen(t, m, cfg)
	checkLeases(t, m, leases4)
	checkLeases(t, m, leases6)
	if used4, _, used6, _ := m.Usage(); used4 != 100 || used6 != 100 {
		t.Errorf("Usage: got %d and %d; want 100 each", used4, used6)
	}
	checkTable(t, m.table4)
	checkTable(t, m.table6)

	// Long expired.
	clock.t = clock.t.Add(1000 * time.Hour)
	m = reopen(t, m, cfg)
	if used4, size4, used6, _ := m.Usage(); used4 != 0 || size4 != 126 || used6 != 0 {
		t.Errorf("Usage after all leases: got %d of %d and %d; want 0 of 126 and 0", used4, size4, used6)
	}
	for _, relay := range slices.Concat(slices.Collect(maps.Values(leases4)), slices.Collect(maps.Values(leases6))) {
		if dst, _, ok := m.Acquire(relay); ok {
			t.Errorf("%v after its lease: got %v; want nothing", relay, dst)
		}
	}
}

func TestReusedAddressSurvivesRestart(t *testing.T) {
	clock := &testClock{testTime}
	cfg := tableConfig(filepath.Join(t.TempDir(), "leases.db"), clock, "192.0.2.1/32")
	m := openTest(t, cfg)
	a, b := destination(0, netip.IPv4Unspecified()), destination(1, netip.IPv4Unspecified())
	if _, err := m.Relay(a, false, 0); err != nil {
		t.Fatal(err)
	}
	clock.t = clock.t.Add(lasts(m.table4, 0))
	relay, err := m.Relay(b, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	m = reopen(t, m, cfg)
	checkLeases(t, m, map[netip.Addr]netip.Addr{b: relay})
	if got, err := m.Relay(a, false, 0); !errors.Is(err, ErrExhausted) {
		t.Errorf("the one before: got %v, %v; want ErrExhausted", got, err)
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	openTest(t, tableConfig(path, &testClock{testTime}, "192.0.2.0/24"))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode: got %o; want 600", got)
	}
}

func TestChangedPrefixes(t *testing.T) {
	clock := &testClock{testTime}
	path := filepath.Join(t.TempDir(), "leases.db")
	before := tableConfig(path, clock, "192.0.2.0/25")
	after := tableConfig(path, clock, "192.0.2.128/25")
	m := openTest(t, before)
	leases := leaseN(t, m, 10, netip.IPv4Unspecified(), time.Minute)
	m = reopen(t, m, after)
	if used, _, _, _ := m.Usage(); used != 0 {
		t.Errorf("other prefix: got %d leases; want 0", used)
	}
	for _, relay := range leases {
		if dst, _, ok := m.Acquire(relay); ok {
			t.Errorf("other prefix: %v still stands for %v", relay, dst)
		}
	}
	m = reopen(t, m, before)
	checkLeases(t, m, leases)

	// Only what had expired is gone.
	m = reopen(t, m, after)
	clock.t = clock.t.Add(1000 * time.Hour)
	m = reopen(t, m, after)
	m = reopen(t, m, before)
	if n := len(m.table4.byDst); n != 0 {
		t.Errorf("expired in the other prefix: got %d leases; want 0", n)
	}
}

func TestDestinationThatBecameARelayAddress(t *testing.T) {
	clock := &testClock{testTime}
	path := filepath.Join(t.TempDir(), "leases.db")
	m := openTest(t, tableConfig(path, clock, "192.0.2.0/24"))
	dst := netip.MustParseAddr("198.51.100.1")
	relay, err := m.Relay(dst, false, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	m = reopen(t, m, tableConfig(path, clock, "192.0.2.0/24", "198.51.100.0/24"))
	if got, _, ok := m.Acquire(relay); ok {
		t.Errorf("Acquire(%v): got %v; want nothing", relay, got)
	}
}

func TestTwoRecordsForOneDestination(t *testing.T) {
	// This is what is left when an address was given to another destination, but the disk failed just then.
	clock := &testClock{testTime}
	path := filepath.Join(t.TempDir(), "leases.db")
	cfg := tableConfig(path, clock, "192.0.2.0/30")
	m := openTest(t, cfg)
	dst := netip.MustParseAddr("198.51.100.1")
	now := testTime.Unix()
	older := record{relay: netip.MustParseAddr("192.0.2.1"), dst: dst, expiry: wholeHours(now) + hour}
	newer := record{relay: netip.MustParseAddr("192.0.2.2"), dst: dst, expiry: wholeHours(now) + hour}
	putRecords(t, m, older, newer)
	m = reopen(t, m, cfg)
	checkLeases(t, m, map[netip.Addr]netip.Addr{dst: newer.relay})
	if got, _, ok := m.Acquire(older.relay); ok {
		t.Errorf("older lease: got %v; want nothing", got)
	}
	if got, err := m.Relay(netip.MustParseAddr("198.51.100.2"), false, 0); got != older.relay || err != nil {
		t.Errorf("its address: got %v, %v; want %v", got, err, older.relay)
	}
	checkTable(t, m.table4)
}

func TestImpossibleExpiryIsCut(t *testing.T) {
	clock := &testClock{testTime}
	path := filepath.Join(t.TempDir(), "leases.db")
	cfg := tableConfig(path, clock, "192.0.2.1/32")
	m := openTest(t, cfg)
	dst := netip.MustParseAddr("198.51.100.1")
	putRecords(t, m, record{relay: netip.MustParseAddr("192.0.2.1"), dst: dst, expiry: math.MaxUint32 * hour})
	m = reopen(t, m, cfg)
	clock.t = clock.t.Add(maxTTL + 24*time.Hour)
	if _, err := m.Relay(netip.MustParseAddr("198.51.100.2"), false, 0); err != nil {
		t.Errorf("a week later: got %v", err)
	}
}

// putRecords writes records behind the back of m.
func putRecords(t *testing.T, m *Map, records ...record) {
	t.Helper()
	if err := m.store.(*fileStore).file.append(records); err != nil {
		t.Fatal(err)
	}
}

// TestFileInUse has a second process, as far as locks can tell, find the file in use. It starts without leases, hands none
// out, and has all of them once the first has ended.
func TestFileInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the wait for the lock takes no time here
		path := filepath.Join(t.TempDir(), "leases.db")
		cfg := tableConfig(path, &testClock{testTime}, "192.0.2.0/24")
		first, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		leases := leaseN(t, first, 10, netip.IPv4Unspecified(), time.Minute)
		second, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		fault, _ := second.Status()
		wantError(t, fault, path, "in use by another process")
		if _, err := second.Relay(dst1, false, 0); err == nil || !strings.Contains(err.Error(), "in use by another process") {
			t.Errorf("without the file: got %v; want that it is in use", err)
		}
		if used, _, _, _ := second.Usage(); used != 0 {
			t.Errorf("without the file: got %d leases; want none", used)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * retryEvery) // in the bubble
		synctest.Wait()
		if fault, kept := second.Status(); fault != nil || kept != nil {
			t.Errorf("after the other has closed it: got %v, %v", fault, kept)
		}
		checkLeases(t, second, leases)
		checkTable(t, second.table4)
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestUnusablePaths(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, path, want string
	}{
		{"no-directory", filepath.Join(dir, "none", "leases.db"), "directory does not exist"},
		{"directory", dir, "is a directory"},
		{"below-a-file", filepath.Join("/dev/null", "leases.db"), "not a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(tableConfig(tt.path, &testClock{testTime}, "192.0.2.0/24"))
			wantError(t, err, tt.path, tt.want)
		})
	}
}

// wantError checks that an error says all of want.
func wantError(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error; want one with %q", want)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got %q; want it to say %q", err, w)
		}
	}
}

func TestClose(t *testing.T) {
	m := openTest(t, tableConfig(filepath.Join(t.TempDir(), "leases.db"), &testClock{testTime}, "192.0.2.0/24"))
	dst := netip.MustParseAddr("198.51.100.1")
	relay, err := m.Relay(dst, false, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if got, err := m.Relay(netip.MustParseAddr("198.51.100.2"), false, 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("new lease: got %v, %v; want net.ErrClosed", got, err)
	}
	if got, release, ok := m.Acquire(relay); !ok || got != dst {
		t.Errorf("Acquire: got %v, %v; want %v", got, ok, dst)
	} else {
		release()
	}
}
