// Package ddr implements the server side of Discovery of Designated Resolvers, as described in RFC 9462: it answers
// resolver.arpa and _dns under the resolver's name with SVCB records (RFC 9460, RFC 9461) of what really runs.
package ddr

import (
	"crypto/x509"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Config is what New needs.
type Config struct {
	// Name is the authentication domain name of the resolver.
	Name string
	// Addresses are the addresses of Name, for A and AAAA in the Additional section and at Name itself.
	Addresses []netip.Addr
	// Services are the encrypted listeners that run, in order of preference.
	Services []Service
	// Certificate returns the leaf that handshakes without SNI are served right now, or nil if there is none.
	Certificate func() *x509.Certificate
	// Relay is the co-located relay, or nil if there is none or it is not to be advertised.
	Relay *RelayService
	// TTL of all answers. 0 means DefaultTTL.
	TTL time.Duration
}

// DefaultTTL is short because clients whose validation failed stay away for the TTL. See RFC 9462, Section 4.2.
const DefaultTTL = 5 * time.Minute

// Protocol is an encrypted DNS transport.
type Protocol uint8

// The protocols that can be advertised.
const (
	DoT Protocol = iota
	DoH          // HTTP/1.1 and HTTP/2 over TCP
	DoH3
	DoQ
)

// Service is one encrypted listener.
type Service struct {
	Protocol Protocol
	// Addr is the address it listens on; an unspecified address means all.
	Addr netip.AddrPort
	// DoHPath is the URI template of DoH, such as "/dns-query{?dns}".
	DoHPath string
}

// RelayService describes the relay as an SVCB record that clients which do not know it must skip twice: it has an
// unknown mandatory key (RFC 9462, Section 3) and no alpn (RFC 9461, Section 4.1).
type RelayService struct {
	Name  string // TargetName; empty means Config.Name
	Key   uint16 // SvcParamKey, private use; 0 means 65280
	Value []byte // of Key; its first octet is a version
	Port  uint16 // 0: no port parameter
}

// Zone answers for resolver.arpa and for the resolver's own discovery names.
type Zone struct{ cfg Config }

// New validates cfg.
func New(cfg Config) (*Zone, error) { return &Zone{cfg: cfg}, nil }

// Answer returns the reply to q sent by client to the address local, or false if the name is not of discovery.
// Everything under resolver.arpa is: what does not exist is NODATA. See RFC 9462, Section 6.4.
func (z *Zone) Answer(q dns.Question, client, local netip.Addr) (*dns.Msg, bool) { return nil, false }
