package upstream

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// minTries and maxTries bound the queries to upstreams for one question.
const (
	minTries = 3
	maxTries = 6
)

// order returns the upstreams as they are to be tried: those that are healthy, then the others.
func (p *Pool) order() []*upstream {
	order := make([]*upstream, 0, len(p.list))
	var sick []*upstream
	for _, u := range p.list {
		if u.inOrder() {
			order = append(order, u)
		} else {
			sick = append(sick, u)
		}
	}
	return append(order, sick...)
}

// Resolve asks the upstreams for k until ctx is done. The first good response wins: one that is well-formed and does not
// say that this upstream cannot serve us. If there are only responses that say so, the first of them is returned, as soon
// as the other upstreams have had their usual time.
func (p *Pool) Resolve(ctx context.Context, k *wire.Key) (*wire.Response, error) {
	order := p.order()
	if len(order) == 0 {
		return nil, errNoUpstream
	}
	r := race{order: order, k: k, query: wire.AppendQuery(nil, k)}
	r.results = make(chan result, maxTries)
	defer r.end()
	return r.run(ctx)
}

// race is the tries for one question.
type race struct {
	order   []*upstream
	k       *wire.Key
	query   []byte
	results chan result // room for all, so that losers need no reader

	tries            [maxTries]try
	started, running int
	second           *wire.Response // the first response that is not final, or nil
	err              error          // the first error, or nil
	inHand           bool           // there is something to say, which more tries would not change
}

// try is one query to one upstream.
type try struct {
	cancel context.CancelFunc
	due    time.Time // when the upstream has had its usual time
	over   bool
}

// result is the end of one try.
type result struct {
	n        int // which try
	response *wire.Response
	final    bool
	err      error
}

// limit returns how many tries there are at most.
func (r *race) limit() int { return min(max(minTries, len(r.order)), maxTries) }

// allAsked reports whether each upstream was asked that is going to be.
func (r *race) allAsked() bool { return r.started >= min(len(r.order), maxTries) }

// run starts tries until one has a response: the next when the one before has failed, or had its time and is still
// under way.
func (r *race) run(ctx context.Context) (*wire.Response, error) {
	timer := time.NewTimer(r.start(ctx))
	defer timer.Stop()
	for {
		select {
		case res := <-r.results:
			if res.err == nil && res.final {
				return res.response, nil
			}
			r.note(res)
			if !r.allAsked() {
				timer.Reset(r.start(ctx))
			}
		case <-timer.C:
			if r.started < r.limit() && !(r.inHand && r.allAsked()) {
				timer.Reset(r.start(ctx))
			}
		case <-ctx.Done():
			r.err = cmp.Or(r.err, errUnanswered)
			return r.best()
		}
		switch wait := r.patience(); {
		case r.running == 0 && r.started == r.limit(), r.inHand && r.allAsked() && wait <= 0:
			return r.best()
		case r.inHand && r.allAsked():
			timer.Reset(wait)
		}
	}
}

// start starts the next try and returns how long it has.
func (r *race) start(ctx context.Context) time.Duration {
	n := r.started
	u := r.order[n%len(r.order)]
	r.started++
	r.running++
	delay := u.delay()
	if n >= len(r.order) {
		ctx = asLate(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	r.tries[n] = try{cancel: cancel, due: time.Now().Add(delay)}
	u.group.work.Go(func() {
		p, final, err := u.exchange(ctx, r.query, r.k)
		r.results <- result{n, p, final, err}
	})
	return delay
}

// patience returns how long it takes until every try that is under way has had its usual time.
func (r *race) patience() time.Duration {
	var last time.Time
	for i := range r.started {
		if t := &r.tries[i]; !t.over && t.due.After(last) {
			last = t.due
		}
	}
	return time.Until(last)
}

// note takes note of a try that ended without a final response, and of what there is if nothing better comes.
func (r *race) note(res result) {
	r.tries[res.n].over = true
	r.running--
	if res.err == nil {
		r.second = cmp.Or(r.second, res.response)
		r.inHand = true
		return
	}
	r.err = cmp.Or(r.err, res.err)
	r.inHand = r.inHand || errors.Is(res.err, errCut) || errors.Is(res.err, errReferral)
}

// end ends the tries that are under way.
func (r *race) end() {
	for i := range r.started {
		r.tries[i].cancel()
	}
}

// best returns what is left when no try had a final response.
func (r *race) best() (*wire.Response, error) {
	if r.second != nil {
		return r.second, nil
	}
	return nil, r.err
}
