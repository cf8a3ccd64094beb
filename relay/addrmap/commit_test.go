package addrmap

import (
	"errors"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestGroupCommit holds up the disk and looks at who waits for what.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := Open(tableConfig(filepath.Join(t.TempDir(), "leases.db"), &testClock{testTime}, "192.0.2.0/24"))
		if err != nil {
			t.Fatal(err)
		}
		proceed := make(chan struct{})
		var sizes []int
		m.store.(*fileStore).write = func(writes []write) error {
			<-proceed
			sizes = append(sizes, len(writes))
			return m.store.(*fileStore).update(writes)
		}
		var mu sync.Mutex
		returned := 0
		ask := func(n int) {
			if _, err := m.Relay(destination(n, netip.IPv4Unspecified()), false, time.Minute); err != nil {
				t.Errorf("Relay: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			returned++
		}
		go ask(0)
		synctest.Wait() // the first one is being written
		for n := range 50 {
			go ask(n)
			go ask(n)
		}
		synctest.Wait()
		if returned != 0 {
			t.Errorf("before anything is on disk: got %d answers; want none", returned)
		}
		proceed <- struct{}{}
		synctest.Wait()
		if returned != 3 {
			t.Errorf("after the first commit: got %d answers; want the 3 for its destination", returned)
		}
		proceed <- struct{}{}
		synctest.Wait()
		if returned != 101 {
			t.Errorf("after the second commit: got %d answers; want 101", returned)
		}
		if diff := cmp.Diff([]int{1, 49}, sizes); diff != "" {
			t.Errorf("writes per commit (-want +got):\n%s", diff)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRenewalsRarelyWrite(t *testing.T) {
	clock := &testClock{testTime}
	m := openTest(t, tableConfig(filepath.Join(t.TempDir(), "leases.db"), clock, "192.0.2.0/24"))
	commits := 0
	m.store.(*fileStore).write = func(writes []write) error {
		commits++
		return m.store.(*fileStore).update(writes)
	}
	dst := netip.MustParseAddr("198.51.100.1")
	const hours = 10
	for range hours * 3600 {
		if _, err := m.Relay(dst, false, time.Minute); err != nil {
			t.Fatal(err)
		}
		clock.t = clock.t.Add(time.Second)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if commits < hours || commits > 2*hours+1 {
		t.Errorf("asked every second for %d h: got %d commits; want %d to %d", hours, commits, hours, 2*hours+1)
	}
}

func TestRenewalDoesNotWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := &testClock{testTime}
		m, err := Open(tableConfig(filepath.Join(t.TempDir(), "leases.db"), clock, "192.0.2.0/24"))
		if err != nil {
			t.Fatal(err)
		}
		proceed := make(chan struct{}, 1)
		m.store.(*fileStore).write = func(writes []write) error {
			<-proceed
			return m.store.(*fileStore).update(writes)
		}
		proceed <- struct{}{}
		dst := netip.MustParseAddr("198.51.100.1")
		relay, err := m.Relay(dst, false, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		clock.t = clock.t.Add(ahead * time.Second * 3 / 4)
		if got, err := m.Relay(dst, false, time.Minute); got != relay || err != nil { // would never return
			t.Errorf("renewal: got %v, %v; want %v", got, err, relay)
		}
		proceed <- struct{}{}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if got, want := m.table4.byDst[dst].disk.Load(), clock.t.Unix()+ahead; got < want {
			t.Errorf("expiry on disk: got %d; want %d or more", got, want)
		}
	})
}

func TestDiskFailsAndRecovers(t *testing.T) {
	clock := &testClock{testTime}
	cfg := tableConfig(filepath.Join(t.TempDir(), "leases.db"), clock, "192.0.2.0/24")
	m := openTest(t, cfg)
	old := netip.MustParseAddr("198.51.100.1")
	oldRelay, err := m.Relay(old, false, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	fail := full
	m.store.(*fileStore).write = func(writes []write) error {
		if fail != nil {
			return fail
		}
		return m.store.(*fileStore).update(writes)
	}
	dst := netip.MustParseAddr("198.51.100.2")
	if got, err := m.Relay(dst, false, time.Minute); !errors.Is(err, full) {
		t.Errorf("new lease: got %v, %v; want %v", got, err, full)
	}
	if got, err := m.Relay(old, false, time.Minute); got != oldRelay || err != nil {
		t.Errorf("lease on disk: got %v, %v; want %v", got, err, oldRelay)
	}
	clock.t = clock.t.Add(2 * ahead * time.Second)
	if got, err := m.Relay(old, false, time.Minute); !errors.Is(err, full) {
		t.Errorf("renewal beyond what is on disk: got %v, %v; want %v", got, err, full)
	}
	fail = nil
	relay, err := m.Relay(dst, false, time.Minute)
	if err != nil {
		t.Errorf("after recovery: %v", err)
	}
	m = reopen(t, m, cfg)
	checkLeases(t, m, map[netip.Addr]netip.Addr{dst: relay, old: oldRelay})
}

func TestDiskPanics(t *testing.T) {
	m := openTest(t, tableConfig(filepath.Join(t.TempDir(), "leases.db"), &testClock{testTime}, "192.0.2.0/24"))
	m.store.(*fileStore).write = func([]write) error { panic("page 7: multiple references") }
	for range 2 {
		_, err := m.Relay(netip.MustParseAddr("198.51.100.1"), false, time.Minute)
		wantError(t, err, m.store.(*fileStore).path, "damaged")
	}
}

func TestDiskTooSlow(t *testing.T) {
	clock := &testClock{testTime}
	m := openTest(t, tableConfig(filepath.Join(t.TempDir(), "leases.db"), clock, "192.0.2.0/24"))
	m.store.(*fileStore).write = func([]write) error {
		clock.t = clock.t.Add(2 * ahead * time.Second)
		return nil
	}
	if got, err := m.Relay(netip.MustParseAddr("198.51.100.1"), false, time.Minute); !errors.Is(err, errSlow) {
		t.Errorf("got %v, %v; want %v", got, err, errSlow)
	}
}
