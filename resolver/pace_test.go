package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// poolRelay leases addresses out of a pool, without ever taking one back.
type poolRelay struct {
	dnstest.Relay
	size uint64

	mu     sync.Mutex
	leases map[netip.Addr]netip.Addr
}

func (r *poolRelay) Answer() Answer { return r }

func (r *poolRelay) RelayAddr(
	_ context.Context, dst netip.Addr, v6 bool, _ time.Duration, fresh func(used, size uint64) bool,
) (netip.Addr, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v6 || dst.Is6() {
		return netip.Addr{}, false, nil
	}
	addr, ok := r.leases[dst]
	switch n := uint64(len(r.leases)); {
	case ok:
		return addr, true, nil
	case n == r.size || !fresh(n, r.size):
		return netip.Addr{}, false, errors.New("no address")
	}
	if r.leases == nil {
		r.leases = make(map[netip.Addr]netip.Addr)
	}
	n := len(r.leases)
	r.leases[dst] = netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)})
	return r.leases[dst], true, nil
}

// used returns how many addresses are leased.
func (r *poolRelay) used() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.leases)
}

// manyAddresses answers for names below evil.example with n records each, of addresses that are all different, and for
// others with one.
func manyAddresses(n int) *dnstest.Upstream {
	next := 0
	var mu sync.Mutex
	return &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		mu.Lock()
		defer mu.Unlock()
		name, w := m.Question[0].Name, dnstest.World{}
		count := 1
		if dns.IsSubDomain("evil.example.", name) {
			count = n
		}
		var hints strings.Builder
		for range count {
			next++
			addr := netip.AddrFrom4([4]byte{192, 0, byte(next >> 8), byte(next)})
			w = append(w, fmt.Sprintf("%s 300 A %s", name, addr))
			hints.WriteString("," + addr.String())
		}
		w = append(w, fmt.Sprintf("%s 300 HTTPS 1 . ipv4hint=%s", name, hints.String()[1:]))
		return w.Response(name, m.Question[0].Qtype), nil
	}}
}

// TestPoolIsNotEmptied: who owns a domain, and asks for it as often as he likes, leaves addresses for what others ask for.
func TestPoolIsNotEmptied(t *testing.T) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeHTTPS} {
		for _, size := range []uint64{254, 65534} {
			t.Run(fmt.Sprintf("%s-%d", dns.TypeToString[qtype], size), func(t *testing.T) {
				relay := &poolRelay{size: size}
				h := testHandler(t, Config{Settings: Settings{Steering: &Steering{
					Policy: dnstest.Rules("."), Relay: relay, Clients: everybody, OnFailure: FailServfail,
				}}}, manyAddresses(30))
				h.budgets = nil // which would keep a client from asking so much at once
				for i := range min(3*size, 4000) {
					askFrom(t, h, "192.0.2.66", fmt.Sprintf("n%d.evil.example.", i), qtype)
				}
				if used := uint64(relay.used()); used > size/2 {
					t.Fatalf("one client took %d of %d addresses", used, size)
				}
				for i := range 10 {
					name := fmt.Sprintf("www.shop%d.test.", i)
					if got := askFrom(t, h, "192.0.2.77", name, dns.TypeA); netip.MustParseAddr(got).As4()[0] != 198 {
						t.Errorf("%s: got %s; want the relay's address", name, got)
					}
				}
			})
		}
	}
}

// TestRefusalIsNotShared: that one client has had too many addresses is not what others get to see.
func TestRefusalIsNotShared(t *testing.T) {
	for mode, want := range map[FailMode]string{FailServfail: "SERVFAIL", FailPass: "192"} {
		relay := &poolRelay{size: 64}
		h := testHandler(t, Config{Settings: Settings{Steering: &Steering{
			Policy: dnstest.Rules("."), Relay: relay, Clients: everybody, OnFailure: mode,
		}}}, manyAddresses(1))
		last := ""
		for i := 0; i < 100 && last != want; i++ {
			last = askFrom(t, h, "192.0.2.66", fmt.Sprintf("n%d.evil.example.", i), dns.TypeA)[:len(want)]
		}
		got := askFrom(t, h, "192.0.2.66", "www.shop.test.", dns.TypeA)[:len(want)]
		if last != want || got != want {
			t.Fatalf("got %s, %s; want %s for the one who asks for too much", last, got, want)
		}
		if got := askFrom(t, h, "192.0.2.77", "www.shop.test.", dns.TypeA); got[:3] != "198" {
			t.Errorf("got %s for another client; want the relay's address", got)
		}
	}
}
