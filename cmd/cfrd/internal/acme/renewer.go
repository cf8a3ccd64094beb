package acme

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
)

const (
	// orderTimeout bounds one attempt, with all that it waits for.
	orderTimeout = 10 * time.Minute
	// firstRetry and lastRetry bound the pause after a failed attempt, which doubles each time. Authorities count
	// failures by the hour.
	firstRetry = 2 * time.Minute
	lastRetry  = time.Hour
	// windowInterval is how often an authority is asked for the time of renewal if it does not say itself. See RFC 9773,
	// Section 4.3.
	windowInterval = 6 * time.Hour
	// longestSleep lets the loop notice that the clock was set.
	longestSleep = time.Hour
)

// renewer orders the first certificate, and replaces it ahead of time and when the identity changes. The old one stays
// served while that fails.
type renewer struct {
	// set once by newRenewer
	holder    *certs.Holder
	store     store
	authority authority
	log       zerolog.Logger
	wake      chan struct{}

	mu   sync.Mutex
	want Identity

	// owned by run
	failures  int
	retryAt   time.Time
	succeeded time.Time // the newest attempt that did; zero before, and after update
	advised   advice
}

// advice is when the authority wants a certificate to be renewed.
type advice struct {
	serial string // of the certificate
	info   acme.RenewalInfo
	again  time.Time // when to ask again
}

// newRenewer returns a renewer that supplies holder with a certificate for want.
func newRenewer(holder *certs.Holder, store store, a authority, want Identity, log zerolog.Logger) *renewer {
	return &renewer{holder: holder, store: store, authority: a, want: want, log: log, wake: make(chan struct{}, 1)}
}

// Update has certificates say want from now on, and makes the next attempt at once.
func (r *renewer) Update(want Identity) {
	r.mu.Lock()
	r.want = want
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// wanted returns the identity that the next certificate is to have.
func (r *renewer) wanted() Identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.want
}

// run renews until ctx is done.
func (r *renewer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
			// Somebody has asked for it with a reload, and may know that the reason to wait is gone.
			r.retryAt, r.succeeded, r.advised.again = time.Time{}, time.Time{}, time.Time{}
		case <-timer.C:
		}
		timer.Reset(r.step(ctx))
	}
}

// step does what is due, and returns how long to wait until something is due again.
func (r *renewer) step(ctx context.Context) time.Duration {
	want := r.wanted()
	if time.Now().Before(r.due(want)) {
		r.takeAdvice(ctx)
	}
	if !time.Now().Before(r.due(want)) && r.attempt(ctx, want) {
		r.takeAdvice(ctx)
	}
	due := r.due(want)
	r.holder.SetNext(due)
	pause := time.Until(due)
	if !r.advised.again.IsZero() {
		pause = min(pause, time.Until(r.advised.again))
	}
	return min(max(pause, time.Second), longestSleep)
}

// due returns when the next attempt is to be made, which may be in the past.
func (r *renewer) due(want Identity) time.Time {
	at := r.renewAt(want)
	if at.Before(r.retryAt) {
		return r.retryAt
	}
	return at
}

// renewAt returns when the certificate being served is to be replaced: when the authority says, else when two thirds
// of its life are over, but in any case before it ends.
func (r *renewer) renewAt(want Identity) time.Time {
	leaf := r.holder.Leaf()
	if leaf == nil || !want.isOf(leaf) {
		return time.Time{}
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	at := leaf.NotBefore.Add(life * 2 / 3)
	if r.advised.serial == leaf.SerialNumber.String() && r.advised.info.HasWindow() {
		at = r.advised.info.SelectedTime
	}
	if last := leaf.NotAfter.Add(-life / 10); at.After(last) {
		at = last
	}
	// A wrong clock or an odd authority must not make orders follow one another at once.
	if soonest := r.succeeded.Add(min(life/3, lastRetry)); !r.succeeded.IsZero() && at.Before(soonest) {
		at = soonest
	}
	return at
}

// takeAdvice asks the authority when it wants the certificate to be renewed. Without an answer the last one stays.
func (r *renewer) takeAdvice(ctx context.Context) {
	leaf := r.holder.Leaf()
	if leaf == nil {
		return
	}
	serial := leaf.SerialNumber.String()
	if serial != r.advised.serial {
		r.advised = advice{serial: serial}
	}
	if time.Now().Before(r.advised.again) {
		return
	}
	r.advised.again = time.Now().Add(windowInterval)
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	info, err := r.authority.window(ctx, leaf)
	if err != nil {
		r.log.Debug().Err(err).Msg("no renewal window")
		return
	}
	if info.RetryAfter != nil {
		r.advised.again = clamp(*info.RetryAfter, time.Now().Add(time.Minute), time.Now().Add(24*time.Hour))
	}
	// The time within a window was drawn once, and is not drawn again.
	if !r.advised.info.SameWindow(info) {
		r.advised.info = info
	}
}

// clamp returns t, or low or high if t is beyond them.
func clamp(t, low, high time.Time) time.Time {
	switch {
	case t.Before(low):
		return low
	case t.After(high):
		return high
	}
	return t
}

// attempt renews, logs the outcome, and reports whether there is a new certificate.
func (r *renewer) attempt(ctx context.Context, want Identity) bool {
	cert, err := r.renew(ctx, want)
	if ctx.Err() != nil && cert == nil {
		return false
	}
	if cert == nil {
		r.failures++
		r.retryAt = time.Now().Add(retryPause(r.failures, err))
		err = certs.OneLine(err)
		r.holder.Refuse(fmt.Errorf("renewal failed: %w", err))
		r.log.Warn().Err(err).Strs("for", want.subjects()).Time("next_attempt", r.retryAt).
			Msg("no new certificate; what is served stays")
		return false
	}
	r.failures, r.retryAt, r.succeeded = 0, time.Time{}, time.Now()
	r.holder.Replace(cert)
	r.log.Info().Strs("for", want.subjects()).Time("expires", cert.Leaf.NotAfter).Msg("new certificate")
	if err != nil {
		r.holder.Complain("the new certificate cannot be kept for a restart: " + certs.OneLine(err).Error())
		r.log.Error().Err(err).Msg("the new certificate is served, but cannot be kept for a restart")
	}
	return true
}

// retryPause returns how long to wait after n failures, the last of which is err. It is spread, so that resolvers that
// lost their authority together do not come back together.
func retryPause(n int, err error) time.Duration {
	pause := lastRetry
	if !isRateLimited(err) && n <= 5 {
		pause = firstRetry << (n - 1)
	}
	return pause + rand.N(pause/10)
}

// renew returns a certificate for want. If it returns an error as well, the certificate is good but could not be kept.
func (r *renewer) renew(ctx context.Context, want Identity) (*tls.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	// Several processes may share a store, of which one is to order.
	unlock, err := r.store.lock(ctx)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	defer unlock()
	if cert := r.ordered(want); cert != nil {
		return cert, nil
	}
	old := r.holder.Leaf()
	if r.failures > 0 {
		old = nil // which may be what the authority did not like
	}
	bundle, err := r.authority.order(ctx, want, old)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(bundle, bundle)
	if err != nil {
		return nil, fmt.Errorf("what the authority gave cannot be used: %w", err)
	}
	if err := want.check(&cert, time.Now()); err != nil {
		return nil, fmt.Errorf("what the authority gave %w", err)
	}
	return &cert, r.store.save(ctx, want.Name, bundle)
}

// ordered returns the certificate in the store, if another process has renewed it meanwhile, or nil.
func (r *renewer) ordered(want Identity) *tls.Certificate {
	cert, err := r.store.load(want.Name)
	if err != nil || want.check(cert, time.Now()) != nil {
		return nil
	}
	if leaf := r.holder.Leaf(); leaf != nil && !cert.Leaf.NotBefore.After(leaf.NotBefore) {
		return nil
	}
	return cert
}
