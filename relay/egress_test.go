package relay

import (
	"errors"
	"math"
	"net/netip"
	"slices"
	"testing"
)

func parsePrefixes(s ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range s {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func newTestEgress(t testing.TB, s ...string) *egress {
	t.Helper()
	e, err := newEgress(parsePrefixes(s...), new(random))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestEgressUniform compares draws with the uniform distribution by Pearson's chi-squared test: of addresses, and of
// ports in blocks of 1024, which a bias of any construction from 16 random bits would show.
func TestEgressUniform(t *testing.T) {
	tests := []struct {
		name     string
		prefixes []string
		v6       bool
		addrs    []string // all of them
	}{
		{"v4-sizes", []string{"192.0.2.0/31", "198.51.100.7/32", "203.0.113.4/30"}, false, []string{
			"192.0.2.0", "192.0.2.1", "198.51.100.7", "203.0.113.4", "203.0.113.5", "203.0.113.6", "203.0.113.7",
		}},
		{"v4-nested-count-once", []string{"192.0.2.0/32", "192.0.2.0/31", "192.0.2.1/32"}, false, []string{
			"192.0.2.0", "192.0.2.1",
		}},
		{"v6", []string{"2001:db8::ff:fffe/127", "2001:db8:1::/128", "192.0.2.0/24"}, true, []string{
			"2001:db8::ff:fffe", "2001:db8::ff:ffff", "2001:db8:1::",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const draws = 1 << 18
			e := newTestEgress(t, tt.prefixes...)
			addrs, ports := map[netip.Addr]int{}, make([]int, portCount/1024)
			for range draws {
				src, err := e.draw(tt.v6)
				if err != nil {
					t.Fatal(err)
				}
				addrs[src.Addr()]++
				ports[(src.Port()-firstPort)/1024]++
			}
			var counts []int
			for _, a := range tt.addrs {
				counts = append(counts, addrs[netip.MustParseAddr(a)])
			}
			wantUniform(t, "addresses", counts, draws)
			wantUniform(t, "ports", ports, draws)
		})
	}
}

// wantUniform fails if chance would give such counts less than once in 10^9 times: then the statistic, which is
// nearly normal with mean n-1 and variance 2(n-1) for n counts, is more than 6 standard deviations and a little above.
func wantUniform(t *testing.T, what string, counts []int, total int) {
	t.Helper()
	expected := float64(total) / float64(len(counts))
	var chi2 float64
	for _, n := range counts {
		chi2 += (float64(n) - expected) * (float64(n) - expected) / expected
	}
	free := float64(len(counts) - 1)
	if limit := free + 6*math.Sqrt(2*free) + 36; chi2 > limit {
		t.Errorf("%s: got chi-squared %.1f; want at most %.1f: %v", what, chi2, limit, counts)
	}
}

func TestEgressWholePortRange(t *testing.T) {
	e := newTestEgress(t, "192.0.2.1/32")
	var seen [1 << 16]bool
	// After so many draws one of the 64512 ports is unseen with a chance below 10^-9.
	for range 33 * portCount {
		src, err := e.draw(false)
		if err != nil {
			t.Fatal(err)
		}
		seen[src.Port()] = true
	}
	for port, got := range seen {
		if want := port >= 1024; got != want {
			t.Errorf("port %d: got drawn %v; want %v", port, got, want)
		}
	}
}

// owns reports whether addr may be drawn.
func (e *egress) owns(addr netip.Addr) bool {
	return slices.ContainsFunc(e.family(addr.Is6()).prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func TestEgressHugePrefix(t *testing.T) {
	e := newTestEgress(t, "2001:db8::/32", "2001:db9::/64")
	high, low := uint64(0), uint64(0)
	for range 1000 {
		src, err := e.draw(true)
		if err != nil {
			t.Fatal(err)
		}
		if !e.owns(src.Addr()) {
			t.Fatalf("got %v; want one of %v", src, e.v6.prefixes)
		}
		d := offsetBits(src.Addr())
		high, low = high|d.hi, low|d.lo
	}
	if high&0xffffffff != 0xffffffff || low != math.MaxUint64 {
		t.Errorf("bits %x %x were ever set; want all 96 of the host part", high, low)
	}
}

// offsetBits returns addr as a number.
func offsetBits(addr netip.Addr) (n uint128) {
	for i, b := range addr.As16() {
		if i < 8 {
			n.hi = n.hi<<8 | uint64(b)
		} else {
			n.lo = n.lo<<8 | uint64(b)
		}
	}
	return n
}

func TestEgressErrors(t *testing.T) {
	e := newTestEgress(t, "192.0.2.0/24")
	if _, err := e.draw(true); !errors.Is(err, errNoEgress) {
		t.Errorf("got error %v; want %v", err, errNoEgress)
	}
	for _, p := range [][]netip.Prefix{
		nil,
		{{}},
		parsePrefixes("224.0.0.0/8"), parsePrefixes("ff00::/64"), parsePrefixes("0.0.0.0/24"),
		parsePrefixes("2001::/16"),
	} {
		if _, err := newEgress(p, new(random)); err == nil {
			t.Errorf("%v: got no error", p)
		}
	}
}

// TestEgressMapped takes a prefix of IPv4-mapped addresses for one of IPv4, as every set of prefixes does.
func TestEgressMapped(t *testing.T) {
	e := newTestEgress(t, "::ffff:192.0.2.0/120")
	if src, err := e.draw(false); err != nil || !netip.MustParsePrefix("192.0.2.0/24").Contains(src.Addr()) {
		t.Errorf("got source %v, error %v; want one of 192.0.2.0/24", src, err)
	}
	if _, err := e.draw(true); !errors.Is(err, errNoEgress) {
		t.Errorf("IPv6: got error %v; want %v", err, errNoEgress)
	}
}

func TestEgressEntropy(t *testing.T) {
	e := newTestEgress(t, "192.0.2.0/28", "2001:db8::/64")
	tests := []struct {
		pool  *pool
		flows int
		want  float64
	}{
		{&e.v4, 0, 4 + 15.9773},
		{&e.v4, 16 * portCount / 2, 3 + 15.9773},
		{&e.v6, 1 << 20, 64 + 15.9773},
		{new(pool), 1, 0},
	}
	for _, tt := range tests {
		if got := tt.pool.entropy(tt.flows); math.Abs(got-tt.want) > 1e-4 {
			t.Errorf("%v with %d flows: got %f bits; want %f", tt.pool.prefixes, tt.flows, got, tt.want)
		}
	}
	if err := e.suffices(16 * portCount); err == nil {
		t.Error("got no error for as many flows as tuples")
	}
	if err := e.suffices(16*portCount - 1); err != nil {
		t.Error(err)
	}
}

func TestEgressAllocs(t *testing.T) {
	e := newTestEgress(t, "192.0.2.0/24", "2001:db8::/64")
	for _, v6 := range []bool{false, true} {
		if n := testing.AllocsPerRun(1000, func() { _, _ = e.draw(v6) }); n != 0 {
			t.Errorf("v6 %v: got %v allocations a draw; want 0", v6, n)
		}
	}
}

func BenchmarkEgressDraw(b *testing.B) {
	e := newTestEgress(b, "192.0.2.0/24", "2001:db8::/64")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = e.draw(true)
	}
}
