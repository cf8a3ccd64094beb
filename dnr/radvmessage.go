package dnr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// Types of messages and options of Neighbor Discovery. See RFC 4861, Sections 4.1, 4.2 and 4.6; RFC 8106, Section 5.1;
// RFC 8801, Section 3.1.
const (
	typeRouterSolicitation  = 133
	typeRouterAdvertisement = 134

	optionSourceLinkLayer = 1
	optionPvD             = 21
	optionRDNSS           = 25
)

// ndHopLimit proves that a message was sent on this link, because routers count it down. See RFC 4861, Section 6.1.
const ndHopLimit = 255

// Lengths of the messages without options.
const (
	solicitationLength  = 8
	advertisementLength = 16
)

// Errors of messages of Neighbor Discovery, which must be discarded silently. See RFC 4861, Sections 6.1.1 and 6.1.2.
var (
	errNotNeighbor = errors.New("dnr: Neighbor Discovery message from beyond the link")
	errNDType      = errors.New("dnr: neither Router Solicitation nor Router Advertisement")
	errNDShort     = errors.New("dnr: Neighbor Discovery message ends too early")
	errNDOption    = errors.New("dnr: Neighbor Discovery option with a length that is 0 or too long")
	errNDSource    = errors.New("dnr: Neighbor Discovery message with a source that it must not have")
)

// routerAdvertisement is a Router Advertisement. See RFC 4861, Section 4.2.
type routerAdvertisement struct {
	hopLimit       byte // 0 says nothing
	managed, other bool // the flags M and O
	lifetime       uint16
	reachable      uint32
	retransmit     uint32
	options        []ndOption
}

// ndOption is an option of Neighbor Discovery from its type to its padding.
type ndOption []byte

func (o ndOption) kind() byte { return o[0] }

// append appends r to b, with a checksum of 0 that the kernel fills in.
func (r routerAdvertisement) append(b []byte) []byte {
	var flags byte
	if r.managed {
		flags |= 0x80
	}
	if r.other {
		flags |= 0x40
	}
	b = append(b, typeRouterAdvertisement, 0, 0, 0, r.hopLimit, flags)
	b = binary.BigEndian.AppendUint16(b, r.lifetime)
	b = binary.BigEndian.AppendUint32(b, r.reachable)
	b = binary.BigEndian.AppendUint32(b, r.retransmit)
	for _, o := range r.options {
		b = append(b, o...)
	}
	return b
}

// parseAdvertisement reads a Router Advertisement, whose options share memory with b.
func parseAdvertisement(b []byte) (routerAdvertisement, error) {
	switch {
	case len(b) < advertisementLength:
		return routerAdvertisement{}, fmt.Errorf("%w: %d octets", errNDShort, len(b))
	case b[0] != typeRouterAdvertisement || b[1] != 0:
		return routerAdvertisement{}, fmt.Errorf("%w: type %d, code %d", errNDType, b[0], b[1])
	}
	options, err := parseNDOptions(b[advertisementLength:])
	if err != nil {
		return routerAdvertisement{}, err
	}
	return routerAdvertisement{
		hopLimit: b[4], managed: b[5]&0x80 != 0, other: b[5]&0x40 != 0,
		lifetime:   binary.BigEndian.Uint16(b[6:]),
		reachable:  binary.BigEndian.Uint32(b[8:]),
		retransmit: binary.BigEndian.Uint32(b[12:]),
		options:    options,
	}, nil
}

// parseNDOptions returns the options, up to one that is malformed.
func parseNDOptions(b []byte) (options []ndOption, err error) {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return options, fmt.Errorf("%w: %d octets are left", errNDOption, len(b))
		}
		n := int(b[1]) * 8
		options = append(options, ndOption(b[:n:n]))
		b = b[n:]
	}
	return options, nil
}

// checkAdvertisement checks where a Router Advertisement came from. See RFC 4861, Section 6.1.2.
func checkAdvertisement(p packet) error {
	switch from := p.peer.Addr(); {
	case p.hops != ndHopLimit:
		return fmt.Errorf("%w: hop limit %d", errNotNeighbor, p.hops)
	case !from.IsLinkLocalUnicast():
		return fmt.Errorf("%w: %s", errNDSource, from)
	}
	return nil
}

// checkSolicitation checks a Router Solicitation. See RFC 4861, Section 6.1.1.
func checkSolicitation(p packet) error {
	switch {
	case p.hops != ndHopLimit:
		return fmt.Errorf("%w: hop limit %d", errNotNeighbor, p.hops)
	case len(p.data) < solicitationLength:
		return fmt.Errorf("%w: %d octets", errNDShort, len(p.data))
	case p.data[0] != typeRouterSolicitation || p.data[1] != 0:
		return fmt.Errorf("%w: type %d, code %d", errNDType, p.data[0], p.data[1])
	case p.peer.Addr().IsMulticast():
		return fmt.Errorf("%w: %s", errNDSource, p.peer.Addr())
	}
	options, err := parseNDOptions(p.data[solicitationLength:])
	for _, o := range options {
		if o.kind() == optionSourceLinkLayer && p.peer.Addr().IsUnspecified() {
			return fmt.Errorf("%w: a link-layer address without an address", errNDSource)
		}
	}
	return err
}

// sourceLinkLayer returns the option that saves hosts asking for our link-layer address, or nil on links that have
// none of 6 octets. See RFC 4861, Section 4.6.1.
func sourceLinkLayer(addr net.HardwareAddr) ndOption {
	if len(addr) != 6 {
		return nil
	}
	return append(ndOption{optionSourceLinkLayer, 1}, addr...)
}

// maxRDNSS is how many addresses are put into one RDNSS option, so that it fits into the smallest MTU with room to spare.
const maxRDNSS = 32

// rdnss returns the options that name servers as recursive resolvers for lifetime. See RFC 8106, Section 5.1.
func rdnss(servers []netip.Addr, lifetime time.Duration) (options []ndOption) {
	for len(servers) > 0 {
		n := min(len(servers), maxRDNSS)
		o := ndOption{optionRDNSS, byte(1 + 2*n), 0, 0}
		o = binary.BigEndian.AppendUint32(o, uint32(lifetime/time.Second))
		for _, a := range servers[:n] {
			o = append(o, a.AsSlice()...)
		}
		options, servers = append(options, o), servers[n:]
	}
	return options
}

// parseRDNSS returns the addresses of an RDNSS option, or nil if they are withdrawn or the option is malformed.
func parseRDNSS(o ndOption) (servers []netip.Addr) {
	if len(o) < 24 || len(o)%16 != 8 || binary.BigEndian.Uint32(o[4:]) == 0 {
		return nil
	}
	for b := o[8:]; len(b) > 0; b = b[16:] {
		servers = append(servers, netip.AddrFrom16([16]byte(b)))
	}
	return servers
}

// pvdHTTP is the flag H: there is additional information at the PvD's well-known URI. See RFC 8801, Section 3.1.
const pvdHTTP = 0x80

// option returns the option that names the provisioning domain to which everything in the Router Advertisement
// belongs. Nothing is nested in it, because hosts that do not know the option would not see that. See RFC 8801,
// Section 3.1.
func (p PvD) option() (ndOption, error) {
	o := ndOption{optionPvD, 0, 0, 0}
	if p.Info {
		o[2] = pvdHTTP
	}
	o = binary.BigEndian.AppendUint16(o, p.Sequence)
	o, err := svcb.AppendName(o, p.ID)
	if err != nil {
		return nil, fmt.Errorf("PvD ID %q: %w", p.ID, err)
	}
	for len(o)%8 != 0 {
		o = append(o, 0)
	}
	o[1] = byte(len(o) / 8)
	return o, nil
}
