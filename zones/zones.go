// Package zones answers what needs no upstream, from the operator's zone files (RFC 1035) and the special-use and
// locally served names of RFC 6761 and RFC 6303, and decides by rules which destinations are steered to the relay.
//
// New (zones.go) reads the zone files (load.go) and adds the built-in zones (local.go); Zones.Answer finds the zone of a
// question and what it says (lookup.go). NewPolicy (policy.go) compiles rules; Policy.Steer decides about one address,
// by the names that led to it, the address, and whether there is an ECH configuration, and Policy.Scope says beforehand
// whether it can depend on them at all.
//
// What it does not: it asks nobody and keeps nothing that changes. It does not know clients, the relay, or the addresses
// that the relay refuses: the relay's list of special-purpose addresses is handed to NewPolicy as a function. It signs
// nothing, transfers no zone, and does not follow a CNAME out of the operator's zones, which is the caller's to do. It
// imports nothing of ours.
//
// Package cmd/cfrd makes a new Zones and Policy at each reload and hands them to the resolver, any of whose goroutines
// may call Answer, Steer and Scope, since neither ever changes.
package zones

import (
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Config is what New needs.
type Config struct {
	// Files are the operator's zone files, see Load.
	Files []string
	// FS is where Files are. Nil means the machine's file system.
	FS fs.FS
	// Relay are the relay's prefixes. Reverse names of their addresses are answered with NXDOMAIN.
	Relay []netip.Prefix
	// Forward are special-use or locally served names, such as "home.arpa" or "10.in-addr.arpa", that are not
	// answered here but asked of the upstreams, because those know them.
	Forward []string
}

// Zones answers from local data. It is immutable, and so safe for concurrent use.
type Zones struct {
	zones map[string]*zone // by apex, in lower case
	exist map[string]bool  // the operator's apexes and what is above: the zone around them may not know
	relay []netip.Prefix
}

// New reads and validates the operator's zones and adds the special-use and locally served ones, except at and
// below the names that the operator's zones hold.
func New(cfg Config) (*Zones, error) {
	z := &Zones{zones: make(map[string]*zone), exist: make(map[string]bool), relay: slices.Clone(cfg.Relay)}
	for i, p := range z.relay {
		if !p.IsValid() {
			return nil, fmt.Errorf("relay[%d]: not a prefix", i)
		}
	}
	for _, file := range cfg.Files {
		if err := z.load(cfg.FS, file); err != nil {
			return nil, err
		}
	}
	return z, z.addBuiltin(cfg.Forward)
}

// load adds the zone in file.
func (z *Zones) load(fsys fs.FS, file string) error {
	loaded, err := loadFile(fsys, file)
	if err != nil {
		return err
	}
	if other := z.zones[loaded.apex]; other != nil {
		return fmt.Errorf("%s: zone %s is in %s already", file, loaded.apex, other.file)
	}
	z.zones[loaded.apex] = loaded
	for name := loaded.apex; name != "."; name = parent(name) {
		z.exist[name] = true
	}
	return nil
}

// addBuiltin adds the special-use and locally served zones, except those in forward.
func (z *Zones) addBuiltin(forward []string) error {
	builtin := builtinZones()
	for i, name := range forward {
		apex := dns.CanonicalName(name)
		if builtin[apex] == nil {
			return fmt.Errorf("forward[%d]: %q is not a special-use or locally served name", i, name)
		}
		delete(builtin, apex)
	}
	for apex := range builtin {
		if z.find(apex) != nil {
			delete(builtin, apex)
		}
	}
	maps.Copy(z.zones, builtin)
	return nil
}

// find returns the zone with the longest apex that holds name, or nil.
func (z *Zones) find(name string) *zone {
	for ; ; name = parent(name) {
		if found := z.zones[name]; found != nil {
			return found
		}
		if name == "." {
			return nil
		}
	}
}

// maxChain bounds the CNAME records in an answer; real chains have two or three.
const maxChain = 8

// Answer returns the reply to q, or false if the name is not in local data and is to be asked of an upstream: it is
// in no zone, below a delegation, or the question is for the DS record of an apex, which the parent has. CNAME
// chains are followed within the operator's zones; an answer that ends with a CNAME is to be completed by the
// caller. QTYPE ANY returns one RRset. See RFC 8482, Section 4.1.
func (z *Zones) Answer(q dns.Question, client, local netip.Addr) (*dns.Msg, bool) {
	if q.Qclass != dns.ClassINET {
		return nil, false
	}
	m := new(dns.Msg)
	m.Authoritative = true
	owner := q.Name
	for range maxChain {
		r, ours := z.lookup(canonical(owner), q.Qtype)
		if !ours {
			return m, len(m.Answer) > 0
		}
		m.Rcode = r.rcode
		m.Answer = appendOwned(m.Answer, owner, r.answer)
		if r.soa != nil {
			m.Ns = append(m.Ns, negativeSOA(r.soa))
		}
		if r.next == "" {
			return m, true
		}
		owner = r.next
	}
	return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}, true // a loop
}

// canonical returns the one spelling of name that keys have: lower case, a final dot, and the escapes that the
// library writes.
func canonical(name string) string {
	if strings.ContainsRune(name, '\\') {
		var wire [256]byte
		if n, err := dns.PackDomainName(dns.Fqdn(name), wire[:], 0, nil, false); err == nil {
			name, _, _ = dns.UnpackDomainName(wire[:n], 0)
		}
	}
	return dns.CanonicalName(name)
}

// lookup finds the zone and asks it.
func (z *Zones) lookup(name string, qtype uint16) (result, bool) {
	found := z.find(name)
	if found == nil || found.builtin {
		if apex, ok := z.relayApex(name); ok {
			return z.refine(emptyZone(apex).lookup(name, qtype), name), true
		}
	}
	if found != nil && qtype == dns.TypeDS && name == found.apex && found.public {
		if name == "." {
			return result{}, false
		}
		found = z.find(parent(name)) // the DS RRset is the parent's. See RFC 4035, Section 3.1.4.1.
	}
	if found == nil {
		return result{}, false
	}
	if qtype == dns.TypeAXFR || qtype == dns.TypeIXFR {
		return result{rcode: dns.RcodeRefused}, true
	}
	r := found.lookup(name, qtype)
	return z.refine(r, name), !r.delegated
}

// refine turns NXDOMAIN into NODATA for a name at or above the apex of another zone. See RFC 8020, Section 2.
func (z *Zones) refine(r result, name string) result {
	if r.rcode == dns.RcodeNameError && z.exist[name] {
		r.rcode = dns.RcodeSuccess
	}
	return r
}

// appendOwned appends copies of rrs, which have the owner name that was asked, wildcard or not.
func appendOwned(dst []dns.RR, owner string, rrs []dns.RR) []dns.RR {
	for _, rr := range rrs {
		rr = dns.Copy(rr)
		rr.Header().Name = owner
		dst = append(dst, rr)
	}
	return dst
}

// negativeSOA returns soa as it goes into a negative answer. See RFC 2308, Section 3.
func negativeSOA(soa *dns.SOA) dns.RR {
	c := dns.Copy(soa).(*dns.SOA)
	c.Hdr.Ttl = min(c.Hdr.Ttl, c.Minttl)
	return c
}
