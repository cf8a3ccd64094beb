// Package host is what the relay puts in place on the host that it runs on, and what it has to know of that host.
//
// The kernel takes what is sent to a relay or egress prefix for its own if there is a local route for the prefix
// (AnyIP). A Claim (claim_linux.go) puts these routes in place (routes_linux.go), and a table of nftables that refuses
// at these addresses what is not the relay's (firewall_linux.go): without it every program of the host that listens on
// all addresses would answer there. Conflicts (conflicts_linux.go) finds the prefixes that would cut the host off.
// Addresses (addresses_linux.go) follows which addresses the host has.
//
// Everything that a Claim leaves in the kernel can be told from what others put there: routes have the protocol
// RouteProtocol, and tables a name that begins with cfrd_relay_. A process that ends without removing them leaves them
// to the next one, which takes them over or removes them. Which relays still run is asked of the kernel (slot_linux.go).
//
// What this package does not: it opens no socket that carries a flow, and knows no client and no destination.
package host

import (
	"net/netip"

	"github.com/rs/zerolog"
)

// RouteProtocol is the protocol number of the relay's routes: `ip route show table all proto 207` lists them. No
// routing daemon has it. See linux/rtnetlink.h and /etc/iproute2/rt_protos.
const RouteProtocol = 207

// Config is what a Claim needs.
type Config struct {
	Relay    []netip.Prefix // relay addresses
	Egress   []netip.Prefix // source addresses; Claim.Extend adds others
	Ports    []uint16       // TCP and UDP ports that are served at the relay addresses
	Routes   bool           // put local routes in place; without, their absence is an error
	Firewall bool           // refuse what is not the relay's, where rights and kernel allow it
	Log      zerolog.Logger
}

// Conflict is a prefix that must not become the relay's, because the host would be cut off.
type Conflict struct {
	Prefix netip.Prefix
	What   string // what it contains, such as "the gateway 192.0.2.1"
}

// loopback is local without a route. What listens on all addresses answers there anyway, to this host alone.
var loopback = netip.MustParsePrefix("127.0.0.0/8")

// withoutLoopback returns the prefixes that others than this host can send to.
func withoutLoopback(prefixes []netip.Prefix) (list []netip.Prefix) {
	for _, p := range prefixes {
		if !loopback.Contains(p.Addr()) {
			list = append(list, p.Masked())
		}
	}
	return list
}
