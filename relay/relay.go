// Package relay is the opaque relay of draft-scalone-cfr-source-privacy-01: what arrives over TCP or UDP at a relay
// address is forwarded to the destination that the address stands for, from a source address and port drawn anew
// for each flow.
//
// A flow's destination goes from the socket to the egress like this:
//
//   - TCP: Relay.serveTCP (tcp_linux.go) accepts a connection, whose local address is the relay address. UDP:
//     udpWorker.flowOf (udp_worker_linux.go) looks for the flow of a datagram in its flowTable (udp_flow_linux.go), and
//     udpServer.begin (udp_server_linux.go) begins one if there is none.
//   - Relay.admit (admit.go) lets the flow in. Relay.destination asks the address map of package addrmap what the relay
//     address stands for. Relay.Open decides whether the client may have a flow there: it is within Settings.Clients,
//     Destinations (destinations.go) permits the address, and the limiter (limits.go) has a flow left. An entrance that
//     is told the destination in another way begins here.
//   - Grant.DialTCP (tcp_linux.go) or udpServer.dial (udp_socket_linux.go) connects to the destination, from what
//     egress.draw (egress.go) draws.
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
// Healthy, Entropy and Stats meanwhile. Settings are replaced as a whole, so that each flow is let in under one
// generation of them.
package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/relay/addrmap"
)

// Config is what New needs. Map, Ports and Limits are fixed for the life of a Relay; Settings can be replaced while
// it runs, see Relay.Update.
type Config struct {
	Map   *addrmap.Map
	Ports []uint16 // TCP and UDP ports served at every relay address
	// Routes puts local routes for the relay and egress prefixes in place, through netlink, and removes them at the
	// end. Off, or without the right, their absence is an error that names the command. Prefixes within 127.0.0.0/8
	// need no route. A local route makes the kernel take what is sent to these addresses; that the network sends it
	// here is for the operator's routing to see to.
	Routes   bool
	Limits   Limits
	Settings Settings
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
	fds, err := descriptors()
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
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
	}
	if err := r.bind(); err != nil {
		r.Close()
		return nil, fmt.Errorf("relay: %w", err)
	}
	return r, nil
}

// bind makes the addresses local and binds every port.
func (r *Relay) bind() error {
	if err := r.set(r.cfg.Settings); err != nil {
		return err
	}
	if err := r.ensureLocal(r.addrs.Prefixes()); err != nil {
		return err
	}
	return r.listen()
}

// Close gives up what New took. Run does so itself.
func (r *Relay) Close() {
	if err := r.closePlane(); err != nil {
		r.cfg.Log.Warn().Err(err).Msg("local routes are left behind")
	}
}

// Run relays until ctx is done, then takes no new flows, lets those that live go on for at most
// Limits.DrainTimeout, and returns nil. Any other return is an error that names the listener.
func (r *Relay) Run(ctx context.Context) error {
	defer r.Close()
	context.AfterFunc(ctx, func() { r.draining.Store(true) })
	return r.runPlane(ctx)
}

// Update replaces the settings; flows under way go on under the old ones. On an error the old settings stay.
func (r *Relay) Update(set Settings) error {
	if err := r.set(set); err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	return nil
}

// set is Update. Routes of egress prefixes that are no longer used stay until the end, for the flows that use them.
func (r *Relay) set(set Settings) error {
	s, err := r.newSettings(set)
	if err != nil {
		return err
	}
	for _, pool := range []*pool{&s.egress.v4, &s.egress.v6} {
		if err := r.ensureLocal(pool.prefixes); err != nil {
			return fmt.Errorf("egress: %w", err)
		}
	}
	r.settings.Store(s)
	return nil
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
	s := Stats{Unconfirmed: r.stats.unconfirmed.Load()}
	for p := range r.stats.flows {
		s.Flows[p] = r.stats.flows[p].Load()
		s.Active[p] = int(r.limiter.active[p].Load())
		s.Limit[p] = r.limiter.limit[p]
		s.Refused[p] = r.stats.refused[p].Load()
		s.OverLimit[p] = r.stats.overLimit[p].Load()
		s.DialFailed[p] = r.stats.dialFailed[p].Load()
		s.BytesOut[p] = r.stats.bytesOut[p].Load()
		s.BytesBack[p] = r.stats.bytesBack[p].Load()
	}
	return s
}

// Stats are counters of a Relay, each indexed by protocol: 0 is TCP, 1 is UDP.
type Stats struct {
	Flows       [2]uint64 // let in
	Active      [2]int
	Limit       [2]int    // the most flows that may be active
	Refused     [2]uint64 // not a client, no mapping, or not a permitted destination
	OverLimit   [2]uint64
	DialFailed  [2]uint64
	BytesOut    [2]uint64 // client to destination
	BytesBack   [2]uint64 // destination to client
	Unconfirmed uint64    // UDP datagrams not sent back because the client is not confirmed
}

// counters are the live form of Stats. Admission counts flows, refused and overLimit, and the limiter the active flows;
// the rest is for the protocols to count.
type counters struct {
	flows, refused, overLimit, dialFailed, bytesOut, bytesBack [2]atomic.Uint64

	unconfirmed atomic.Uint64
}
