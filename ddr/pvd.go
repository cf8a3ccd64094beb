package ddr

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// PvDPath is where the information of a provisioning domain is, and PvDMediaType its type. See RFC 8801, Section 4.1.
const (
	PvDPath      = "/.well-known/pvd"
	PvDMediaType = "application/pvd+json"
)

// PvDLife is for how long clients keep what they have fetched. See RFC 8801, Section 4.3.
const PvDLife = 24 * time.Hour

// PvD is the additional information of the provisioning domain that has the resolver's name.
//
// Proxies is empty, because the relay is none: clients do not name a destination to it, they reach it at the
// addresses that they get as answers. What there is to know of it is under a key of our own. The relay's prefixes and
// the destinations that are steered are left out, because no client needs them.
//
// Clients must not use the proxies that a network names unless they are configured to. See
// draft-ietf-intarea-proxy-config.
type PvD struct {
	Identifier string            `json:"identifier"` // the name, fully qualified
	Expires    time.Time         `json:"expires"`
	Prefixes   []netip.Prefix    `json:"prefixes"` // none if it was not announced by Router Advertisement
	Proxies    []json.RawMessage `json:"proxies"`
	Resolver   *PvDResolver      `json:"cfrd_resolver,omitempty"` // nil if nothing may be advertised
	Relay      *PvDRelay         `json:"cfrd_relay,omitempty"`    // nil if there is none for this client
}

// PvDResolver says how to reach the resolver, like the records at _dns.
type PvDResolver struct {
	Transports []PvDTransport `json:"transports"` // in order of preference
}

// PvDTransport is one record of that set.
type PvDTransport struct {
	ALPN    []string `json:"alpn"`
	Port    uint16   `json:"port,omitempty"` // 0 means the default ones of ALPN
	DoHPath string   `json:"dohpath,omitempty"`
}

// PvDRelay describes the relay. Version is that of the value of the key.
type PvDRelay struct {
	Version   int      `json:"version"`
	Protocols []string `json:"protocols"`       // of "tcp" and "udp"
	Ports     []uint16 `json:"ports,omitempty"` // of both
}

// PvD returns the information for a client that asks the address local, or false if Config.PvD is off. Its Resolver
// depends on the certificate that is served at this moment.
func (z *Zone) PvD(client, local netip.Addr) (p PvD, ok bool) {
	if !z.cfg.PvD {
		return PvD{}, false
	}
	p = PvD{
		Identifier: z.name,
		Expires:    z.cfg.Clock().Add(PvDLife).UTC().Truncate(time.Second),
		Prefixes:   []netip.Prefix{},
		Proxies:    []json.RawMessage{},
	}
	if resolvers, err := z.resolversByName(local.Unmap().WithZone("")); err == nil {
		p.Resolver = new(PvDResolver)
		for _, r := range resolvers {
			p.Resolver.Transports = append(p.Resolver.Transports, PvDTransport{r.ALPN, r.Port, r.DoHPath})
		}
	}
	if z.relayFor(client) {
		p.Relay = z.pvdRelay()
	}
	return p, true
}

// pvdRelay returns nil if the relay has a value that is not ours to explain.
func (z *Zone) pvdRelay() *PvDRelay {
	value := z.cfg.Relay.Value
	if value == nil {
		value = defaultRelayValue()
	}
	flags, err := ParseRelayValue(value)
	if err != nil {
		return nil
	}
	r := &PvDRelay{Version: relayVersion, Ports: z.cfg.Relay.Ports}
	if flags&RelayTCP != 0 {
		r.Protocols = append(r.Protocols, "tcp")
	}
	if flags&RelayUDP != 0 {
		r.Protocols = append(r.Protocols, "udp")
	}
	return r
}

// Errors of ParsePvD.
var (
	errPvDSize       = errors.New("ddr: PvD information is larger than 64 KiB")
	errPvDKey        = errors.New("ddr: PvD information lacks a required key, or its value is of another type")
	errPvDIdentifier = errors.New("ddr: PvD identifier is not a domain name")
)

// maxPvD bounds what a client reads, in octets.
const maxPvD = 64 << 10

// ParsePvD reads what a server of a PvD sent. The identifier, the expiry and the prefixes are required; what it does
// not know it ignores. See RFC 8801, Section 4.3. Whether the identifier is the expected one, and whether it has
// expired, is for the caller to decide.
func ParsePvD(b []byte) (PvD, error) {
	if len(b) > maxPvD {
		return PvD{}, errPvDSize
	}
	// Members one by one, because encoding/json takes keys in any case when it fills a struct.
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return PvD{}, fmt.Errorf("ddr: PvD information: %w", err)
	}
	var p PvD
	for _, m := range []struct {
		key      string
		to       any
		required bool
	}{
		{"identifier", &p.Identifier, true},
		{"expires", &p.Expires, true},
		{"prefixes", &p.Prefixes, true},
		{"proxies", &p.Proxies, false},
		{"cfrd_resolver", &p.Resolver, false},
		{"cfrd_relay", &p.Relay, false},
	} {
		if err := member(members[m.key], m.to, m.required); err != nil {
			return PvD{}, fmt.Errorf("%w: %s", err, m.key)
		}
	}
	if slices.ContainsFunc(p.Prefixes, func(p netip.Prefix) bool { return !p.IsValid() }) {
		return PvD{}, fmt.Errorf("%w: prefixes", errPvDKey)
	}
	if labels, ok := dns.IsDomainName(p.Identifier); !ok || labels == 0 {
		return PvD{}, errPvDIdentifier
	}
	p.Identifier = dns.CanonicalName(p.Identifier)
	return p, nil
}

// member reads a value into to, which stays as it is if there is none.
func member(value json.RawMessage, to any, required bool) error {
	if missing := value == nil || strings.TrimSpace(string(value)) == "null"; missing {
		if required {
			return errPvDKey
		}
		return nil
	}
	if json.Unmarshal(value, to) != nil {
		return errPvDKey
	}
	return nil
}
