package resolver

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/upstream"
)

// Transport is the protocol over which a query arrived.
type Transport uint8

// The transports, in the order of Stats.
const (
	UDP Transport = iota
	TCP
	DoT
	DoH  // HTTP/1.1 and HTTP/2
	DoH3 // HTTP/3
	DoQ
	NumTransports
)

var transportNames = [...]string{UDP: "udp", TCP: "tcp", DoT: "dot", DoH: "doh", DoH3: "doh3", DoQ: "doq"}

// String returns the name used in metric labels.
func (t Transport) String() string { return transportNames[t] }

// channels says what each transport asks of the responses over it.
var channels = [NumTransports]wire.Channel{UDP: wire.Datagram, TCP: wire.Session, DoT: wire.Session | wire.Padded, DoH: wire.Padded, DoH3: wire.Padded, DoQ: wire.Padded}

// query is one message on its way from a listener to a handler. The listener owns it and everything that it points to,
// and may use both again as soon as the handler has returned.
type query struct {
	// set by the listener
	msg       []byte         // wire form, without a length prefix
	client    netip.AddrPort // unmapped
	local     netip.AddrPort // the address that was asked, unmapped; never unspecified
	transport Transport

	// set by the handler
	ttl      uint32    // lowest TTL of the response in seconds, 0 if it must not be cached (for Cache-Control)
	decision *decision // of answerNow, for answer; or nil
}

// handler has the responses to queries. They are appended to dst, complete for the transport: truncated to what a UDP
// client takes, padded on encrypted transports. dst needs no length prefix; its spare capacity is used. All methods are
// called from many goroutines at the same time.
type handler interface {
	// answerNow answers what needs no waiting: what is refused, malformed, known here, or in the cache. It does not
	// block and does not allocate on a cache hit.
	answerNow(q *query, dst []byte) ([]byte, outcome)
	// answer answers everything else, waiting for upstreams until ctx is done. It is called once, after answerNow said
	// pending for the same q or a copy of it, whose msg may have moved, and always appends a response.
	answer(ctx context.Context, q *query, dst []byte) []byte
	// serves reports whether client may ask. Others can connect, and their queries are refused.
	serves(client netip.Addr) bool
	// affords takes the cost of a TLS or QUIC handshake from what client may cost, and reports false if that is too much.
	affords(client netip.Addr, p proof) bool
}

// outcome says what answerNow did.
type outcome uint8

const (
	answered outcome = iota // the response was appended
	pending                 // nothing was appended: call answer
	dropped                 // no response may be sent: not a query, too short for a header, or over a budget. Streams are closed.
)

// Limits bound what clients can make the server hold. A zero field means its default.
type Limits struct {
	Connections          int           // TCP, TLS and QUIC connections in all, at most a sixteenth of them of those who may not ask; default 20000
	Sockets              int           // of Connections, those over TCP and TLS, each of which has a descriptor; default all
	UpstreamSockets      int           // open to upstreams, from which what one client or zone may have waiting is derived; default DefaultUpstreamSockets
	ConnectionsPerClient int           // of one client address (IPv6: /64); default 100
	ConnectionAge        time.Duration // after which a connection ends, once what is under way on it is answered; default 1 h
	InFlight             int           // queries waiting for an upstream, in all; default 10000
	InFlightPerClient    int           // of one client address (IPv6: /64), whatever the transport; default 1000
	InFlightPerConn      int           // queries waiting on one TCP, TLS or QUIC connection; default 100
	IdleTimeout          time.Duration // of a connection without a query under way; default 10 s
	ReadTimeout          time.Duration // from the first octet of a message or request to its last; default 5 s
	QueryTimeout         time.Duration // for a query that waits for upstreams; default 4 s
	DrainTimeout         time.Duration // for queries in flight when the server stops; default 5 s
	HTTP2                HTTP2Server   // which implementation of HTTP/2 serves DoH; default HTTP2Own
	// HTTP2Memory is how many octets all connections of HTTP/2 may keep together: bodies, header blocks and responses that
	// are on their way. Beyond it the connection that keeps most ends. Default 64 MiB.
	HTTP2Memory int64

	// Prefixes bound what all clients of a prefix have together, the narrowest first. By default an IPv6 /56 has twice what
	// a client may have, and an IPv6 /48 or IPv4 /24 has the defaults of PrefixLimit.
	Prefixes []PrefixLimit

	// Rate is what a client may cost in a second, over UDP and, besides, over what proves its address: an answer from the
	// cache costs 1, one for which upstreams are asked 101, a TLS or QUIC handshake 250. What is not spent in a second is lost.
	// Negative is no bound; default DefaultRate.
	Rate int
	// Shared are prefixes of which each address stands for SharedBy customers, as behind carrier-grade NAT: all limits of
	// a client and of the prefixes that it is in are that many times as high.
	Shared   []netip.Prefix
	SharedBy int // default 64
}

// DefaultConnections is the default of Limits.Connections.
const DefaultConnections = 20000

// DefaultUpstreamSockets is the default of Limits.UpstreamSockets.
const DefaultUpstreamSockets = upstream.DefaultSockets

// DescriptorsOf returns how many descriptors the server needs for Limits.Sockets: some connections are ending besides.
func DescriptorsOf(sockets int) int { return sockets + sockets/leavingShare }

// ConnectionsWithin is the inverse of DescriptorsOf.
func ConnectionsWithin(descriptors int) int { return descriptors * leavingShare / (leavingShare + 1) }

// DefaultRate is the default of Limits.Rate: 250 questions a second that upstreams have to be asked, which is more than a
// household has, or 100 handshakes.
const DefaultRate = 25000

// MinRate is the least Limits.Rate with which a client can make a handshake at all.
const MinRate = 250

// withDefaults returns l with every zero field set to its default.
func (l Limits) withDefaults() Limits {
	l.Connections = cmp.Or(l.Connections, DefaultConnections)
	return Limits{
		Connections:          l.Connections,
		Sockets:              cmp.Or(l.Sockets, l.Connections),
		UpstreamSockets:      l.UpstreamSockets,
		ConnectionAge:        cmp.Or(l.ConnectionAge, time.Hour),
		HTTP2Memory:          cmp.Or(l.HTTP2Memory, 64<<20),
		Prefixes:             l.Prefixes,
		Rate:                 cmp.Or(l.Rate, DefaultRate),
		Shared:               l.Shared,
		SharedBy:             cmp.Or(l.SharedBy, 64),
		ConnectionsPerClient: cmp.Or(l.ConnectionsPerClient, 100),
		InFlight:             cmp.Or(l.InFlight, 10000),
		InFlightPerClient:    cmp.Or(l.InFlightPerClient, 1000),
		InFlightPerConn:      cmp.Or(l.InFlightPerConn, 100),
		IdleTimeout:          cmp.Or(l.IdleTimeout, 10*time.Second),
		ReadTimeout:          cmp.Or(l.ReadTimeout, 5*time.Second),
		QueryTimeout:         cmp.Or(l.QueryTimeout, 4*time.Second), // stub resolvers wait for 5 s: so they see why there is no answer
		DrainTimeout:         cmp.Or(l.DrainTimeout, 5*time.Second),
		HTTP2:                l.HTTP2,
	}
}

// validate reports the first limit that is negative.
func (l Limits) validate() error {
	fields := []struct {
		name  string
		value int64
	}{
		{"connections", int64(l.Connections)},
		{"sockets", int64(l.Sockets)},
		{"sockets to upstreams", int64(l.UpstreamSockets)},
		{"connections per client", int64(l.ConnectionsPerClient)},
		{"memory of HTTP/2", l.HTTP2Memory},
		{"connection age", int64(l.ConnectionAge)},
		{"customers of a shared address", int64(l.SharedBy)},
		{"queries in flight", int64(l.InFlight)},
		{"queries in flight per client", int64(l.InFlightPerClient)},
		{"queries in flight per connection", int64(l.InFlightPerConn)},
		{"idle timeout", int64(l.IdleTimeout)},
		{"read timeout", int64(l.ReadTimeout)},
		{"query timeout", int64(l.QueryTimeout)},
		{"drain timeout", int64(l.DrainTimeout)},
	}
	for _, f := range fields {
		if f.value < 0 {
			return fmt.Errorf("limit of %s is negative", f.name)
		}
	}
	if _, err := newPrefixSet(l.Shared); err != nil {
		return fmt.Errorf("shared: %w", err)
	}
	return ValidatePrefixes(l.Prefixes)
}
