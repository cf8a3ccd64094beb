package addrmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	bolt "go.etcd.io/bbolt"
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

	// Long expired, but nobody needs the addresses.
	clock.t = clock.t.Add(1000 * time.Hour)
	m = reopen(t, m, cfg)
	if used4, size4, used6, _ := m.Usage(); used4 != 0 || size4 != 126 || used6 != 0 {
		t.Errorf("Usage after all leases: got %d of %d and %d; want 0 of 126 and 0", used4, size4, used6)
	}
	checkLeases(t, m, leases4)
	checkLeases(t, m, leases6)
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
	older := record{relay: netip.MustParseAddr("192.0.2.1"), dst: dst, expiry: now + 5}
	newer := record{relay: netip.MustParseAddr("192.0.2.2"), dst: dst, expiry: now + 50}
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
	putRecords(t, m, record{relay: netip.MustParseAddr("192.0.2.1"), dst: dst, expiry: math.MaxInt64})
	m = reopen(t, m, cfg)
	clock.t = clock.t.Add(maxTTL + 24*time.Hour)
	if _, err := m.Relay(netip.MustParseAddr("198.51.100.2"), false, 0); err != nil {
		t.Errorf("a week later: got %v", err)
	}
}

// putRecords writes records behind the back of m.
func putRecords(t *testing.T, m *Map, records ...record) {
	t.Helper()
	if err := m.store.(*fileStore).db.Update(func(tx *bolt.Tx) error {
		for _, r := range records {
			if err := tx.Bucket([]byte(leaseBucket)).Put(r.encode()); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestFileInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the wait for the lock takes no time here
		path := filepath.Join(t.TempDir(), "leases.db")
		cfg := tableConfig(path, &testClock{testTime}, "192.0.2.0/24")
		m, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(cfg)
		wantError(t, err, path, "in use by another process")
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if m, err = Open(cfg); err != nil {
			t.Fatalf("after the other has closed it: %v", err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	m := openTest(t, tableConfig(good, &testClock{testTime}, "10.0.0.0/20"))
	writes := make([]write, 0, 2000) // enough for branch pages
	for i := range cap(writes) {
		l := &lease{dst: destination(i, netip.IPv4Unspecified()), relay: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
		writes = append(writes, write{l, testTime.Unix()})
	}
	if err := m.store.(*fileStore).update(writes); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	dst := destination(1000, netip.IPv4Unspecified()).AsSlice()
	flipped := bytes.Clone(content)
	for i := bytes.Index(flipped, dst); i >= 0; i = bytes.Index(flipped, dst) {
		flipped[i+3] ^= 1
	}
	garbage := bytes.Clone(content)
	for i := 2 * page; i < len(garbage); i++ {
		garbage[i] = byte(i * 7)
	}
	zeros := bytes.Clone(content)
	clear(zeros[2*page:])
	for _, tt := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"text", []byte(strings.Repeat("not a lease file\n", 1000)), moveAway},
		{"short-text", []byte("x"), moveAway},
		{"zeros", make([]byte, 8*page), moveAway},
		{"no-valid-meta-page", append(make([]byte, 2*page), content[2*page:]...), moveAway},
		{"garbage-after-meta-pages", garbage, moveAway},
		{"zeros-after-meta-pages", zeros, moveAway},
		{"cut-after-meta-pages", content[:2*page], moveAway},
		{"cut-within-data", content[:8*page], moveAway},
		{"bit-flip-in-a-record", flipped, "wrong checksum"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "leases.db")
			if err := os.WriteFile(path, tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			m, err := Open(tableConfig(path, &testClock{testTime}, "10.0.0.0/20"))
			if err == nil {
				t.Errorf("got no error, %d leases", len(m.table4.byDst))
				err = m.Close()
			}
			wantError(t, err, path, tt.want)
		})
	}
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

func TestRecordLayout(t *testing.T) {
	r := record{
		relay:  netip.MustParseAddr("192.0.2.1"),
		dst:    netip.MustParseAddr("198.51.100.1"),
		expiry: 0x0102030405060708,
	}
	key, value := r.encode()
	got := fmt.Sprintf("%x %x", key, value)
	if want := "c0000201 0102030405060708c6336401"; !strings.HasPrefix(got, want) || len(value) != 16 {
		t.Errorf("got %s; want %s and a checksum", got, want)
	}
}

// FuzzLeaseRecord decodes what might be in a damaged file: never a panic, and what decodes encodes to the same.
func FuzzLeaseRecord(f *testing.F) {
	for _, s := range [][2]string{{"192.0.2.1", "198.51.100.1"}, {"2001:db8::1", "2001:db8:1::1"}} {
		key, value := record{netip.MustParseAddr(s[0]), netip.MustParseAddr(s[1]), 1 << 31}.encode()
		f.Add(key, value, true)
		f.Add(key, value[1:], false)
		f.Add(key[1:], value, false)
	}
	f.Add([]byte(nil), []byte(nil), false)
	f.Fuzz(func(t *testing.T, key, value []byte, fixSum bool) {
		if fixSum && len(value) >= 4 { // or the fuzzer would have to guess it
			body := value[:len(value)-4]
			value = binary.BigEndian.AppendUint32(bytes.Clone(body), recordSum(key, body))
		}
		r, err := decodeRecord(key, value)
		if err != nil {
			return
		}
		if !r.relay.IsValid() || !r.dst.IsValid() || r.relay.Is4() != r.dst.Is4() {
			t.Fatalf("got %+v; want two addresses of one family", r)
		}
		k, v := r.encode()
		if !bytes.Equal(k, key) || !bytes.Equal(v, value) {
			t.Fatalf("got %x, %x; want %x, %x", k, v, key, value)
		}
		again, err := decodeRecord(k, v)
		if diff := cmp.Diff(r, again, cmpopts.EquateComparable(record{})); diff != "" || err != nil {
			t.Fatalf("%v (-want +got):\n%s", err, diff)
		}
	})
}
