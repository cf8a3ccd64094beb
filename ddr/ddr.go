// Package ddr implements the server side of Discovery of Designated Resolvers, as described in RFC 9462: it answers
// resolver.arpa and _dns under the resolver's name with SVCB records (RFC 9460, RFC 9461) of what really runs, and
// with RESINFO (RFC 9606).
//
// What it claims, of class IN: everything at and below resolver.arpa, everything at and below _dns.NAME, and RESINFO
// at NAME. NAME itself is left to the operator's zones, unless Config.OwnName is set; so is its HTTPS record, unless
// Config.OwnHTTPS is.
//
// It sends and receives nothing, and does not read what other resolvers publish, except by ParsePvD, ParseInfo and
// ParseRelayValue, which are the inverse of what it writes. Package ddr/svcb has the data of single records. A Zone
// does not change after New, and its methods may be called from any goroutine: the resolver's listeners ask Answer, its
// HTTP servers PvD, and the commands the rest.
package ddr

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// Config is what New needs.
type Config struct {
	// Name is the authentication domain name of the resolver.
	Name string
	// OwnName makes the zone answer for Name itself: its A, AAAA and HTTPS, and NODATA for the other types. It is
	// meant for a resolver whose name is in no zone; a zone file that has the name must not be shadowed.
	OwnName bool
	// OwnHTTPS makes the zone answer for HTTPS at Name while DoH runs. It is meant for a zone file that has the name
	// without such a record, and says nothing that OwnName does not.
	OwnHTTPS bool
	// PvD says that https://NAME/.well-known/pvd is served, so that the HTTPS record has the parameter pvd. See RFC
	// 8801, Section 4.1.
	PvD bool
	// Addresses are the addresses of Name, for A and AAAA in the Additional section and at Name itself. If there
	// are none, the address that a client asked stands in, which is right for listeners on unspecified addresses.
	Addresses []netip.Addr
	// Services are the encrypted listeners that run, in order of preference.
	Services []Service
	// Certificate returns the leaf that handshakes without SNI are served right now, or nil if there is none.
	Certificate func() *x509.Certificate
	// Relay is the co-located relay, or nil if there is none or it is not to be advertised.
	Relay *RelayService
	// Info is what RESINFO says of the resolver, or nil if it says nothing.
	Info *Info
	// TTL of all answers, in whole seconds. 0 means 5 minutes. No answer outlives the certificate it rests on.
	TTL time.Duration
	// Clock returns the time; nil means time.Now.
	Clock func() time.Time
}

// defaultTTL is short because clients whose validation failed stay away for the TTL. See RFC 9462, Section 4.2.
const defaultTTL = 5 * time.Minute

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
	// Addr is the address it listens on. 0.0.0.0 stands for every IPv4 address, :: for every address of both
	// families.
	Addr netip.AddrPort
	// DoHPath is the URI template of DoH. Empty means svcb.DefaultDoHPath.
	DoHPath string
}

// Info is the content of RESINFO about a resolver. There is no qnamemin, because a forwarder does not minimise. See
// RFC 9606, Section 5.
type Info struct {
	ExtErr []uint16 // Extended DNS Error codes that the resolver emits
	URL    string   // of a page for people, with scheme https; empty if there is none
}

// Zone answers for resolver.arpa and for the resolver's own discovery names.
type Zone struct {
	// set once by New
	cfg     Config
	name    string // Config.Name, canonical
	ttl     uint32
	info    []string     // RDATA of RESINFO, nil if there is none
	relay   *dns.SVCB    // without an owner, or nil
	relayAt []netip.Addr // addresses of the relay's TargetName if that is not name
}

// New validates cfg.
func New(cfg Config) (*Zone, error) {
	z := &Zone{cfg: cfg, name: dns.CanonicalName(cfg.Name)}
	if err := svcb.CheckName(z.name); err != nil {
		return nil, err
	}
	if z.cfg.Certificate == nil {
		z.cfg.Certificate = func() *x509.Certificate { return nil }
	}
	if z.cfg.Clock == nil {
		z.cfg.Clock = time.Now
	}
	z.ttl = uint32(max(cfg.TTL, 0) / time.Second)
	if z.ttl == 0 {
		z.ttl = uint32(defaultTTL / time.Second)
	}
	z.cfg.Addresses = unique(cfg.Addresses)
	return z, errors.Join(z.setServices(), z.setInfo(), z.setRelay())
}

func (z *Zone) setServices() error {
	if n := len(z.cfg.Services); n >= relayPriority {
		return fmt.Errorf("ddr: %d services; want less than %d", n, relayPriority)
	}
	z.cfg.Services = slices.Clone(z.cfg.Services)
	for i := range z.cfg.Services {
		s := &z.cfg.Services[i]
		s.Addr = netip.AddrPortFrom(s.Addr.Addr().Unmap().WithZone(""), s.Addr.Port())
		if !s.Addr.IsValid() || s.Addr.Port() == 0 || s.Protocol > DoQ {
			return fmt.Errorf("ddr: service %d has no protocol, address or port", i)
		}
		if !s.isHTTP() {
			s.DoHPath = ""
			continue
		}
		if s.DoHPath == "" {
			s.DoHPath = svcb.DefaultDoHPath
		}
		if err := svcb.CheckDoHPath(s.DoHPath); err != nil {
			return fmt.Errorf("%w: %q", err, s.DoHPath)
		}
	}
	return nil
}

func (s Service) isHTTP() bool { return s.Protocol == DoH || s.Protocol == DoH3 }

// alpn returns the protocol id. See RFC 7858; RFC 9250, Section 7.1; RFC 9113, Section 3.1; RFC 9114, Section 11.1.
func (s Service) alpn() string {
	return [...]string{DoT: "dot", DoH: "h2", DoH3: "h3", DoQ: "doq"}[s.Protocol]
}

// port returns the port, or 0 if it is the default one. See RFC 9461, Section 4.2.
func (s Service) port() uint16 {
	standard := uint16(853)
	if s.isHTTP() {
		standard = 443
	}
	if s.Addr.Port() == standard {
		return 0
	}
	return s.Addr.Port()
}

// listensOn reports whether a client reaches the service at addr.
func (s Service) listensOn(addr netip.Addr) bool {
	own := s.Addr.Addr()
	return own == addr || own == netip.IPv6Unspecified() || own == netip.IPv4Unspecified() && addr.Is4()
}

// record returns r as an SVCB record of owner, with the parameters of Resolver.Params. The addresses go along in the
// Additional section.
func record(r svcb.Resolver, owner string, ttl uint32) *dns.SVCB {
	rr := &dns.SVCB{Hdr: header(owner, dns.TypeSVCB, ttl), Priority: r.Priority, Target: r.Name}
	rr.Value = append(rr.Value, &dns.SVCBAlpn{Alpn: r.ALPN})
	if r.Port != 0 {
		rr.Value = append(rr.Value, &dns.SVCBPort{Port: r.Port})
	}
	if r.DoHPath != "" {
		rr.Value = append(rr.Value, &dns.SVCBDoHPath{Template: r.DoHPath})
	}
	return rr
}

func header(owner string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// unique returns the addresses without zone and IPv4-mapped form, each once, in the given order.
func unique(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsValid() && !a.IsUnspecified() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
