package upstream

import (
	"cmp"
	"context"
	"time"

	"github.com/miekg/dns"

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
		if u.healthy() {
			order = append(order, u)
		} else {
			sick = append(sick, u)
		}
	}
	return append(order, sick...)
}

// Resolve asks the upstreams for k until ctx is done. The first good response wins: one that is well-formed and does not
// say that this upstream cannot serve us. If there are only responses that say so, the first of them is returned.
func (p *Pool) Resolve(ctx context.Context, k *wire.Key) (*wire.Response, error) {
	order := p.order()
	if len(order) == 0 {
		return nil, errNoUpstream
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := race{order: order, k: k, clock: p.group.clock, query: wire.AppendQuery(nil, k)}
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
	second           *wire.Response // the first response that is not final, or nil
	err              error          // the first error, or nil
}

// result is the end of one try.
type result struct {
	response *wire.Response
	err      error
}

// tries returns how many there are at most.
func (r *race) tries() int { return min(max(minTries, len(r.order)), maxTries) }

// run starts tries until one has a response: the next when the one before has failed, or had its time and is still
// under way.
func (r *race) run(ctx context.Context) (*wire.Response, error) {
	timer := time.NewTimer(r.start(ctx))
	defer timer.Stop()
	for {
		select {
		case res := <-r.results:
			r.running--
			if res.err == nil && final(res.response) {
				return res.response, nil
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
	u.group.work.Go(func() {
		msg, err := u.exchange(ctx, r.query)
		var response *wire.Response
		if err == nil {
			response, err = wire.NewResponse(msg, r.k, r.clock())
		}
		r.results <- result{response, err}
	})
	return u.delay()
}

// note remembers what there is if nothing better comes.
func (r *race) note(res result) {
	if res.err == nil {
		r.second = cmp.Or(r.second, res.response)
	} else {
		r.err = cmp.Or(r.err, res.err)
	}
}

// best returns what is left when no try had a final response.
func (r *race) best() (*wire.Response, error) {
	if r.second != nil {
		return r.second, nil
	}
	return nil, r.err
}

// final reports whether no other upstream is to be asked after p. SERVFAIL is final: it is how a validating upstream says
// that data is bogus, and asking on would look for one that does not validate. The RCODEs here say that this upstream
// cannot serve us.
func final(p *wire.Response) bool {
	switch p.Rcode() {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeRefused:
		return false
	}
	return true
}
