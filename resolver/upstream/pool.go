// Package upstream asks other resolvers. A Pool is the list of them that is configured; Pool.Resolve has one or several of
// them asked for a question, in order of their health, and returns the first response that is good. How one of them is
// asked, over which protocol, is the matter of its Exchanger: there is one in each of the files udp.go and stream.go (TCP
// and TLS), and a further protocol is a further file.
//
// It keeps no responses, does not join identical questions, and knows neither clients nor steering: all of that is the
// forwarder's in the package resolver, which calls it from the goroutine of a flight, for what is not in its cache. A
// Group owns every goroutine and connection here: those that read and write connections, the tries of a race, which may
// outlive Resolve, and the probes of upstreams that are sick.
package upstream

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"sync"

	"github.com/rs/zerolog"
)

// Config describes one upstream: a resolver that is asked.
type Config struct {
	// Protocol is UDP (with TCP for what does not fit) or TLS.
	Protocol Protocol
	Addr     netip.AddrPort
	// Name is the authentication domain name for TLS; empty means that the certificate must carry Addr. See RFC 8310.
	Name string
	// RootCAs verify the upstream; nil means the system's.
	RootCAs *x509.CertPool
	// Exchanger asks the upstream in a way of the caller's. Nil means that of Protocol.
	Exchanger Exchanger
}

// Protocol is how an upstream is asked.
type Protocol uint8

// Values of Protocol.
const (
	UDP Protocol = iota // Do53 over UDP, and over TCP where that truncates
	TLS                 // DoT
)

// equal reports whether a and b are the same resolver, asked in the same way.
func (a Config) equal(b Config) bool {
	return a.Protocol == b.Protocol && a.Addr == b.Addr && a.Name == b.Name && a.RootCAs.Equal(b.RootCAs) &&
		a.Exchanger == b.Exchanger
}

// Stats are the counters of one upstream since it was first configured.
type Stats struct {
	Name     string // as configured: "udp://192.0.2.1:53"
	Queries  uint64
	Failures uint64 // queries without a response
	Healthy  bool   // it has answered, and has not ceased to
}

// Group owns the connections and goroutines of all pools that it makes: an upstream outlives its pool if the next one
// has it too. All end when the context of the group does.
type Group struct {
	// set once
	ctx   context.Context
	clock func() int64 // in nanoseconds; see wire.Response.Received
	log   zerolog.Logger

	work    sync.WaitGroup
	sockets sockets
	budget  *budget
}

// NewGroup returns a group that lasts until ctx is done, and never has more than maxSockets sockets open; 0 means
// DefaultSockets. clock, in nanoseconds, says when responses came. log gets what changes in the health of upstreams.
func NewGroup(ctx context.Context, maxSockets int, clock func() int64, log zerolog.Logger) *Group {
	g := &Group{ctx: ctx, clock: clock, log: log}
	g.sockets.max = int64(cmp.Or(maxSockets, DefaultSockets))
	g.budget = newBudget(int(g.sockets.max - g.sockets.reserve()))
	return g
}

// Wait waits until everything that g started has ended, which it does when the context of g is done. No Resolve may be
// under way any more.
func (g *Group) Wait() { g.work.Wait() }

// Pool is a list of upstreams. It is never changed, and may be used from any goroutine.
type Pool struct {
	group *Group
	list  []*upstream
}

// Pool returns the upstreams of list, in this order. Those that old, which may be nil, has as well are carried over
// with their connections and what is known about their health.
func (g *Group) Pool(list []Config, old *Pool) (*Pool, error) {
	p := &Pool{group: g}
	for _, c := range list {
		if err := p.add(c, old); err != nil {
			p.Retire(old)
			return nil, err
		}
	}
	return p, nil
}

// add appends the upstream that c describes, which is that of old if old has it.
func (p *Pool) add(c Config, old *Pool) error {
	if p.find(c) != nil {
		return fmt.Errorf("upstream %s is there twice", c.Addr)
	}
	u := old.find(c)
	if u == nil {
		var err error
		if u, err = newUpstream(c, p.group); err != nil {
			return err
		}
	}
	p.list = append(p.list, u)
	return nil
}

// find returns the upstream of p, which may be nil, that c describes, or nil.
func (p *Pool) find(c Config) *upstream {
	if p == nil {
		return nil
	}
	for _, u := range p.list {
		if u.config.equal(c) {
			return u
		}
	}
	return nil
}

// Retire lets go of the upstreams that next does not have: their probes end, and their connections when nobody waits for
// them. Queries under way still get their responses.
func (p *Pool) Retire(next *Pool) {
	for _, u := range p.list {
		if next.find(u.config) == nil {
			u.retire()
		}
	}
}

// Check has those upstreams probed that have not answered anything yet, so that Stats soon says which of them do.
func (p *Pool) Check() {
	for _, u := range p.list {
		u.check()
	}
}

// Stats returns the counters of each upstream, in the order in which they are configured.
func (p *Pool) Stats() []Stats {
	list := make([]Stats, 0, len(p.list))
	for _, u := range p.list {
		list = append(list, u.stats())
	}
	return list
}
