package upstream

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// upstream is one resolver with what is known about it.
type upstream struct {
	// set once
	config Config
	x      Exchanger
	group  *Group
	ctx    context.Context // done when no pool has it any more
	cancel context.CancelFunc

	queries, failed atomic.Uint64

	mu     sync.Mutex // guards the following
	health health
	edns   edns
}

// newUpstream returns the upstream that c describes. Nothing is sent before the first query or check.
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

// trusted reports whether nobody between u and us can have changed what u says, so that its AD bit means something. See
// RFC 6840, Section 5.8.
func (u *upstream) trusted() bool {
	return u.config.Protocol == TLS || u.config.Addr.Addr().Unmap().IsLoopback()
}

// exchange asks u as ask does, and keeps account of its health. That somebody else was faster, or the client left, is not
// u's fault, unless u had had its time.
func (u *upstream) exchange(ctx context.Context, query []byte, k *wire.Key) (p *wire.Response, final bool, err error) {
	u.queries.Add(1)
	delay, start := u.delay(), time.Now()
	p, final, err = u.ask(ctx, query, k)
	elapsed := time.Since(start)
	switch {
	case err == nil && final:
		u.succeed(elapsed)
	case err == nil:
		u.fail()
	case !ownFault(err) && (ctx.Err() == nil || elapsed > delay):
		u.failed.Add(1)
		u.fail()
	}
	return p, final, err
}

// ask asks u for k; query is the query for it. The response has nothing but the answer, and final says whether another
// upstream is to be asked, because this one has trouble of its own.
func (u *upstream) ask(ctx context.Context, query []byte, k *wire.Key) (p *wire.Response, final bool, err error) {
	msg, err := u.exchangeEDNS(ctx, query)
	if err != nil {
		return nil, false, err
	}
	p, err = wire.NewResponse(msg, k, u.group.clock())
	if err != nil {
		return nil, false, err
	}
	if p.EDNS {
		u.speaksEDNS()
	}
	if !u.trusted() {
		p.ClearAD()
	}
	p, content, err := p.Scrub(k)
	if err == nil && content == wire.Referral {
		err = errReferral
	}
	if err != nil {
		return nil, false, err
	}
	return p, isFinal(p) && content != wire.Unrelated, nil
}

// isFinal reports whether no other upstream is to be asked after p: it is an answer, or an error that is about the name, as
// when data is bogus. To ask on would then look for an upstream that does not validate. Any other error is this upstream's
// trouble.
func isFinal(p *wire.Response) bool {
	switch p.Rcode() {
	case dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeYXDomain:
		return true
	case dns.RcodeServerFailure, dns.RcodeRefused:
		return p.EDE.AboutName()
	}
	return false
}

// stats returns the counters of u.
func (u *upstream) stats() Stats {
	return Stats{Name: u.String(), Queries: u.queries.Load(), Failures: u.failed.Load(), Healthy: u.healthy()}
}
