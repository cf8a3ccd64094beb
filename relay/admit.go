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
	errOverRate    = errors.New("relay: too many new flows")
	errDraining    = errors.New("relay: no new flows are taken")
)

// Grant is the permission to set up one flow. Release must be called once, when the flow has ended.
type Grant struct {
	dst netip.AddrPort // where to

	// What Release gives back.
	relay  *Relay
	client netip.Addr
	held   holding
	unmap  func() // or nil, if no relay address led to the flow
}

// Release ends the flow.
func (g *Grant) Release() {
	g.held.release()
	if g.unmap != nil {
		g.unmap()
	}
}

// admit lets in a flow of client to what local, a relay address and port, stands for: destination says where to, and
// open whether it may.
func (r *Relay) admit(p Proto, client netip.Addr, local netip.AddrPort) (Grant, error) {
	g, err := r.tryAdmit(p, client.Unmap().WithZone(""), local)
	r.counted(p, err)
	return g, err
}

func (r *Relay) tryAdmit(p Proto, client netip.Addr, local netip.AddrPort) (Grant, error) {
	if err := r.enter(client); err != nil {
		return Grant{}, err
	}
	dst, unmap, ok := r.addrs.Acquire(local.Addr().Unmap())
	if !ok {
		return Grant{}, errNoMapping
	}
	g, err := r.open(p, client, netip.AddrPortFrom(dst, local.Port()))
	if err != nil {
		unmap()
		return Grant{}, err
	}
	g.unmap = unmap
	return g, nil
}

// enter decides whether client may ask for a flow now. Only clients find out whether a relay address stands for
// anything, and no faster than they may begin flows.
func (r *Relay) enter(client netip.Addr) error {
	switch {
	case !r.settings.Load().clients.contains(client):
		return errNotClient
	case !r.limiter.allow(client):
		return errOverRate
	}
	return nil
}

// Open decides whether client may have a flow to dst now, however it has asked for it, and counts the flow or its
// refusal. An error means that the client is none of the relay's or begins flows too fast, that dst is not relayed to,
// that the relay or the client has all the flows it may have, or that the relay is about to end.
func (r *Relay) Open(p Proto, client netip.Addr, dst netip.AddrPort) (Grant, error) {
	client = client.Unmap().WithZone("")
	var g Grant
	err := r.enter(client)
	if err == nil {
		g, err = r.open(p, client, dst)
	}
	r.counted(p, err)
	return g, err
}

// counted counts a flow or its refusal.
func (r *Relay) counted(p Proto, err error) {
	switch {
	case err == nil:
		r.stats.flows[p].Add(1)
	case errors.Is(err, errOverLimit):
		r.stats.overLimit[p].Add(1)
	case errors.Is(err, errOverRate):
		r.stats.overRate[p].Add(1)
	default:
		r.stats.refused[p].Add(1)
	}
}

// open decides whether a client that may ask may have a flow to dst.
func (r *Relay) open(p Proto, client netip.Addr, dst netip.AddrPort) (Grant, error) {
	switch {
	case r.draining.Load():
		return Grant{}, errDraining
	case !r.Permits(dst.Addr()):
		return Grant{}, errDestination
	}
	held, ok := r.limiter.take(p, client)
	if !ok {
		return Grant{}, errOverLimit
	}
	return Grant{dst: netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()), relay: r, client: client, held: held}, nil
}

// connected gives a TCP flow that has been dialed the place of a flow. It returns false if there is none any more.
func (g *Grant) connected() bool {
	flows := g.relay.limiter.flows[TCP]
	p, ok := flows.take(g.client)
	if !ok {
		g.relay.stats.overLimit[TCP].Add(1)
		return false
	}
	flows.move(p, confirmed)
	g.held.release()
	g.held = holding{flows, p}
	return true
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
	own, err := interfaceAddresses()
	if err != nil {
		return nil, err
	}
	first, last := localPorts()
	if err := e.leave(own, first, last); err != nil {
		return nil, err
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
	s.destinations.own = r.own
	return s, nil
}

// interfaceAddresses returns the addresses of this host's interfaces at the moment.
func interfaceAddresses() (own []netip.Prefix, err error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addr = addr.Unmap()
				own = append(own, netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
	}
	return own, nil
}
