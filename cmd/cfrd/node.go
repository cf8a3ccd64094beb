package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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

// node is every service that one process runs, bound to its addresses.
type node struct {
	// set once by newNode
	mode  config.Mode
	log   zerolog.Logger
	certs *certs.Holder    // or nil
	acme  *acme.Service    // or nil
	addrs *addrmap.Map     // or nil
	dns   *resolver.Server // or nil
	// discovery is what dns answers discovery from; nil without dns. Replaced by applyResolver.
	discovery atomic.Pointer[ddr.Zone]
	relay     *relay.Relay // or nil
	admin     *adminServer // or nil

	announcers []announcer // one for each link

	phase            atomic.Int32  // of phaseStarting to phaseDraining
	refused, applied atomic.Uint64 // reloads

	mu     sync.Mutex
	values *values // under which it runs; replaced by apply
}

// Phases of a node's life.
const (
	phaseStarting int32 = iota
	phaseServing
	phaseDraining
)

// newNode opens the address map and binds every listener. Nothing is served before run.
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

func (n *node) relayConfig() relay.Config {
	return relay.Config{
		Map:        n.addrs,
		Ports:      n.values.Relay.Ports,
		Routes:     n.values.Relay.Routes,
		DisableGSO: !n.values.Relay.GSO,
		Limits:     n.values.relayLimits(),
		Settings:   n.values.relaySettings(),
		Log:        component(n.log, "relay"),
	}
}

// newResolver binds the resolver, and then tells it what to answer from: discovery depends on what is really bound.
func (n *node) newResolver() error {
	v := n.values
	cfg := resolver.Config{
		Listen:     v.listen(),
		Limits:     v.limits(),
		HTTP:       http.HandlerFunc(n.servePvD),
		CacheBytes: int64(v.Cache.Size),
		Settings:   resolver.Settings{Clients: v.Clients, Upstreams: v.Upstreams},
		Log:        component(n.log, "resolver"),
	}
	if n.certs != nil {
		cfg.TLS = n.certs.TLSConfig()
	}
	var err error
	if n.dns, err = resolver.New(cfg); err != nil {
		return err
	}
	return n.applyResolver(v)
}

// settings returns the resolver's settings under v.
func (n *node) settings(v *values, discovery *ddr.Zone) resolver.Settings {
	var steerTo resolver.Relay
	if n.addrs != nil {
		steerTo = steering{n, v.destinations}
	}
	settings := v.settings(discovery, steerTo)
	settings.Public = n.acme.Public(v.Name)
	return settings
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

// run serves until ctx is done and then drains. The admin server goes last, so that it can be asked meanwhile.
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

// runServices runs what clients talk to. Hosts that were told where to find it are told of the end before it comes.
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

func named(service string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", service, err)
	}
	return nil
}

// steering lets the resolver see the address map as its Relay.
//
// It asks the node for its relay each time, because that is bound after the resolver. Without one, the relay runs on
// another host, and is taken to be well and to have the destinations that the configuration says.
type steering struct {
	*node
	destinations *relay.Destinations // of a relay on another host; nil if nothing is steered
}

func (s steering) RelayAddr(dst netip.Addr, v6 bool, ttl time.Duration) (netip.Addr, bool, error) {
	addr, err := s.addrs.Relay(dst, v6, ttl)
	if errors.Is(err, addrmap.ErrNoWay) {
		return netip.Addr{}, false, nil
	}
	return addr, err == nil, err
}

func (s steering) Contains(addr netip.Addr) bool {
	if s.relay != nil {
		return !s.relay.Permits(addr)
	}
	return s.addrs.Contains(addr) || !s.destinations.Permits(addr)
}

// Healthy reports whether flows to relay addresses arrive.
func (s steering) Healthy() bool { return s.relay == nil || s.relay.Healthy() }
