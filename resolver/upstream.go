package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// Timing of the upstreams.
const (
	// A try that has no reply yet is not given up, but from then on another one runs beside it: a resolver may
	// need seconds for a name that nobody asked for in a while. The delay follows the round trip time as a
	// retransmission timer does (RFC 6298, Section 2), between these bounds.
	firstDelay = 800 * time.Millisecond
	minDelay   = 200 * time.Millisecond
	maxDelay   = 1500 * time.Millisecond
	// minTries and maxTries bound the queries to upstreams for one question.
	minTries = 3
	maxTries = 6
	// suspectAfter failures without a success between them, an upstream is probed, and is sick if that fails as
	// well. A slow zone can make single queries fail, but not a probe.
	suspectAfter = 3
	probeTimeout = time.Second
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// Errors of the exchange with upstreams.
var (
	errNoUpstream = errors.New("resolver: no upstream is configured")
	errSpoofed    = errors.New("resolver: only datagrams that answer another query")
	errUnanswered = errors.New("resolver: no upstream answered in time")
)

// exchanger asks one upstream. It is the seam for further protocols.
type exchanger interface {
	// exchange sends query, whose ID it replaces, and returns the reply, which has the ID of what was sent and
	// the same question. The last record of query is an OPT without options; query itself is not changed.
	Exchange(ctx context.Context, query []byte) ([]byte, error)
	// retire lets go of what is held for further queries, once nobody waits for it.
	Retire()
}

// upstream is one resolver with what is known about its health.
type upstream struct {
	// set once
	config Upstream
	x      exchanger
	tasks  *tasks
	log    zerolog.Logger
	ctx    context.Context // done when no settings have it any more
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
func newUpstream(c Upstream, t *tasks, log zerolog.Logger) (*upstream, error) {
	if !c.Addr.IsValid() || c.Addr.Port() == 0 {
		return nil, fmt.Errorf("upstream %q has no address and port", c.Addr)
	}
	u := &upstream{config: c, tasks: t, log: log}
	switch c.Protocol {
	case UpstreamUDP:
		u.x = newUDPUpstream(c.Addr, t)
	case UpstreamTLS:
		u.x = newTLSUpstream(c, t)
	default:
		return nil, fmt.Errorf("upstream %s has the unknown protocol %d", c.Addr, c.Protocol)
	}
	u.ctx, u.cancel = context.WithCancel(t.ctx)
	return u, nil
}

// String returns the upstream as it is configured.
func (u *upstream) String() string {
	switch {
	case u.config.Protocol == UpstreamUDP:
		return "udp://" + u.config.Addr.String()
	case u.config.Name == "":
		return "tls://" + u.config.Addr.String()
	}
	return "tls://" + u.config.Addr.String() + "#" + u.config.Name
}

// retire ends what u does beside queries. Queries under way, and even new ones, still work.
func (u *upstream) retire() {
	u.cancel()
	u.x.Retire()
}

// healthy reports whether u is to be asked before those that are not.
func (u *upstream) healthy() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.sick
}

// delay returns how long to wait for u before another try runs beside it.
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

// succeed takes note of a reply that took rtt. See RFC 6298, Section 2.
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
		u.log.Info().Stringer("upstream", u).Msg("upstream answers again")
	}
}

// fail takes note of a query without a reply.
func (u *upstream) fail() {
	u.failed.Add(1)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failures++
	if u.failures >= suspectAfter && !u.probing {
		u.probing = true
		u.tasks.wg.Go(u.probe)
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
		u.log.Warn().Stringer("upstream", u).Err(err).Msg("upstream does not answer")
	}
	return !u.probing
}

// stats returns the counters of u.
func (u *upstream) stats() UpstreamStats {
	return UpstreamStats{Name: u.String(), Queries: u.queries.Load(), Failures: u.failed.Load(), Healthy: u.healthy()}
}

// pool is the upstreams of one generation of settings.
type pool []*upstream

// order returns the upstreams as they are to be tried: those that are well, then the others.
func (p pool) order() []*upstream {
	order := make([]*upstream, 0, len(p))
	var sick []*upstream
	for _, u := range p {
		if u.healthy() {
			order = append(order, u)
		} else {
			sick = append(sick, u)
		}
	}
	return append(order, sick...)
}

// resolve asks the upstreams for k. The first good reply wins: one that is well-formed and does not say that this
// upstream cannot serve us. If there are only such, the first of them is returned.
func (p pool) resolve(ctx context.Context, k *wire.Key, clock func() int64) (*wire.Response, error) {
	order := p.order()
	if len(order) == 0 {
		return nil, errNoUpstream
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := race{order: order, k: k, clock: clock, query: wire.AppendQuery(nil, k)}
	r.results = make(chan result, maxTries)
	return r.run(ctx)
}

// race is the tries for one question.
type race struct {
	order   []*upstream
	k       *wire.Key
	clock   func() int64
	query   []byte
	results chan result // room for all, so that losers need no reader

	started, running int
	second           *wire.Response // the first that is not final
	err              error          // the first
}

// result is the end of one try.
type result struct {
	reply *wire.Response
	err   error
}

// tries returns how many there are at most.
func (r *race) tries() int { return min(max(minTries, len(r.order)), maxTries) }

// run starts tries, each when the one before has failed or had its time, until one has a reply.
func (r *race) run(ctx context.Context) (*wire.Response, error) {
	timer := time.NewTimer(r.start(ctx))
	defer timer.Stop()
	for {
		select {
		case res := <-r.results:
			r.running--
			if res.err == nil && final(res.reply) {
				return res.reply, nil
			}
			r.note(res)
			switch {
			case r.started < len(r.order) && r.started < maxTries:
				timer.Reset(r.start(ctx))
			case r.running == 0 && (r.second != nil || r.started == r.tries()):
				return r.best()
			}
		case <-timer.C:
			if r.started < r.tries() {
				timer.Reset(r.start(ctx))
			}
		case <-ctx.Done():
			r.err = cmp.Or(r.err, errUnanswered)
			return r.best()
		}
	}
}

// start starts the next try and returns how long it has.
func (r *race) start(ctx context.Context) time.Duration {
	u := r.order[r.started%len(r.order)]
	r.started++
	r.running++
	u.tasks.wg.Go(func() {
		msg, err := u.exchange(ctx, r.query)
		var reply *wire.Response
		if err == nil {
			reply, err = wire.NewResponse(msg, r.k, r.clock())
		}
		r.results <- result{reply, err}
	})
	return u.delay()
}

// note remembers what there is if nothing better comes.
func (r *race) note(res result) {
	if res.err == nil {
		r.second = cmp.Or(r.second, res.reply)
	} else {
		r.err = cmp.Or(r.err, res.err)
	}
}

// best returns what is left when no try had a final reply.
func (r *race) best() (*wire.Response, error) {
	if r.second != nil {
		return r.second, nil
	}
	return nil, r.err
}

// final reports whether another upstream need not be asked. SERVFAIL is: it is how a validating upstream says that
// an answer is bogus, and that must not be shopped around for. The others say that this upstream cannot serve us.
func final(p *wire.Response) bool {
	switch p.Rcode() {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeRefused:
		return false
	}
	return true
}
