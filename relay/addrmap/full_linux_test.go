package addrmap

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestDiskFull leases on a file system until it is full: what a client got by then is there, nothing else is given out,
// and once there is room it goes on by itself.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		if errors.Is(err, syscall.EPERM) && os.Getenv("E2E_REQUIRED") != "1" {
			t.Skipf("SKIPPED: no right to mount a tmpfs: %v", err)
		}
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	filler := filepath.Join(dir, "filler")
	cfg := Config{Table: &TableConfig{Path: filepath.Join(dir, "leases.db"), Prefixes: []netip.Prefix{
		netip.MustParsePrefix("10.99.0.0/16"), netip.MustParsePrefix("2001:db8:1::/64"),
	}}}
	m := openTest(t, cfg)
	if err := os.WriteFile(filler, make([]byte, 4<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill: got %v; want no space left", err)
	}
	leases := make(map[netip.Addr]netip.Addr)
	var err error
	for n := 0; err == nil; n++ {
		dst := destination(n, [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[n%2])
		var relay netip.Addr
		if relay, err = m.Relay(dst, dst.Is6(), time.Minute); err == nil {
			leases[dst] = relay
		}
	}
	if fault, _ := m.Status(); !errors.Is(err, syscall.ENOSPC) || !errors.Is(fault, syscall.ENOSPC) || len(leases) < 100 {
		t.Fatalf("after %d leases: got %v, status %v; want no space left after what was made ahead", len(leases), err, fault)
	}
	checkLeases(t, m, leases)
	if got := len(m.table4.byDst) + len(m.table6.byDst); got != len(leases) {
		t.Errorf("got %d leases; want the %d that are on disk", got, len(leases))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		fault, _ := m.Status()
		if fault == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with room again: got %v", fault)
		}
		<-time.After(20 * time.Millisecond)
	}
	// A rewrite that finds no room leaves the file as it was, and nothing behind.
	if err := os.WriteFile(filler, make([]byte, 4<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill again: got %v; want no space left", err)
	}
	m.store.erase(func(r record) bool { return r.dst != destination(0, r.dst) })
	if _, kept := m.Status(); !errors.Is(kept, syscall.ENOSPC) {
		t.Errorf("rewrite without room: got %v; want no space left", kept)
	}
	if _, err := os.Stat(newPath(cfg.Table.Path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("rewrite without room: got %v; want nothing left behind", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	m.store.erase(m.keeps)
	if fault, kept := m.Status(); fault != nil || kept != nil {
		t.Errorf("rewrite with room: got %v, %v", fault, kept)
	}
	dst := destination(1<<16, netip.IPv6Unspecified())
	if leases[dst], err = m.Relay(dst, true, time.Minute); err != nil {
		t.Error(err)
	}
	m = reopen(t, m, cfg)
	checkLeases(t, m, leases)
}
