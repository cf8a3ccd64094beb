package addrmap

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
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
// which share it. How long each of them waits is the time of an operation times how many there are at a time.
func BenchmarkRelayNew(b *testing.B) {
	for _, inFlight := range []int{1, 200, 2000} {
		b.Run(strconv.Itoa(inFlight), func(b *testing.B) {
			m := benchTable(b, filepath.Join(b.TempDir(), "leases.db"))
			var n atomic.Int64
			defer reportWritten(b)()
			b.ReportAllocs()
			if inFlight == 1 {
				for b.Loop() {
					mustLease(b, m, int(n.Add(1)))
				}
				return
			}
			b.SetParallelism(inFlight / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mustLease(b, m, int(n.Add(1)))
				}
			})
		})
	}
}

// BenchmarkAnswer measures a response with as many new addresses as fit into one.
func BenchmarkAnswer(b *testing.B) {
	m := benchTable(b, filepath.Join(b.TempDir(), "leases.db"))
	n := 0
	defer reportWritten(b)()
	b.ReportAllocs()
	for b.Loop() {
		a := m.NewAnswer()
		for range 3900 {
			if _, err := a.Relay(destination(n, netip.IPv6Unspecified()), true, time.Minute, nil); err != nil {
				b.Fatal(err)
			}
			n++
		}
		if err := a.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
		if n > defaultLeases-3900 {
			b.StopTimer()
			m.Close()
			m, n = benchTable(b, filepath.Join(b.TempDir(), "leases.db")), 0
			b.StartTimer()
		}
	}
}

// BenchmarkSync measures what a commit cannot be faster than: one sector written to the same disk and synced.
func BenchmarkSync(b *testing.B) {
	l, _, _, err := openLog(filepath.Join(b.TempDir(), "leases.db"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := l.probe(); err != nil {
			b.Fatal(err)
		}
	}
}

// reportWritten returns what reports how many octets the process has had written by the disk since, per operation.
func reportWritten(b *testing.B) func() {
	before := written(b)
	return func() { b.ReportMetric(float64(written(b)-before)/float64(b.N), "written-B/op") }
}

// written returns how many octets the process has had written by disks, or 0 where the system does not count.
func written(b *testing.B) (n uint64) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			if n, err = strconv.ParseUint(strings.TrimSpace(v), 10, 64); err != nil {
				b.Fatal(err)
			}
		}
	}
	return n
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
