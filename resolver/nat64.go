package resolver

import (
	"context"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/steer"
)

// The upstreams are asked for prefixes for NAT64 again when the answer is over, but not more often and not more rarely than
// this. See RFC 7050, Section 3.
const (
	minDiscovery = time.Minute
	maxDiscovery = time.Hour
)

// CheckNAT64 reports what is wrong with p as a prefix of Steering.NAT64, or nil.
func CheckNAT64(p netip.Prefix) error { return steer.CheckNAT64(p) }

// discoverNAT64 keeps what set.steering knows of prefixes for NAT64 up to date until ctx is done. If an answer fails, what
// is known stays.
func (f *forwarder) discoverNAT64(ctx context.Context, set *settings) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(f.askNAT64(ctx, set))
		}
	}
}

// askNAT64 asks once, and returns when to ask again. The answer has addresses if the upstream is a DNS64, and none else.
func (f *forwarder) askNAT64(ctx context.Context, set *settings) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, f.flights.timeout)
	defer cancel()
	k, err := wire.NewKey("ipv4only.arpa.", dns.TypeAAAA, 0)
	if err != nil {
		return maxDiscovery
	}
	p, err := set.upstreams.Resolve(ctx, k, netip.Addr{})
	if err != nil || p.Rcode() != dns.RcodeSuccess {
		return minDiscovery
	}
	m, err := p.Parse()
	if err != nil {
		return minDiscovery
	}
	var addrs []netip.Addr
	for _, r := range m.Sections[wire.AnswerSection] {
		if addr, ok := netip.AddrFromSlice(r.Data); ok && r.Type == dns.TypeAAAA {
			addrs = append(addrs, addr)
		}
	}
	if prefixes := steer.NAT64Prefixes(addrs); set.steering.Discovered(prefixes) {
		f.log.Info().Any("prefixes", prefixes).Msg("the upstreams' prefixes for NAT64 have changed")
		f.cache.unsteerAll(set.gen)
	}
	return min(max(time.Duration(p.TTL)*time.Second, minDiscovery), maxDiscovery)
}

// unsteerAll forgets what generation gen decided about addresses.
func (c *cache) unsteerAll(gen uint32) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, e := range s.buckets {
			for ; e != nil; e = e.chain {
				if e.steeredGen == gen {
					e.steeredUntil = 0
				}
			}
		}
		s.mu.Unlock()
	}
}
