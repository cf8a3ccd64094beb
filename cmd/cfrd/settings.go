package main

import (
	"net/http"
	"net/netip"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/relay"
	"github.com/cfrd-project/cfrd/resolver"
)

// resolverConfig returns what the resolver is bound with. What it answers from follows by applyResolver, once it is
// known which addresses are bound.
func (n *node) resolverConfig() resolver.Config {
	v := n.values
	cfg := resolver.Config{
		Listen:     v.listen(),
		Limits:     resolver.Limits(v.Limits),
		HTTP:       http.HandlerFunc(n.servePvD),
		CacheBytes: int64(v.Cache.Size),
		Settings:   resolver.Settings{Clients: v.Clients, Upstreams: v.Upstreams},
		Log:        component(n.log, "resolver"),
	}
	if n.certs != nil {
		cfg.TLS = n.certs.TLSConfig()
	}
	return cfg
}

// applyResolver has the resolver, if there is one, answer under v. What it says of itself is what is bound and runs,
// not what v says of listeners.
func (n *node) applyResolver(v *values) error {
	if n.dns == nil {
		return nil
	}
	discovery, err := ddr.New(v.discovery(n.dns.Addrs(), n.certs, n.relays()))
	if err != nil {
		return err
	}
	if err := n.dns.Update(n.resolverSettings(v, discovery)); err != nil {
		return err
	}
	n.discovery.Store(discovery)
	return nil
}

// resolverSettings returns what the resolver answers from under v. Discovery comes before the zones.
func (n *node) resolverSettings(v *values, discovery *ddr.Zone) resolver.Settings {
	s := resolver.Settings{
		Clients:   v.Clients,
		Local:     []resolver.Local{discovery, v.zones},
		Upstreams: v.Upstreams,
		Public:    n.acme.Public(v.Name),
	}
	if v.policy != nil && n.addrs != nil {
		s.Steering = &resolver.Steering{
			Policy:    v.policy,
			Relay:     steering{n, v.destinations},
			Clients:   v.Relay.Clients,
			MaxTTL:    v.Steer.MaxTTL,
			Hints:     v.Steer.Hints,
			OnFailure: v.Steer.OnFailure,
		}
	}
	return s
}

// relayConfig returns what the relay is bound with.
func (n *node) relayConfig() relay.Config {
	v := n.values
	return relay.Config{
		Map:        n.addrs,
		Ports:      v.Relay.Ports,
		Routes:     v.Relay.Routes,
		DisableGSO: !v.Relay.GSO,
		Limits:     relay.Limits(v.Relay.Limits),
		Settings:   v.relaySettings(),
		Log:        component(n.log, "relay"),
	}
}

// relaySettings returns the part of that which a reload can change.
func (v *values) relaySettings() relay.Settings {
	return relay.Settings{
		Clients:      v.Relay.Clients,
		Egress:       v.Relay.Egress,
		AllowSpecial: v.Relay.AllowSpecial,
	}
}

// listen returns the addresses of the resolver's listeners.
func (v *values) listen() resolver.Listen {
	l := v.Listen
	return resolver.Listen{Do53: l.Do53, DoT: l.DoT, DoH: l.DoH, DoQ: l.DoQ}
}

// discovery returns what is advertised: the encrypted listeners in running, and the relay if relays says that there is
// one. holder has the certificate that they serve.
func (v *values) discovery(running resolver.Listen, holder *certs.Holder, relays bool) ddr.Config {
	ownName, ownHTTPS := v.owned()
	cfg := ddr.Config{
		Name:        v.Name,
		OwnName:     ownName,
		OwnHTTPS:    ownHTTPS,
		PvD:         v.DDR.PvD,
		Addresses:   v.Addresses(),
		Services:    services(running),
		Certificate: holder.Leaf,
		TTL:         v.DDR.TTL,
		Info:        &ddr.Info{ExtErr: resolver.ExtendedErrors(), URL: v.DDR.InfoURL},
	}
	if relays && v.DDR.AdvertiseRelay {
		cfg.Relay = &ddr.RelayService{Key: uint16(v.DDR.RelayKey), Clients: v.Relay.Clients, Ports: v.Relay.Ports}
	}
	return cfg
}

// services returns the encrypted listeners in the order in which clients should prefer them: without head-of-line
// blocking first, and what passes most firewalls before what passes fewer.
func services(l resolver.Listen) (list []ddr.Service) {
	add := func(p ddr.Protocol, addrs []netip.AddrPort) {
		for _, a := range addrs {
			list = append(list, ddr.Service{Protocol: p, Addr: a})
		}
	}
	add(ddr.DoH3, l.DoH)
	add(ddr.DoQ, l.DoQ)
	add(ddr.DoH, l.DoH)
	add(ddr.DoT, l.DoT)
	return list
}
