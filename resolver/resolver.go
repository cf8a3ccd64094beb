// Package resolver is the DNS front end of an access provider: it takes queries over Do53, DoT (RFC 7858),
// DoH (RFC 8484) and DoQ (RFC 9250), answers them from local zones, a wire-form cache or upstream resolvers, and
// steers the addresses of selected destinations to a relay.
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
	// HTTP answers requests to the DoH listeners for other paths than DoHPath, within the same limits. It must not
	// wait for anything, not even for the body of a request, which over HTTP/2 it does not get. Over HTTP/2 a response
	// has at most 65,535 octets. Its requests have http.LocalAddrContextKey in every version of HTTP. Nil answers 404.
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
	// Local answer without an upstream; the first to claim a question wins.
	Local []Local
	// Public is one name that everybody may ask about, also who is not among Clients, or nil.
	Public *Public
	// Upstreams are tried in order of health, then of this list.
	Upstreams []Upstream
	// Steering rewrites addresses to those of a relay. Nil switches it off.
	Steering *Steering
}

// Local answers questions from what this program knows itself: discovery, local zones.
type Local interface {
	// Answer returns the reply to q that client sent to the address local (its zone is stripped, IPv4 is never
	// mapped into IPv6), or false if the name is not of this source. Of the reply the RCODE, AA and the three
	// sections are used; the resolver sets the rest. The reply is the caller's to keep and change.
	// It does not block. A name that is ours but has no such type is an empty answer with an SOA, not false. An answer that ends with a
	// CNAME, and nothing in the Authority section, is completed by the resolver.
	Answer(q dns.Question, client, local netip.Addr) (*dns.Msg, bool)
}

// Public is a name that is answered for the whole Internet, such as the one at which an authority for certificates
// looks for its challenge.
type Public struct {
	// Name is matched exactly; names below it are not public.
	Name string
	// Local comes before Settings.Local. Of who is not a client nothing else is ever asked on behalf of.
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

// What a Steering is made of is declared where it is used.
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
