package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/relay"
	"github.com/cfrd-project/cfrd/resolver"
)

// descriptors is how the descriptors that the process may have are shared, so that what clients hold never keeps
// upstreams from being asked, leases from being kept, or the admin server from answering.
type descriptors struct {
	limit       int // RLIMIT_NOFILE, the soft limit raised to the hard one
	connections int // of clients of the resolver, over TCP and TLS; at most what is configured
	upstreams   int // sockets to upstreams
	relay       int // of flows, and of the pipes between them
}

const (
	// leastReserve and mostReserve bound what is kept for listeners, files, the lease store and the admin server: a 16th.
	leastReserve, mostReserve = 64, 1024
)

// shareDescriptors shares limit descriptors for what cfg runs in this mode. Upstreams get a quarter, and clients as much
// as the rest allows, of which flows have at least two thirds if there is a relay.
func shareDescriptors(limit int, cfg *config.Config, m config.Mode) descriptors {
	d := descriptors{limit: limit}
	rest := limit - min(max(limit/16, leastReserve), mostReserve)
	if m.Resolves() {
		d.upstreams = max(1, min(rest/4, resolver.DefaultUpstreamSockets))
		rest -= d.upstreams
		most := rest
		if m.Relays() && cfg.Relays() {
			most = rest / 3
		}
		d.connections = max(1, min(resolver.ConnectionsWithin(most), wantedConnections(cfg)))
		rest -= resolver.DescriptorsOf(d.connections)
	}
	if m.Relays() && cfg.Relays() {
		d.relay = max(1, rest)
	}
	return d
}

// wantedConnections returns how many connections are configured.
func wantedConnections(cfg *config.Config) int {
	return cmp.Or(cfg.Limits.Connections, resolver.DefaultConnections)
}

// ownDescriptors shares what this process may have.
func ownDescriptors(cfg *config.Config, m config.Mode) (descriptors, error) {
	limit, err := relay.RaiseDescriptors()
	if errors.Is(err, errors.ErrUnsupported) {
		return descriptors{}, nil // the limits are as they are configured
	}
	if err != nil {
		return descriptors{}, err
	}
	return shareDescriptors(limit, cfg, m), nil
}

// String says what the limits come to.
func (d descriptors) String() string {
	s := fmt.Sprintf("descriptors: %d (RLIMIT_NOFILE)", d.limit)
	if d.connections > 0 {
		s += fmt.Sprintf("; %d for connections over TCP and TLS, %d for sockets to upstreams", d.connections, d.upstreams)
	}
	if d.relay > 0 {
		s += fmt.Sprintf("; %d for flows of the relay", d.relay)
	}
	return s
}

// warning returns what to say of limits that come to less than half of what is configured, or "".
func (d descriptors) warning(cfg *config.Config) string {
	if d.connections == 0 || d.connections >= wantedConnections(cfg)/2 {
		return ""
	}
	return fmt.Sprintf("limits.connections: of %d only %d can be over TCP and TLS, because this process may have %d open files: "+
		"raise the limit (LimitNOFILE=, ulimit -n)", wantedConnections(cfg), d.connections, d.limit)
}
