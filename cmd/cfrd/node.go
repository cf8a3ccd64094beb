package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/acme"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/relay"
	"github.com/cfrd-project/cfrd/relay/addrmap"
	"github.com/cfrd-project/cfrd/resolver"
)

// node is every service that one process runs, bound to its addresses. newNode makes it, run runs it once, and reload
// replaces what it answers from meanwhile. The admin server asks it for its state from goroutines of its own.
type node struct {
	// Set once by newNode.
	mode       config.Mode
	log        zerolog.Logger
	certs      *certs.Holder    // nil without encrypted listeners
	acme       *acme.Service    // nil without tls.acme
	addrs      *addrmap.Map     // nil without relay addresses
	dns        *resolver.Server // nil in mode relay
	relay      *relay.Relay     // nil in mode resolver, and without relay addresses
	admin      *adminServer     // nil without listen.admin
	announcers []announcer      // one for each link of dnr.announce

	// discovery is what dns answers discovery from; nil without dns. applyResolver replaces it.
	discovery atomic.Pointer[ddr.Zone]

	phase            atomic.Int32  // of phaseStarting to phaseDraining
	refused, applied atomic.Uint64 // reloads since the start

	// mu guards values, and makes reloads and replacements of the certificate wait for each other.
	mu     sync.Mutex
	values *values // under which the node runs; replaced by apply
}

// Phases of a node's life. Only a node that serves is ready.
const (
	phaseStarting int32 = iota
	phaseServing
	phaseDraining
)

// newNode opens the address map and binds every listener, so that what cannot be bound is an error before anything is
// served. The node must be run, which also gives back what newNode took; if newNode fails, it gives that back itself.
func newNode(v *values, m config.Mode, log zerolog.Logger) (_ *node, err error) {
	n := &node{mode: m, log: log, values: v}
	if m.Resolves() && v.Encrypted() {
		n.certs = certs.NewHolder(v.certificate)
	}
	defer func() {
		if err != nil {
			n.abandon()
		}
	}()
	if n.certs != nil && v.TLS.ACME.Used() {
		if n.acme, err = acme.New(v.acmeConfig(component(log, "acme")), v.identity(), n.certs); err != nil {
			return nil, err
		}
	}
	if v.Relays() {
		if n.addrs, err = addrmap.Open(v.AddressMap(v.sealKey)); err != nil {
			return nil, err
		}
	}
	// The resolver comes first: it refuses addresses that are in use, and the relay's wildcard listeners use them all.
	if m.Resolves() {
		if err = n.newResolver(); err != nil {
			return nil, err
		}
		if err = n.newAnnouncers(); err != nil {
			return nil, err
		}
	}
	if n.acme != nil {
		if err = n.acme.Bind(v.ChallengeListeners()); err != nil {
			return nil, err
		}
	}
	if a := v.Listen.Admin; a.IsValid() {
		if n.admin, err = newAdminServer(a, n.handler(), component(log, "admin")); err != nil {
			return nil, err
		}
	}
	// The relay comes last: the routes that it puts in place are removed by its Run.
	if n.relays() {
		n.relay, err = relay.New(n.relayConfig())
	}
	return n, err
}

// relays reports whether this node relays flows.
func (n *node) relays() bool { return n.mode.Relays() && n.values.Relays() }

// newResolver binds the resolver, and then lets it answer under the node's values.
func (n *node) newResolver() (err error) {
	if n.dns, err = resolver.New(n.resolverConfig()); err != nil {
		return err
	}
	return n.applyResolver(n.values)
}

// abandon gives back what newNode has bound and opened when a later part fails. There is no relay to close: it comes
// last, and relay.New gives back what it took if it fails.
func (n *node) abandon() {
	if n.dns != nil {
		n.dns.Close()
	}
	if n.admin != nil {
		n.admin.close()
	}
	n.close()
}

// close gives back what newNode opened and nobody's Run does. It is called once nothing runs any more.
func (n *node) close() error {
	if n.acme != nil {
		n.acme.Close()
	}
	if n.addrs == nil {
		return nil
	}
	return n.addrs.Close()
}

// run serves until ctx is done, lets queries and flows under way end for a bounded time, and returns nil. Any other
// return is an error that names the service. The admin server ends last, so that it can be asked meanwhile.
func (n *node) run(ctx context.Context) error {
	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	g, ctx := errgroup.WithContext(ctx)
	n.phase.Store(phaseServing)
	context.AfterFunc(ctx, func() { n.phase.Store(phaseDraining) })
	g.Go(func() error {
		defer stopAdmin()
		return n.runServices(ctx)
	})
	if n.admin != nil {
		g.Go(func() error { return named("admin", n.admin.run(adminCtx)) })
	}
	err := g.Wait()
	return errors.Join(err, n.close())
}

// runServices runs what clients talk to, until ctx is done or one of the services fails. The announcers end first,
// because they withdraw what hosts use to find the other services.
func (n *node) runServices(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	announced := ctx
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { defer stop(); return n.runAnnouncers(announced) })
	if n.dns != nil {
		g.Go(func() error { return named("resolver", n.dns.Run(ctx)) })
	}
	if n.relay != nil {
		g.Go(func() error { return named("relay", n.relay.Run(ctx)) })
	}
	if n.addrs != nil {
		g.Go(func() error { return named("address map", n.addrs.Run(ctx)) })
	}
	if n.certs != nil {
		g.Go(func() error { n.certs.RotateTickets(ctx); return nil })
	}
	if n.acme != nil {
		g.Go(func() error { return named("acme", n.acme.Run(ctx)) })
	} else if n.certs != nil {
		g.Go(func() error { n.watchCertificate(ctx); return nil })
	}
	return g.Wait()
}

// named puts the name of a service before err, which may be nil.
func named(service string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", service, err)
	}
	return nil
}

// steering is the resolver.Relay of a node: it adapts the address map, and the relay if that runs in this process. Its
// methods are called for each answer, from any goroutine of the resolver.
//
// They read node.relay each time, because the relay is bound after the resolver. If there is none, the relay runs on
// another host: it counts as healthy, and as one that takes the destinations that the configuration says.
type steering struct {
	*node
	destinations *relay.Destinations // of a relay on another host; nil if nothing is steered
}

// RelayAddr returns the relay address of dst for at least ttl. It is false without an error if no relay prefix can
// express dst, so that the answer stays as it is.
func (s steering) RelayAddr(dst netip.Addr, v6 bool, ttl time.Duration) (netip.Addr, bool, error) {
	addr, err := s.addrs.Relay(dst, v6, ttl)
	if errors.Is(err, addrmap.ErrNoWay) {
		return netip.Addr{}, false, nil
	}
	return addr, err == nil, err
}

// Contains reports whether addr must not be steered: it is a relay address already, or the relay would refuse it as a
// destination.
func (s steering) Contains(addr netip.Addr) bool {
	if s.relay != nil {
		return !s.relay.Permits(addr)
	}
	return s.addrs.Contains(addr) || !s.destinations.Permits(addr)
}

// Healthy reports whether the relay takes flows to its addresses.
func (s steering) Healthy() bool { return s.relay == nil || s.relay.Healthy() }
