// Package check does what a client does with a resolver, and says where the client would fail: it discovers the
// designated resolvers (RFC 9462), connects to every transport of theirs (RFC 7858, RFC 8484, RFC 9250), verifies the
// certificates, looks at what the relay answers, and asks a link what it hands out (RFC 9463).
//
// Its parts are Client, which sends one query over any transport; Resolver, the run of `cfrd check`; and Network, the
// run of `cfrd dnr check`. It trusts nothing that it reads, opens a bounded number of connections, and keeps no state
// between runs. It neither parses a command line nor reads a configuration. Every function works on the goroutine that
// calls it.
package check

import (
	"context"
	"crypto/x509"
	"net/netip"
	"time"
)

// Options say which resolver Resolver checks, and what it expects.
type Options struct {
	Addr      netip.AddrPort // where the resolver answers Do53; required
	Name      string         // the authentication domain name that is expected, canonical; "" accepts any
	Roots     *x509.CertPool // the authorities that are trusted; nil means the system's
	Steered   string         // a name whose addresses should be those of the relay, canonical; "" skips these steps
	MaxTTL    time.Duration  // the highest TTL that an address of Steered may have
	RelayPort uint16         // the port of Steered
	Timeout   time.Duration  // of each exchange; required

	control ControlFunc // of the sockets of Do53; nil leaves the interface to the system
}

// checker makes the steps of one run and adds them to the report.
type checker struct {
	Options
	*Report
}

// Resolver goes through everything that a client does with one resolver, in its order. A step that fails does not end
// the run: what can still be tried is tried.
func Resolver(ctx context.Context, o Options) *Report {
	c := checker{o, &Report{Resolver: o.Addr.String(), OK: true, Designations: []Designation{}}}
	reply, ok := c.do53(ctx)
	if !ok {
		c.skip("ddr", discoveryName, "nothing more can be tried without Do53")
		return c.Report
	}
	records := c.designated(reply)
	c.hygiene(ctx)
	name := c.knownName(records)
	c.byName(ctx, name)
	c.transports(ctx, records)
	c.resinfo(ctx, name, records)
	c.https(ctx, name, records)
	c.steering(ctx)
	return c.Report
}
