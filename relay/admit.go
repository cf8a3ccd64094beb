package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Proto is the transport protocol of a flow. It is an index of the fields of Stats.
type Proto uint8

// Values of Proto.
const (
	TCP Proto = iota
	UDP
)

// Errors of admission. None carries an address: they are logged.
var (
	errNotClient   = errors.New("relay: not a client")
	errNoMapping   = errors.New("relay: the address stands for no destination")
	errDestination = errors.New("relay: the destination is not permitted")
	errOverLimit   = errors.New("relay: too many flows")
	errDraining    = errors.New("relay: no new flows are taken")
)

// Grant is the permission to set up one flow. Release must be called once, when the flow has ended.
type Grant struct {
	dst netip.AddrPort // where to

	// What Release gives back.
	relay  *Relay
	client netip.Addr // as limiter counts it
	proto  Proto
	unmap  func() // or nil, if no relay address led to the flow
}

// Release ends the flow.
func (g *Grant) Release() {
	g.relay.limiter.release(g.proto, g.client)
	if g.unmap != nil {
		g.unmap()
	}
}

// admit lets in a flow of client to what local, a relay address and port, stands for: destination says where to, and
// Open whether it may.
func (r *Relay) admit(p Proto, client netip.Addr, local netip.AddrPort) (Grant, error) {
	dst, unmap, err := r.destination(client, local.Addr())
	if err != nil {
		r.stats.refused[p].Add(1)
		return Grant{}, err
	}
	g, err := r.Open(p, client, netip.AddrPortFrom(dst, local.Port()))
	if err != nil {
		unmap()
		return Grant{}, err
	}
	g.unmap = unmap
	return g, nil
}

// destination returns what a relay address stands for, and keeps it so until unmap is called. Only clients
// find out whether it stands for anything.
func (r *Relay) destination(client, local netip.Addr) (dst netip.Addr, unmap func(), err error) {
	if !r.settings.Load().clients.contains(client) {
		return netip.Addr{}, nil, errNotClient
	}
	dst, unmap, ok := r.addrs.Acquire(local.Unmap())
	if !ok {
		return netip.Addr{}, nil, errNoMapping
	}
	return dst, unmap, nil
}

// Open decides whether client may have a flow to dst now, however it has asked for it, and counts the flow or its
// refusal. An error means that the client is none of the relay's, that dst is not relayed to, that the relay or the
// client has all the flows it may have, or that the relay is about to end.
func (r *Relay) Open(p Proto, client netip.Addr, dst netip.AddrPort) (Grant, error) {
	g, err := r.tryOpen(p, client.Unmap().WithZone(""), dst)
	switch {
	case err == nil:
		r.stats.flows[p].Add(1)
	case errors.Is(err, errOverLimit):
		r.stats.overLimit[p].Add(1)
	default:
		r.stats.refused[p].Add(1)
	}
	return g, err
}

func (r *Relay) tryOpen(p Proto, client netip.Addr, dst netip.AddrPort) (Grant, error) {
	set, key := r.settings.Load(), limitKey(client)
	switch {
	case r.draining.Load():
		return Grant{}, errDraining
	case !set.clients.contains(client):
		return Grant{}, errNotClient
	case !r.permits(set, dst.Addr()):
		return Grant{}, errDestination
	case !r.limiter.acquire(p, key):
		return Grant{}, errOverLimit
	}
	return Grant{dst: netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()), relay: r, client: key, proto: p}, nil
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
