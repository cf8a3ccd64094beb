package resolver

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/steer"
)

const (
	// lookupShare is the part of the time for a query, one in so many, for which a response that is here waits for what
	// steering it depends on.
	lookupShare = 10
	// silenceTTL is how long it is remembered that the HTTPS records of a name were not to be had in that time: there are
	// load balancers that never answer a question for a type that they do not know.
	silenceTTL = 5 * time.Minute
	// maxSilent bounds the names of which that is remembered.
	maxSilent = 8192
)

// errSilent is the error of a lookup of HTTPS records that nobody answered a short while ago.
var errSilent = errors.New("no answer lately")

// lookups finds out what steering the response to one client's question depends on. Questions of which that is known
// beforehand are asked at the same time as the client's own, so that the first look-up takes one round trip. It does not
// steer, so that nothing goes in circles, and takes DO and CD over, so that what it finds serves the client's own
// questions as well.
//
// When the response is here, it waits for the rest for a share of the time that a query has (lookupShare). What is not
// known then counts as not there: a name has no ech, and no A records that AAAA records could be made of. That decision
// holds for a few seconds. That the HTTPS records of a name were not to be had is remembered for silenceTTL; meanwhile
// nobody waits for them, and they count as not there unless they are in the cache.
type lookups struct {
	f     *forwarder
	set   *settings
	flags uint8
	q     *query
	ahead []*lookedUp
	done  func() // ends what was asked ahead
}

// lookedUp is a question that was asked ahead.
type lookedUp struct {
	question steer.Question
	ready    chan struct{} // closed when the following are set
	octets   []byte
	err      error
}

// lookAhead starts to ask for what steering a response to k depends on. The caller calls close.
func (f *forwarder) lookAhead(ctx context.Context, set *settings, k *wire.Key, q *query) *lookups {
	l := &lookups{f: f, set: set, flags: k.Flags, q: q}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	l.done = func() { cancel(); wg.Wait() }
	for _, question := range set.steering.Ahead(wire.NameText(k.Name()), k.Type()) {
		if l.silent(question.Name, question.Type) {
			continue
		}
		u := &lookedUp{question: question, ready: make(chan struct{})}
		l.ahead = append(l.ahead, u)
		wg.Go(func() {
			defer close(u.ready)
			u.octets, u.err = l.ask(ctx, question.Name, question.Type)
		})
	}
	return l
}

// close ends what is still under way.
func (l *lookups) close() { l.done() }

// lookup returns a steer.Lookup for a response that is here now.
func (l *lookups) lookup() steer.Lookup {
	deadline := time.Now().Add(l.f.flights.timeout / lookupShare)
	return func(ctx context.Context, name string, qtype uint16) ([]byte, error) {
		if l.silent(name, qtype) {
			return nil, errSilent
		}
		limited, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		octets, err := l.find(limited, name, qtype)
		if qtype == dns.TypeHTTPS && err != nil && ctx.Err() == nil && limited.Err() != nil {
			l.f.silence.add(name)
		}
		return octets, err
	}
}

// find waits for what was asked ahead, or asks.
func (l *lookups) find(ctx context.Context, name string, qtype uint16) ([]byte, error) {
	for _, u := range l.ahead {
		if u.question != (steer.Question{Name: name, Type: qtype}) {
			continue
		}
		select {
		case <-u.ready:
			return u.octets, u.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return l.ask(ctx, name, qtype)
}

// ask resolves a question.
func (l *lookups) ask(ctx context.Context, name string, qtype uint16) ([]byte, error) {
	k, err := wire.NewKey(name, qtype, l.flags)
	if err != nil {
		return nil, err
	}
	p, local, err := l.f.source(ctx, l.set, k, l.q)
	if err != nil {
		return nil, err
	}
	octets := p.Octets(l.f.cache.now())
	if local {
		octets, _, err = l.f.follow(ctx, l.set, l.flags, l.q, octets)
	}
	return octets, err
}

// silent reports whether nobody answers a question, and the cache does not either.
func (l *lookups) silent(name string, qtype uint16) bool {
	if qtype != dns.TypeHTTPS || !l.f.silence.has(name) {
		return false
	}
	k, err := wire.NewKey(name, qtype, l.flags)
	return err == nil && l.f.cache.raw(k, l.set.gen, l.set.ttls, l.f.cache.now()) == nil
}

// silence remembers the names whose HTTPS records were not to be had. The zero value is ready for use.
type silence struct {
	mu sync.Mutex
	m  map[string]time.Time // until when, by name
}

// add remembers name. If there is no room, some other name is forgotten: that costs a wait.
func (s *silence) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = make(map[string]time.Time)
	}
	for other := range s.m {
		if len(s.m) < maxSilent {
			break
		}
		delete(s.m, other)
	}
	s.m[name] = time.Now().Add(silenceTTL)
}

// has reports whether name is remembered.
func (s *silence) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, ok := s.m[name]
	if ok && !until.After(time.Now()) {
		delete(s.m, name)
		return false
	}
	return ok
}
