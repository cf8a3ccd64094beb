// Package relay is the opaque relay of draft-scalone-cfr-source-privacy-01: what arrives over TCP or UDP at a relay
// address is forwarded to the destination that the address stands for, from a source address and port drawn anew
// for each flow.
//
// A flow's destination goes from the socket to the egress like this:
//
//   - TCP: Relay.serveTCP (tcp_linux.go) accepts a connection, whose local address is the relay address. UDP:
//     udpWorker.flowOf (udp_worker_linux.go) looks for the flow of a datagram in its flowTable (udp_flow_linux.go), and
//     udpServer.begin (udp_server_linux.go) begins one if there is none.
//   - Relay.admit (admit.go) lets the flow in. Relay.enter decides whether the client may ask: it is within
//     Settings.Clients, and does not begin flows too fast (rate.go). The address map of package addrmap says what the
//     relay address stands for. Relay.open decides whether the client may have a flow there: Destinations
//     (destinations.go) permits the address, and the limiter (limits.go, shares.go) has a place for it. An entrance that
//     is told the destination in another way begins with Relay.Open.
//   - Grant.DialTCP (tcp_linux.go, tcp_source_linux.go) or udpServer.dial (udp_socket_linux.go) connects to the
//     destination, from what egress.draw (egress.go) draws. TCP to one that did not answer of late fails sooner or at
//     once (reach.go).
//   - tcpFlow (tcp_flow_linux.go, splice_linux.go) moves the bytes of both directions, or udpWorker the datagrams, in
//     batches (udp_batch_linux.go), until Grant.Release.
//
// What it does not: it does not terminate, parse or look into what it carries, and never sees a name. It does not
// retransmit or queue beyond the sockets' buffers. It writes down no client together with a destination. It does not
// resolve, lease or seal addresses; that is addrmap's. It relays on Linux only; elsewhere New returns
// errors.ErrUnsupported.
//
// Package cmd/cfrd makes a Relay with New and calls Run in a goroutine of its own. Run starts one goroutine per TCP
// listener, one per TCP flow and direction, and one per processor for UDP. Any goroutine may call Open, Update, Permits,
// Dead, Healthy, Entropy and Stats meanwhile. Settings are replaced as a whole: each decision about a flow is made under
// one generation of them, and a flow that is let in while they are replaced may meet both.
//
// The package is larger than the rooms around it, because a flow has one way in, one account and one way out, whatever
// moves its bytes: TCP by splice(2) and UDP in batches share the decisions of admit.go, the limits, the egress and the
// sockets' options, and neither can be read without these.
package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/cfrd-project/cfrd/relay/addrmap"
	"github.com/cfrd-project/cfrd/relay/host"
)

// Config is what New needs. Map, Ports and Limits are fixed for the life of a Relay; Settings can be replaced while
// it runs, see Relay.Update.
type Config struct {
	Map   *addrmap.Map
	Ports []uint16 // TCP and UDP ports served at every relay address
	// Routes puts local routes for the relay and egress prefixes in place, through netlink, and makes the prefixes
	// unreachable at the end. Off, or without the right, their absence is an error that names the command. Prefixes within 127.0.0.0/8
	// need no route. A local route makes the kernel take what is sent to these addresses; that the network sends it
	// here is for the operator's routing to see to.
	Routes bool
	// Firewall refuses at the relay and egress prefixes what is not the relay's, by a table of nftables, so that no
	// other program of the host answers there. Where that is not possible, Relay.Warnings says so.
	Firewall bool
	Limits   Limits
	// Descriptors is how many flows may have together. 0 means all that the process may have.
	Descriptors int
	Settings    Settings
	// DisableGSO sends each UDP datagram by itself, for kernels or network cards that get groups of them wrong.
	DisableGSO bool
	Log        zerolog.Logger // never gets a client together with a destination
}

// Settings is the part of the configuration that can change while the relay runs.
type Settings struct {
	// Clients are the prefixes that may use the relay; others are reset. Empty refuses everybody.
	Clients []netip.Prefix
	// Egress are the prefixes from which source addresses are drawn, uniformly per family. At least one is needed,
	// and one of IPv4 if there are relay addresses of IPv4.
	Egress []netip.Prefix
	// AllowSpecial are destinations that are relayed to although a special-purpose registry lists them, or this host
	// has them.
	AllowSpecial []netip.Prefix
}

// addressMap is what the relay needs of an addrmap.Map.
type addressMap interface {
	Acquire(relay netip.Addr) (dst netip.Addr, release func(), ok bool)
	Contains(addr netip.Addr) bool
	Prefixes() []netip.Prefix
}

// Relay is a relay that is bound to its ports.
type Relay struct {
	// Set once by New.
	cfg     Config
	addrs   addressMap
	limiter *limiter
	random  *random
	claim   *host.Claim // or nil before bind
	own     *host.Addresses
	reach   *reach
	plane

	settings atomic.Pointer[settings]
	draining atomic.Bool
	stats    counters
}

// New validates cfg, puts routes in place and binds every port. A Relay that is not going to Run must be closed.
func New(cfg Config) (*Relay, error) {
	if cfg.Map == nil {
		return nil, errors.New("relay: no address map")
	}
	return newRelay(cfg, cfg.Map)
}

// newRelay is New with the map behind its interface.
func newRelay(cfg Config, addrs addressMap) (*Relay, error) {
	if len(cfg.Ports) == 0 || slices.Contains(cfg.Ports, 0) {
		return nil, fmt.Errorf("relay: ports %v: at least one is needed, and none may be 0", cfg.Ports)
	}
	fds := cfg.Descriptors
	if fds == 0 {
		var err error
		if fds, err = RaiseDescriptors(); err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
	}
	limits, err := cfg.Limits.complete(fds)
	if err != nil {
		return nil, err
	}
	cfg.Limits = limits
	r := &Relay{
		cfg:     cfg,
		addrs:   addrs,
		limiter: newLimiter(limits),
		random:  new(random),
		reach:   newReach(),
	}
	if err := r.bind(); err != nil {
		r.Close()
		return nil, fmt.Errorf("relay: %w", err)
	}
	return r, nil
}

// bind makes the addresses local and binds every port.
func (r *Relay) bind() (err error) {
	if r.own, err = host.NewAddresses(); err != nil {
		return err
	}
	s, err := r.newSettings(r.cfg.Settings)
	if err != nil {
		return err
	}
	r.settings.Store(s)
	r.claim, err = host.New(host.Config{
		Relay:    r.addrs.Prefixes(),
		Egress:   s.egress.prefixes(),
		Ports:    r.cfg.Ports,
		Routes:   r.cfg.Routes,
		Firewall: r.cfg.Firewall,
		Log:      r.cfg.Log,
	})
	if err != nil {
		return err
	}
	return r.listen()
}

// Close gives up what New took, as if there had been no relay. Run gives it up itself.
func (r *Relay) Close() {
	r.closePlane()
	if r.claim != nil {
		r.leave(r.claim.Abandon())
	}
}

// leave says what stays behind on the host.
func (r *Relay) leave(err error) {
	if err != nil {
		r.cfg.Log.Warn().Err(err).Msg("routes or tables of the relay are left behind; the next start removes them")
	}
}

// Run relays until ctx is done, then takes no new flows, lets those that live go on for at most
// Limits.DrainTimeout, and returns nil. Any other return is an error that names the listener. The relay and egress
// prefixes are unreachable afterwards, if the relay has made them local.
func (r *Relay) Run(ctx context.Context) error {
	defer func() {
		r.closePlane()
		r.leave(r.claim.Release())
	}()
	context.AfterFunc(ctx, func() { r.draining.Store(true) })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.runPlane(ctx) })
	g.Go(func() error { r.own.Watch(ctx, r.cfg.Log); return nil })
	return g.Wait()
}

// Update replaces the settings; flows under way go on under the old ones. On an error the old settings stay.
func (r *Relay) Update(set Settings) error {
	ch, err := r.Prepare(set)
	if err != nil {
		return err
	}
	ch.Commit()
	return nil
}

// Change is a change of the settings that is prepared and not in force yet.
type Change struct {
	relay    *Relay
	settings *settings
	host     *host.Change
}

// Prepare does everything of an Update that can fail. It must be followed by Commit or Undo, and there must be no other
// change meanwhile.
func (r *Relay) Prepare(set Settings) (*Change, error) {
	s, err := r.newSettings(set)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	h, err := r.claim.Extend(s.egress.prefixes())
	if err != nil {
		return nil, fmt.Errorf("relay: egress: %w", err)
	}
	return &Change{r, s, h}, nil
}

// Commit puts the settings in force. Routes of egress prefixes that are no longer used stay until the end, for the flows
// that use them.
func (ch *Change) Commit() {
	ch.host.Commit()
	ch.relay.settings.Store(ch.settings)
}

// Undo gives back what Prepare has put in place. The settings before were in force all the time.
func (ch *Change) Undo() {
	ch.relay.leave(ch.host.Undo())
}

// Warnings returns what is wanted of the relay and not possible on this host, one line each.
func (r *Relay) Warnings() (lines []string) {
	if w := r.claim.Warning(); w != "" {
		lines = append(lines, w)
	}
	return lines
}

// Healthy reports whether the relay takes new flows.
func (r *Relay) Healthy() bool {
	return !r.draining.Load() && !r.limiter.full(TCP)
}

// egress returns the egress of the settings in force.
func (r *Relay) egress() *egress { return r.settings.Load().egress }

// Entropy returns the min-entropy in bits, per address family, of the source address and port of a flow at the moment
// when all other flows there may be go to the same destination and port; 0 without egress of the family.
func (r *Relay) Entropy() (v4, v6 float64) {
	e, flows := r.egress(), r.cfg.Limits.mostFlows()
	return e.v4.entropy(flows), e.v6.entropy(flows)
}

// families reports which address families the relay addresses have.
func (r *Relay) families() (v4, v6 bool) {
	for _, p := range r.addrs.Prefixes() {
		v4 = v4 || p.Addr().Is4()
		v6 = v6 || p.Addr().Is6()
	}
	return v4, v6
}

// Stats returns the counters since the start. No counter is kept per client or per destination.
func (r *Relay) Stats() Stats {
	s := Stats{
		Unconfirmed:  r.stats.unconfirmed.Load(),
		Dials:        int(r.limiter.dials.active.Load()),
		DialsGaveWay: r.limiter.dials.gaveWay.Load(),
	}
	for p := range r.stats.flows {
		s.Flows[p] = r.stats.flows[p].Load()
		s.Active[p] = int(r.limiter.flows[p].active.Load())
		s.Limit[p] = r.limiter.flows[p].limit
		s.GaveWay[p] = r.limiter.flows[p].gaveWay.Load()
		s.Refused[p] = r.stats.refused[p].Load()
		s.OverLimit[p] = r.stats.overLimit[p].Load()
		s.OverRate[p] = r.stats.overRate[p].Load()
		s.DialFailed[p] = r.stats.dialFailed[p].Load()
		s.BytesOut[p] = r.stats.bytesOut[p].Load()
		s.BytesBack[p] = r.stats.bytesBack[p].Load()
	}
	return s
}

// Stats are counters of a Relay, each indexed by protocol: 0 is TCP, 1 is UDP.
type Stats struct {
	Flows       [2]uint64 // let in
	Active      [2]int    // TCP: connected
	Limit       [2]int    // the most flows that may be active
	Refused     [2]uint64 // not a client, no mapping, or not a permitted destination
	OverLimit   [2]uint64 // refused because all flows are taken, in all or of the client
	OverRate    [2]uint64 // refused, TCP, or ignored, UDP, because the client begins flows too fast
	GaveWay     [2]uint64 // ended because another has their place
	DialFailed  [2]uint64
	BytesOut    [2]uint64 // client to destination
	BytesBack   [2]uint64 // destination to client
	Unconfirmed uint64    // UDP datagrams not sent back because the client is not confirmed

	Dials        int    // TCP flows that wait for their destination
	DialsGaveWay uint64 // those that ended because another has their place
}

// counters are the live form of Stats. Admission counts flows, refused and overLimit, and the limiter the active flows;
// the rest is for the protocols to count.
type counters struct {
	flows, refused, overLimit, overRate, dialFailed, bytesOut, bytesBack [2]atomic.Uint64

	unconfirmed atomic.Uint64
}
