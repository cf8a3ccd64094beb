package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Errors of Relay.admit. None carries an address: they are logged.
var (
	errNotClient   = errors.New("relay: not a client")
	errNoMapping   = errors.New("relay: the address stands for no destination")
	errDestination = errors.New("relay: the destination is not permitted")
	errOverLimit   = errors.New("relay: too many flows")
)

// grant is the permission to set up one flow. release must be called once, when the flow has ended.
type grant struct {
	dst netip.AddrPort // where to

	// What release gives back.
	relay  *Relay
	client netip.Addr // as limiter counts it
	proto  proto
	unmap  func()
}

// release ends the flow.
func (g *grant) release() {
	g.relay.stats.active[g.proto].Add(-1)
	g.relay.limiter.release(g.proto, g.client)
	g.unmap()
}

// admit decides whether client may have a flow to what local, a relay address and port, stands for, and counts the
// flow or its refusal.
func (r *Relay) admit(p proto, client netip.Addr, local netip.AddrPort) (grant, error) {
	g, err := r.tryAdmit(p, client.Unmap().WithZone(""), local)
	switch err {
	case nil:
		r.stats.flows[p].Add(1)
		r.stats.active[p].Add(1)
	case errOverLimit:
		r.stats.overLimit[p].Add(1)
	default:
		r.stats.refused[p].Add(1)
	}
	return g, err
}

func (r *Relay) tryAdmit(p proto, client netip.Addr, local netip.AddrPort) (grant, error) {
	set := r.settings.Load()
	if !set.clients.contains(client) {
		return grant{}, errNotClient
	}
	dst, unmap, ok := r.addrs.Acquire(local.Addr().Unmap())
	if !ok {
		return grant{}, errNoMapping
	}
	if !r.permits(set, dst) {
		unmap()
		return grant{}, errDestination
	}
	key := limitKey(client)
	if !r.limiter.acquire(p, key) {
		unmap()
		return grant{}, errOverLimit
	}
	return grant{dst: netip.AddrPortFrom(dst, local.Port()), relay: r, client: key, proto: p, unmap: unmap}, nil
}

// Permits reports whether flows to dst are relayed under the settings in force. What they are not must not be handed
// out as a relay address either.
func (r *Relay) Permits(dst netip.Addr) bool { return r.permits(r.settings.Load(), dst) }

func (r *Relay) permits(set *settings, dst netip.Addr) bool {
	return set.destinations.Permits(dst) && !r.addrs.Contains(dst)
}

// settings are Settings in the form in which flows consult them. They are never changed.
type settings struct {
	clients      *prefixSet
	destinations *Destinations
	egress       *egress
}

// newSettings validates set.
func (r *Relay) newSettings(set Settings) (*settings, error) {
	e, err := newEgress(set.Egress, r.random)
	if err != nil {
		return nil, err
	}
	if v4, _ := r.families(); v4 && e.v4.prefixes == nil {
		return nil, errors.New("egress has no IPv4 prefix, but there are IPv4 relay addresses")
	}
	if err := e.suffices(r.cfg.Limits.mostFlows()); err != nil {
		return nil, err
	}
	s := &settings{egress: e}
	if s.clients, err = newPrefixSet(set.Clients); err != nil {
		return nil, fmt.Errorf("clients: %w", err)
	}
	if s.destinations, err = NewDestinations(set); err != nil {
		return nil, err
	}
	s.destinations.own, err = ownAddresses()
	return s, err
}

// ownAddresses returns the addresses of this host's interfaces.
func ownAddresses() (*prefixSet, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	var own []netip.Prefix
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addr = addr.Unmap()
				own = append(own, netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
	}
	return newPrefixSet(own)
}
