package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// Timing of probes.
const (
	// suspectAfter failures without a success between them, an upstream is probed, and is sick if that fails as
	// well. A slow or broken zone can make queries fail, but not a probe.
	suspectAfter = 3
	probeTimeout = time.Second
	// probePause is between a probe that succeeded and the next one, so that a zone that fails again and again does not
	// have the upstream probed as often.
	probePause   = time.Second
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// health is what is known about whether an upstream answers, and how fast.
type health struct {
	rtt      rtt
	failures int  // since the last success
	reached  bool // it has answered a question, at some time
	probing  bool
	probed   time.Time // when a probe succeeded last
	sick     bool
}

// inOrder reports whether u is to be asked before those that are sick.
func (u *upstream) inOrder() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.health.sick
}

// healthy reports whether u has answered, and is not known to have ceased to.
func (u *upstream) healthy() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.health.reached && !u.health.sick
}

// delay returns how long to wait for u before another try is started.
func (u *upstream) delay() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.health.sick {
		return minDelay
	}
	return u.health.rtt.usual()
}

// succeed takes note of a good response that took d.
func (u *upstream) succeed(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	h := &u.health
	h.rtt.observe(d)
	h.failures, h.reached = 0, true
	if h.sick {
		h.sick = false
		u.group.log.Info().Stringer("upstream", u).Msg("upstream answers again")
	}
}

// fail takes note of a query without a good response.
func (u *upstream) fail() {
	u.mu.Lock()
	defer u.mu.Unlock()
	h := &u.health
	h.failures++
	if h.failures >= suspectAfter && time.Since(h.probed) >= probePause {
		u.startProbeLocked()
	}
}

// check has u probed if it has not answered anything yet.
func (u *upstream) check() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.health.reached {
		u.startProbeLocked()
	}
}

// startProbeLocked has u probed, unless it is.
func (u *upstream) startProbeLocked() {
	if !u.health.probing {
		u.health.probing = true
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

// probeOnce reports whether the probe is over: u has answered, the probe or a query meanwhile, or is not wanted any more.
// u is sick if it is not over. That u says that it cannot serve us is no answer.
func (u *upstream) probeOnce() bool {
	ctx, cancel := context.WithTimeout(u.ctx, probeTimeout)
	defer cancel()
	var k wire.Key
	k.Set([]byte{0, 0, byte(dns.TypeNS), 0, dns.ClassINET}, 0)
	start := time.Now()
	p, _, err := u.ask(ctx, wire.AppendQuery(nil, &k), &k)
	ok := err == nil && isFinal(p)
	if ok {
		u.succeed(time.Since(start))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	h := &u.health
	if ok {
		h.probed = time.Now()
	}
	over := ok || u.ctx.Err() != nil || h.reached && h.failures == 0
	h.probing = !over
	if !over && !h.sick {
		h.sick = true
		line := u.group.log.Warn().Stringer("upstream", u).Err(err)
		if err == nil {
			line = line.Str("rcode", dns.RcodeToString[int(p.Rcode())])
		}
		line.Msg("upstream does not answer")
	}
	return over
}

// ownFault reports whether err is about what this host lacks, of which no upstream is to blame.
func ownFault(err error) bool {
	for _, lack := range []error{
		errNoSocket, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN,
	} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}
