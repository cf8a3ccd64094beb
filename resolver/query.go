package resolver

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
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
}

// outcome says what answerNow did.
type outcome uint8

const (
	answered outcome = iota // the response was appended
	pending                 // nothing was appended: call answer
	dropped                 // no response may be sent: not a query, or too short for a header. Streams are closed.
)

// Limits bound what clients can make the server hold. A zero field means its default.
type Limits struct {
	Connections          int           // TCP, TLS and QUIC connections in all, at most a sixteenth of them of those who may not ask; default 20000
	ConnectionsPerClient int           // of one client address (IPv6: /64); default 100
	InFlight             int           // queries waiting for an upstream, in all; default 10000
	InFlightPerClient    int           // of one client address (IPv6: /64), whatever the transport; default 1000
	InFlightPerConn      int           // queries waiting on one TCP, TLS or QUIC connection; default 100
	IdleTimeout          time.Duration // of a connection without a query under way; default 10 s
	ReadTimeout          time.Duration // from the first octet of a message or request to its last; default 5 s
	QueryTimeout         time.Duration // for a query that waits for upstreams; default 4 s
	DrainTimeout         time.Duration // for queries in flight when the server stops; default 5 s
	HTTP2                HTTP2Server   // which implementation of HTTP/2 serves DoH; default HTTP2Own
}

// withDefaults returns l with every zero field set to its default.
func (l Limits) withDefaults() Limits {
	return Limits{
		Connections:          cmp.Or(l.Connections, 20000),
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
		{"connections per client", int64(l.ConnectionsPerClient)},
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
	return nil
}
