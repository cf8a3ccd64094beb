package addrmap

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// holds returns which of dsts are in the octets of any file in dir, whatever they mean there.
func holds(t *testing.T, dir string, dsts []netip.Addr) (found []netip.Addr) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var octets []byte
	for _, e := range entries {
		octets = append(octets, readFile(t, filepath.Join(dir, e.Name()))...)
	}
	for _, dst := range dsts {
		if bytes.Contains(octets, dst.AsSlice()) {
			found = append(found, dst)
		}
	}
	return found
}

// TestFileHoldsNoHistory dumps the lease file within the hour after leases have ended. Both families share one file, in
// which others go on.
func TestFileHoldsNoHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := Config{Table: &TableConfig{Path: filepath.Join(dir, "leases.db"), Prefixes: []netip.Prefix{
			netip.MustParsePrefix("10.99.0.0/16"), netip.MustParsePrefix("2001:db8:1::/64"),
		}}}
		m, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		follow(t, m)
		var ended []netip.Addr
		lease := func(n int, ttl time.Duration) (dsts []netip.Addr) {
			for _, like := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
				dst := destination(n, like)
				if _, err := m.Relay(dst, like.Is6(), ttl); err != nil {
					t.Fatal(err)
				}
				dsts = append(dsts, dst)
			}
			return dsts
		}
		var relays []netip.Addr
		lasting := lease(0, 5*24*time.Hour)
		for n := range 200 {
			ended = append(ended, lease(1000+n, time.Minute)...)
			relays = append(relays, m.table4.byDst[destination(1000+n, netip.IPv4Unspecified())].relay)
		}
		held := ended[:2]
		for _, dst := range held {
			_, release, _ := m.Acquire(tableFor(m, dst).byDst[dst].relay)
			defer release()
		}
		ended = ended[2:]
		if got := holds(t, dir, ended); len(got) != len(ended) {
			t.Fatalf("while they live: got %d destinations in the file; want %d", len(got), len(ended))
		}
		time.Sleep(time.Minute + defaultGrace + time.Hour) // in the bubble: TTL, grace, and the hour
		synctest.Wait()
		if got := holds(t, dir, ended); len(got) != 0 {
			t.Errorf("an hour after their end: got %d destinations in the file, such as %v; want none", len(got), got[0])
		}
		if got := holds(t, dir, slices.Concat(lasting, held)); len(got) != 4 {
			t.Errorf("got %v in the file; want all that last or have flows: %v, %v", got, lasting, held)
		}
		if got := m.table4.usedLocked(); got != 2 {
			t.Errorf("got %d leases; want 2", got)
		}
		for _, relay := range relays[1:] {
			if dst, _, ok := m.Acquire(relay); ok {
				t.Errorf("%v: got %v; want nothing", relay, dst)
			}
		}
		again := lease(1005, time.Minute)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if m, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		for _, dst := range slices.Concat(lasting, again) { // those that were held had no other claim
			if tableFor(m, dst).byDst[dst] == nil {
				t.Errorf("%v: the lease did not survive the restart", dst)
			}
		}
		// At the next start, what ended while nothing ran is erased at once.
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		if m, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		if got := holds(t, dir, slices.Concat(again, held)); len(got) != 0 {
			t.Errorf("after a start a day later: got %v in the file; want none", got)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestTimesOnDiskAreCoarse asks at odd times, and looks for anything but whole hours.
func TestTimesOnDiskAreCoarse(t *testing.T) {
	clock := &testClock{testTime}
	path := filepath.Join(t.TempDir(), "leases.db")
	m := openTest(t, tableConfig(path, clock, "192.0.2.0/24"))
	var asked []int64
	for n := range 50 {
		clock.t = clock.t.Add(777 * time.Second)
		if _, err := m.Relay(destination(n, netip.IPv4Unspecified()), false, time.Minute); err != nil {
			t.Fatal(err)
		}
		asked = append(asked, clock.t.Unix())
	}
	records, _, _, err := parseLog(readFile(t, path))
	if err != nil {
		t.Fatal(err)
	}
	var got []netip.Addr
	for i, r := range records {
		got = append(got, r.dst)
		need := asked[i] + m.table4.seconds(time.Minute)
		if r.expiry%hour != 0 || r.expiry < need || r.expiry > need+ahead {
			t.Errorf("%v, needed until %d: got %d; want a whole hour that is not much later", r.dst, need, r.expiry)
		}
	}
	var want []netip.Addr
	for n := range 50 {
		want = append(want, destination(n, netip.IPv4Unspecified()))
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// TestLeasesGoOnWhileErasing has leases made while the file is rewritten: none is lost, neither those of the file's
// first part nor those that came meanwhile.
func TestLeasesGoOnWhileErasing(t *testing.T) {
	clock := &testClock{testTime}
	cfg := tableConfig(filepath.Join(t.TempDir(), "leases.db"), clock, "10.99.0.0/16")
	m := openTest(t, cfg)
	leases := leaseN(t, m, 100, netip.IPv4Unspecified(), time.Minute)
	s := m.store.(*fileStore)
	n := 1000
	s.erase(func(r record) bool { // is called between the reading of the old file and the rewriting
		if n < 1010 {
			dst := destination(n, netip.IPv4Unspecified())
			relay, err := m.Relay(dst, false, time.Minute)
			if err != nil {
				t.Error(err)
			}
			leases[dst] = relay
			n++
		}
		return m.keeps(r) && r.dst != destination(5, netip.IPv4Unspecified())
	})
	delete(leases, destination(5, netip.IPv4Unspecified()))
	for i := range 10 { // in the new file
		dst := destination(2000+i, netip.IPv4Unspecified())
		relay, err := m.Relay(dst, false, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		leases[dst] = relay
	}
	if _, err := os.Stat(newPath(s.path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v; want nothing left behind", err)
	}
	if _, _, _, err := openLog(s.path); !errors.Is(err, errLocked) {
		t.Errorf("the new file: got %v; want it locked", err)
	}
	m = reopen(t, m, cfg)
	checkLeases(t, m, leases)
	if len(m.table4.byDst) != len(leases) {
		t.Errorf("got %d leases; want %d", len(m.table4.byDst), len(leases))
	}
}
