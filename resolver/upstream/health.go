package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// Timing of the upstreams.
const (
	// A try that has no response yet is not given up, but from then on another one runs as well: a resolver may
	// need seconds for a name that nobody asked for in a while. The delay follows the round trip time as a
	// retransmission timer does (RFC 6298, Section 2), between these bounds.
	firstDelay = 800 * time.Millisecond
	minDelay   = 200 * time.Millisecond
	maxDelay   = 1500 * time.Millisecond
	// suspectAfter failures without a success between them, an upstream is probed, and is sick if that fails as
	// well. A slow zone can make single queries fail, but not a probe.
	suspectAfter = 3
	probeTimeout = time.Second
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// upstream is one resolver with what is known about its health.
type upstream struct {
	// set once
	config Config
	x      Exchanger
	group  *Group
	ctx    context.Context // done when no pool has it any more
	cancel context.CancelFunc

	queries, failed atomic.Uint64

	mu       sync.Mutex    // guards the following
	srtt     time.Duration // smoothed round trip time, 0 if unknown
	rttvar   time.Duration // its variation
	failures int           // since the last success
	probing  bool
	sick     bool
}

// newUpstream returns the upstream that c describes. Nothing is sent before the first query.
func newUpstream(c Config, g *Group) (*upstream, error) {
	if !c.Addr.IsValid() || c.Addr.Port() == 0 {
		return nil, fmt.Errorf("upstream %q has no address and port", c.Addr)
	}
	x, err := newExchanger(c, g)
	if err != nil {
		return nil, err
	}
	u := &upstream{config: c, x: x, group: g}
	u.ctx, u.cancel = context.WithCancel(g.ctx)
	return u, nil
}

// String returns the upstream as it is configured.
func (u *upstream) String() string {
	switch {
	case u.config.Protocol == UDP:
		return "udp://" + u.config.Addr.String()
	case u.config.Name == "":
		return "tls://" + u.config.Addr.String()
	}
	return "tls://" + u.config.Addr.String() + "#" + u.config.Name
}

// retire ends the probes of u. Queries under way, and even new ones, still work.
func (u *upstream) retire() {
	u.cancel()
	u.x.Retire()
}

// healthy reports whether u is to be asked before those that are sick.
func (u *upstream) healthy() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.sick
}

// delay returns how long to wait for u before another try is started.
func (u *upstream) delay() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.sick:
		return minDelay
	case u.srtt == 0:
		return firstDelay
	}
	return min(max(u.srtt+4*u.rttvar, minDelay), maxDelay)
}

// exchange asks u and keeps account of its health. That somebody else was faster, or the client left, is not u's
// fault, unless u had had its time.
func (u *upstream) exchange(ctx context.Context, query []byte) ([]byte, error) {
	u.queries.Add(1)
	delay, start := u.delay(), time.Now()
	msg, err := u.x.Exchange(ctx, query)
	elapsed := time.Since(start)
	switch {
	case err == nil:
		u.succeed(elapsed)
	case ctx.Err() == nil || elapsed > delay:
		u.fail()
	}
	return msg, err
}

// succeed takes note of a response that took rtt. See RFC 6298, Section 2.
func (u *upstream) succeed(rtt time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.srtt == 0 {
		u.srtt, u.rttvar = rtt, rtt/2
	} else {
		u.rttvar += ((u.srtt - rtt).Abs() - u.rttvar) / 4
		u.srtt += (rtt - u.srtt) / 8
	}
	u.failures = 0
	if u.sick {
		u.sick = false
		u.group.log.Info().Stringer("upstream", u).Msg("upstream answers again")
	}
}

// fail takes note of a query without a response.
func (u *upstream) fail() {
	u.failed.Add(1)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failures++
	if u.failures >= suspectAfter && !u.probing {
		u.probing = true
		u.group.work.Go(u.probe)
	}
}

// probe asks u for the root until it answers, ever more seldom.
func (u *upstream) probe() {
	backoff := firstBackoff
	for !u.probeOnce() {
		select {
		case <-time.After(backoff + rand.N(backoff/4)):
		case <-u.ctx.Done():
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// probeOnce reports whether the probe is over. u is sick if it is not.
func (u *upstream) probeOnce() bool {
	ctx, cancel := context.WithTimeout(u.ctx, probeTimeout)
	defer cancel()
	var k wire.Key
	k.Set([]byte{0, 0, byte(dns.TypeNS), 0, dns.ClassINET}, 0)
	start := time.Now()
	_, err := u.x.Exchange(ctx, wire.AppendQuery(nil, &k))
	if err == nil {
		u.succeed(time.Since(start))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.probing = u.failures > 0 && u.ctx.Err() == nil
	if u.probing && !u.sick {
		u.sick = true
		u.group.log.Warn().Stringer("upstream", u).Err(err).Msg("upstream does not answer")
	}
	return !u.probing
}

// stats returns the counters of u.
func (u *upstream) stats() Stats {
	return Stats{Name: u.String(), Queries: u.queries.Load(), Failures: u.failed.Load(), Healthy: u.healthy()}
}
