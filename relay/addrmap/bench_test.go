package addrmap

import (
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func benchTable(b *testing.B, path string) *Map {
	return openTest(b, Config{Table: &TableConfig{Path: path, Prefixes: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/64"),
	}}})
}

func BenchmarkRelayHit(b *testing.B) {
	m := benchTable(b, filepath.Join(b.TempDir(), "leases.db"))
	dst := netip.MustParseAddr("198.51.100.1")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := m.Relay(dst, false, time.Minute); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkAcquire(b *testing.B) {
	m := benchTable(b, "")
	relay, err := m.Relay(netip.MustParseAddr("198.51.100.1"), false, time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, release, _ := m.Acquire(relay)
			release()
		}
	})
}

// BenchmarkRelayNew measures new leases: one after the other, which each wait for the disk, and by many at a time,
// which share it.
func BenchmarkRelayNew(b *testing.B) {
	for name, parallelism := range map[string]int{"one": 0, "many": 64} {
		b.Run(name, func(b *testing.B) {
			m := benchTable(b, filepath.Join(b.TempDir(), "leases.db"))
			var n atomic.Int64
			b.ReportAllocs()
			if parallelism == 0 {
				for b.Loop() {
					mustLease(b, m, int(n.Add(1)))
				}
				return
			}
			b.SetParallelism(parallelism)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mustLease(b, m, int(n.Add(1)))
				}
			})
		})
	}
}

func mustLease(b *testing.B, m *Map, n int) {
	if _, err := m.Relay(destination(n, netip.IPv6Unspecified()), true, time.Minute); err != nil {
		b.Error(err)
	}
}

// BenchmarkReclaim measures what a new lease costs in a full table of a million, without the disk.
func BenchmarkReclaim(b *testing.B) {
	clock := &testClock{testTime}
	m := openTest(b, Config{Table: &TableConfig{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64")}, Clock: clock.now,
	}})
	n := 0
	for ; n < defaultLeases; n++ {
		mustLease(b, m, n)
	}
	b.ReportAllocs()
	for b.Loop() {
		if n%defaultLeases == 0 {
			clock.t = clock.t.Add(time.Hour) // all expire at once
		}
		mustLease(b, m, n)
		n++
	}
}
