package upstream

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// minTries and maxTries bound the queries to upstreams for one question.
const (
	minTries = 3
	maxTries = 6
)

// A question that may not have a query under way now, because too many others wait, tries again after refusalPause, and
// gives up after maxRefusals.
const (
	refusalPause = 50 * time.Millisecond
	maxRefusals  = 3
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

// Resolve asks the upstreams for k, on behalf of client, until ctx is done; the zero Addr is nobody in particular. The first good response wins: one that is well-formed and does not
// say that this upstream cannot serve us. If there are only responses that say so, the first of them is returned, as soon
// as the other upstreams have had their usual time. The error is ErrBusy if too many questions wait.
func (p *Pool) Resolve(ctx context.Context, k *wire.Key, client netip.Addr) (*wire.Response, error) {
	order := p.order()
	if len(order) == 0 {
		return nil, errNoUpstream
	}
	r := race{order: order, k: k, query: wire.AppendQuery(nil, k), budget: p.group.budget}
	r.results = make(chan result, maxTries+1)
	r.waiter = waiter{due: time.Now().Add(order[0].delay()), ousted: r.results}
	r.budget.enter(&r.waiter, k.Name(), client)
	defer r.end()
	return r.run(ctx)
}

// race is the tries for one question.
type race struct {
	order   []*upstream
	k       *wire.Key
	query   []byte
	budget  *budget
	results chan result // room for all, so that losers need no reader
	waiter  waiter

	tries            [maxTries]try
	started, running int
	second           *wire.Response // the first response that is not final, or nil
	err              error          // the first error, or nil
	inHand           bool           // there is something to say, which more tries would not change
	refusals         int
	closed           bool // no more tries are started
}

// try is one query to one upstream.
type try struct {
	cancel context.CancelFunc
	due    time.Time // when the upstream has had its usual time
	over   bool      // it has ended, or another one took its place
}

// result is the end of one try.
type result struct {
	n        int // which try
	response *wire.Response
	final    bool
	err      error
}

// finished reports whether no more tries are started.
func (r *race) finished() bool {
	return r.closed || r.started == min(max(minTries, len(r.order)), maxTries)
}

// allAsked reports whether each upstream was asked that is going to be.
func (r *race) allAsked() bool { return r.closed || r.started >= min(len(r.order), maxTries) }

// run starts tries until one has a response: the next when the one before has failed, or had its time and is still
// under way.
func (r *race) run(ctx context.Context) (*wire.Response, error) {
	timer := time.NewTimer(r.start(ctx))
	defer timer.Stop()
	for {
		select {
		case res := <-r.results:
			switch {
			case res.err == nil && res.final:
				return res.response, nil
			case errors.Is(res.err, errOusted):
				r.err = cmp.Or(r.err, errOusted)
				return r.best()
			}
			r.note(res)
			if !r.allAsked() {
				timer.Reset(r.start(ctx))
			}
		case <-timer.C:
			if !r.finished() && !(r.inHand && r.allAsked()) {
				timer.Reset(r.start(ctx))
			}
		case <-ctx.Done():
			r.err = cmp.Or(r.err, errUnanswered)
			return r.best()
		}
		switch wait := r.patience(); {
		case r.running == 0 && r.finished(), r.inHand && r.allAsked() && wait <= 0:
			return r.best()
		case r.inHand && r.allAsked():
			timer.Reset(wait)
		}
	}
}

// start starts the next try and returns how long it has, or how long to wait until one may be started.
func (r *race) start(ctx context.Context) time.Duration {
	if !r.budget.take(&r.waiter) {
		return r.refused()
	}
	n := r.started
	u := r.order[n%len(r.order)]
	r.started++
	r.running++
	if n >= len(r.order) {
		r.replace(n - len(r.order))
		ctx = asLate(ctx)
	}
	delay := u.delay()
	ctx, cancel := context.WithCancel(ctx)
	r.tries[n] = try{cancel: cancel, due: time.Now().Add(delay)}
	u.group.work.Go(func() {
		p, final, err := u.exchange(ctx, r.query, r.k)
		r.budget.give(&r.waiter)
		r.results <- result{n, p, final, err}
	})
	return delay
}

// replace ends the try n, which is past its time: its upstream is asked again, and what it knows by now it says to the new
// try as well.
func (r *race) replace(n int) {
	r.tries[n].over = true
	r.tries[n].cancel()
}

// refused returns how long to wait until a try may perhaps be started.
func (r *race) refused() time.Duration {
	if r.refusals++; r.refusals > maxRefusals {
		r.closed = true
		if r.started == 0 {
			r.err = ErrBusy
		}
		return 0
	}
	return refusalPause
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
	replaced := r.tries[res.n].over
	r.tries[res.n].over = true
	r.running--
	if replaced {
		return
	}
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
	r.budget.leave(&r.waiter)
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
