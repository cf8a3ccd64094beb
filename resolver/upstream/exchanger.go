package upstream

import (
	"context"
	"errors"
	"fmt"
)

// Exchanger asks one upstream over one protocol. Its methods may be called from any goroutine.
type Exchanger interface {
	// Exchange sends query, whose ID it replaces, and returns the response, which has the ID of what was sent and the same
	// question. The last record of query is an OPT without options, or there is none; query itself is not changed.
	Exchange(ctx context.Context, query []byte) ([]byte, error)
	// Retire lets go of what is held for further queries, once nobody waits for it.
	Retire()
}

// Errors of the exchange with upstreams.
var (
	errNoUpstream = errors.New("upstream: no upstream is configured")
	errSpoofed    = errors.New("upstream: only datagrams that answer another query")
	errCut        = errors.New("upstream: the response does not fit into a datagram, and cannot be had over TCP")
	errReferral   = errors.New("upstream: a referral to other servers, as from one that does not resolve")
	errNoSocket   = errors.New("upstream: all sockets are in use")
	errOusted     = errors.New("upstream: gave way to another question, after its usual time")
	errUnanswered = errors.New("upstream: no upstream answered in time")
)

// ErrBusy means that a question was not asked, because too many others of its zone or its client wait for answers.
var ErrBusy = errors.New("upstream: too many questions wait for answers")

// newExchanger returns the exchanger that c describes.
func newExchanger(c Config, g *Group) (Exchanger, error) {
	switch {
	case c.Exchanger != nil:
		return c.Exchanger, nil
	case c.Protocol == UDP:
		return newUDP(c.Addr, g), nil
	case c.Protocol == TLS:
		return newTLS(c, g), nil
	}
	return nil, fmt.Errorf("upstream %s has the unknown protocol %d", c.Addr, c.Protocol)
}
