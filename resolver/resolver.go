// Package resolver is the DNS front end of an access provider: it takes queries over Do53, DoT (RFC 7858), DoH (RFC 8484)
// and DoQ (RFC 9250), answers them from local sources, a cache or other resolvers, and has the addresses of selected
// destinations replaced by those of a relay.
//
// It does not know what a zone, a rule or an address map is: local sources, the steering policy and the relay are
// interfaces here, and cmd/cfrd brings their implementations. It does not resolve from the root on, does not validate
// DNSSEC, and reads no configuration. Octets of messages are the matter of internal/wire, HTTP/2 that of internal/h2,
// which addresses become the relay's that of steer, and how other resolvers are asked that of upstream.
//
// The package is larger than the rooms around it, because its parts are of one piece: one file for each transport, all of
// them on the same limits and the same query, and the forwarder, settings and cache, which share what a generation of
// settings means. What can be read without the rest is outside.
//
// New and Close are called by one goroutine, Run by one, Update and Stats by any. A Server has one goroutine for each
// listening socket, one for each connection over TCP and TLS, and one for each stream over QUIC; all of them call the
// forwarder at the same time. Another one is started for each query that waits for upstreams, after a slot for it was
// taken (admit.go), so that what a flood can make the server hold is bounded by Limits.
//
// # The way of a query's octets
//
// A listener reads the octets of a message into a buffer of its own and makes a query of them: who asks, at which of our
// addresses, over which transport (query.go). Over UDP that is udpSocket.read (do53_linux.go), which takes a batch of
// datagrams at once; over TCP and TLS stream.read (stream.go), after listener.accept (accept.go) and, for TLS, the
// handshake (dot.go); over QUIC doqConn.serveStream (doq.go). Over HTTP the message is the body of a POST or a parameter
// of a GET: internal/h2 reads the frames of HTTP/2 and calls dohH2 (dohh2.go), net/http and quic-go read HTTP/1.1 and
// HTTP/3 and call ServeHTTP, and both have doh.answer (doh.go) find the message and make the query.
//
// Whoever made the query calls forwarder.answerNow (forwarder.go), on its own goroutine. wire.Query.Parse reads header,
// question and OPT record. The settings of this moment say whether the client may ask, and which view of an answer it
// gets (settings.go): the addresses as they are, or the relay's. cache.lookup (cache.go) looks for the response by the
// question in lower case. If it is there, wire.Response.AppendTo appends a copy of it to the listener's buffer, with the
// ID, the spelling of the name, the flags, the TTLs and the OPT record that this client gets, cut off at what it takes
// over UDP and padded where the transport is encrypted. The listener writes the buffer: a batch of datagrams, all
// responses to what one read brought, an HTTP response, or the one message of a stream and its end.
//
// If it is not there, the local sources are asked (local.go). What they have goes the same way as what the cache has. If
// they have nothing, what was decided so far stays with the query, and answerNow says that it is pending. The listener
// takes a slot, copies the octets, because its buffer is needed for the next message, and starts a goroutine, which
// calls forwarder.answer. That has the question resolved (resolve.go), together with everybody who asks the same
// meanwhile (flight.go): upstream.Pool.Resolve sends octets that wire.AppendQuery made, nothing of which but the question
// is the client's, and gives back a wire.Response, every record of which has been looked at. The cache keeps it. For a
// client that may use the relay, steer.Steerer.Apply makes another response of its octets, which the cache keeps as well.
// wire.Response.AppendTo appends that to the goroutine's buffer as above, and the goroutine gives the slot back and
// writes the buffer where the query came from.
package resolver

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/resolver/steer"
	"github.com/cfrd-project/cfrd/resolver/upstream"
)

// Config is what New needs. Listen, TLS, Limits and CacheBytes are fixed for the life of a Server; Settings can be
// replaced while it runs, see Server.Update.
type Config struct {
	Listen Listen
	// TLS is cloned for each encrypted listener, which sets its own NextProtos. Nil if no encrypted listener is
	// configured. Its GetCertificate must serve handshakes without SNI. See RFC 9462, Section 6.3.
	TLS *tls.Config
	// DoHPath is the path at which DoH is served. Empty means DefaultDoHPath.
	DoHPath string
	// HTTP answers requests to the DoH listeners for other paths than DoHPath, within the same limits. It is called
	// when the body of a request has arrived, of at most 65,535 octets, and must not wait for anything. Over HTTP/2 a
	// response has at most 65,535 octets as well. Its requests have http.LocalAddrContextKey in every version of HTTP.
	// Nil answers 404.
	HTTP   http.Handler
	Limits Limits
	// CacheBytes bounds the memory of cached answers. 0 means DefaultCacheBytes.
	CacheBytes int64
	Settings   Settings
	// Log receives what an operator must know; never a client together with a name. The zero Logger is silent.
	Log zerolog.Logger
}

// Listen says where to listen, per protocol. An empty list switches a protocol off. Port 0 picks a free port, see
// Server.Addrs. DoH listens on TCP (HTTP/1.1 and HTTP/2) and, on the same port, on UDP (HTTP/3).
type Listen struct {
	Do53, DoT, DoH, DoQ []netip.AddrPort
}

// Settings is the part of the configuration that can change while the server runs.
type Settings struct {
	// Clients are the prefixes that may ask. Others get REFUSED. Empty refuses everybody.
	Clients []netip.Prefix
	// Local are the sources that answer without an upstream; the first that has an answer wins.
	Local []Local
	// Public is one name that everybody may ask for, not only Clients, or nil.
	Public *Public
	// Upstreams are tried in order of health, then of this list.
	Upstreams []Upstream
	// Steering rewrites addresses to those of a relay. Nil switches it off.
	Steering *Steering
}

// Local answers questions from what this program knows itself: discovery, local zones.
type Local interface {
	// Answer returns the response to q that client sent to the address local (its zone is stripped, IPv4 is never
	// mapped into IPv6), or false if the name is not of this source. Of the response the RCODE, AA and the three
	// sections are used; the resolver sets the rest. The response is the caller's to keep and change.
	// It does not block. A name that is ours but has no such type is an empty answer with an SOA, not false. An answer that ends with a
	// CNAME, and nothing in the Authority section, is completed by the resolver.
	Answer(q dns.Question, client, local netip.Addr) (*dns.Msg, bool)
}

// Public is a name that is answered for the whole Internet, such as the one at which an authority for certificates
// looks for its challenge.
type Public struct {
	// Name is matched exactly; names below it are not public.
	Name string
	// Local comes before Settings.Local. It is the only source that is asked for anybody who is not among Clients.
	Local Local
}

// Upstream is a resolver that answers what we do not know.
type Upstream = upstream.Config

// Steering says which destinations are reached through the relay, and how answers are changed to that end.
type Steering struct {
	Policy Policy
	Relay  Relay
	// Clients are the prefixes that may use the relay; others get answers unchanged. Empty means nobody.
	Clients []netip.Prefix
	// MaxTTL caps the TTL of a rewritten record. 0 means DefaultSteerTTL.
	MaxTTL time.Duration
	// Hints says what becomes of ipv4hint and ipv6hint of steered addresses: HintsRewrite or HintsStrip.
	Hints HintMode
	// OnFailure says what is answered if the relay cannot take a destination: FailPass or FailServfail.
	OnFailure FailMode
}

// What a Steering is made of is declared in the package that uses it.
type (
	// Policy decides which addresses are steered.
	Policy = steer.Policy
	// Relay gives out relay addresses.
	Relay = steer.Relay
	// HintMode is what becomes of the address hints of steered addresses.
	HintMode = steer.HintMode
	// FailMode is what is answered when the relay cannot take a destination.
	FailMode = steer.FailMode
)

// Values of HintMode and FailMode.
const (
	HintsRewrite = steer.HintsRewrite
	HintsStrip   = steer.HintsStrip
	FailPass     = steer.FailPass
	FailServfail = steer.FailServfail
)

// UpstreamProtocol is how an upstream is asked.
type UpstreamProtocol = upstream.Protocol

// Values of UpstreamProtocol.
const (
	UpstreamUDP = upstream.UDP
	UpstreamTLS = upstream.TLS
)

// Defaults of Config and Steering.
const (
	DefaultDoHPath    = "/dns-query"
	DefaultCacheBytes = 64 << 20
	DefaultSteerTTL   = steer.DefaultTTL
)

// Stats are counters of a Server. The arrays are indexed by Transport or by RCODE (the last one is "any other").
type Stats struct {
	Queries     [NumTransports]uint64
	Responses   [17]uint64 // by RCODE 0-15, then extended ones
	CacheHits   uint64
	CacheMisses uint64
	CacheBytes  int64
	Entries     int
	Steered     uint64 // answers in which an address was rewritten
	SteerFailed uint64 // answers for which the relay could not take a destination
	Shed        uint64 // queries dropped or refused because too many were in flight
	InFlight    int
	Connections [NumTransports]int
	Refused     [NumTransports]uint64 // connections over a limit
	Upstreams   []UpstreamStats       // in the order of Settings.Upstreams
}

// UpstreamStats are the counters of one upstream.
type UpstreamStats = upstream.Stats
