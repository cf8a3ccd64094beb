package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Types of messages and options of Neighbor Discovery. See RFC 4861, Sections 4.1, 4.2 and 4.6; RFC 8106, Section 5.1;
// RFC 8801, Section 3.1.
const (
	TypeRouterSolicitation  = 133
	TypeRouterAdvertisement = 134

	OptionSourceLinkLayer = 1
	OptionPvD             = 21
	OptionRDNSS           = 25
)

// NDHopLimit is the hop limit of all messages. It proves that they were sent on this link, because routers decrease it.
// See RFC 4861, Section 6.1.
const NDHopLimit = 255

// Lengths of the messages without options, in octets.
const (
	solicitationLength  = 8
	AdvertisementLength = 16
)

// Errors of messages of Neighbor Discovery that must be silently discarded. See RFC 4861, Sections 6.1.1 and 6.1.2.
var (
	errNotNeighbor = errors.New("link: Neighbor Discovery message from beyond the link")
	ErrNDType      = errors.New("link: neither Router Solicitation nor Router Advertisement")
	ErrNDShort     = errors.New("link: Neighbor Discovery message ends too early")
	ErrNDOption    = errors.New("link: Neighbor Discovery option with a length that is 0 or too long")
	errNDSource    = errors.New("link: Neighbor Discovery message with a source that it must not have")
)

// RouterAdvertisement is a Router Advertisement. See RFC 4861, Section 4.2.
type RouterAdvertisement struct {
	HopLimit       byte // 0 means unspecified
	Managed, Other bool // the flags M and O
	Lifetime       uint16
	Reachable      uint32
	Retransmit     uint32
	Options        []NDOption
}

// NDOption is an option of Neighbor Discovery from its type to its padding.
type NDOption []byte

// Kind returns the type of the option.
func (o NDOption) Kind() byte { return o[0] }

// Append appends r to b, with a checksum of 0 that the kernel fills in.
func (r RouterAdvertisement) Append(b []byte) []byte {
	var flags byte
	if r.Managed {
		flags |= 0x80
	}
	if r.Other {
		flags |= 0x40
	}
	b = append(b, TypeRouterAdvertisement, 0, 0, 0, r.HopLimit, flags)
	b = binary.BigEndian.AppendUint16(b, r.Lifetime)
	b = binary.BigEndian.AppendUint32(b, r.Reachable)
	b = binary.BigEndian.AppendUint32(b, r.Retransmit)
	for _, o := range r.Options {
		b = append(b, o...)
	}
	return b
}

// ParseAdvertisement reads a Router Advertisement, whose options share memory with b.
func ParseAdvertisement(b []byte) (RouterAdvertisement, error) {
	switch {
	case len(b) < AdvertisementLength:
		return RouterAdvertisement{}, fmt.Errorf("%w: %d octets", ErrNDShort, len(b))
	case b[0] != TypeRouterAdvertisement || b[1] != 0:
		return RouterAdvertisement{}, fmt.Errorf("%w: type %d, code %d", ErrNDType, b[0], b[1])
	}
	options, err := ParseNDOptions(b[AdvertisementLength:])
	if err != nil {
		return RouterAdvertisement{}, err
	}
	return RouterAdvertisement{
		HopLimit: b[4], Managed: b[5]&0x80 != 0, Other: b[5]&0x40 != 0,
		Lifetime:   binary.BigEndian.Uint16(b[6:]),
		Reachable:  binary.BigEndian.Uint32(b[8:]),
		Retransmit: binary.BigEndian.Uint32(b[12:]),
		Options:    options,
	}, nil
}

// ParseNDOptions returns the options, which share memory with b. If one is malformed, it returns those before it and
// ErrNDOption.
func ParseNDOptions(b []byte) (options []NDOption, err error) {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return options, fmt.Errorf("%w: %d octets are left", ErrNDOption, len(b))
		}
		n := int(b[1]) * 8
		options = append(options, NDOption(b[:n:n]))
		b = b[n:]
	}
	return options, nil
}

// CheckAdvertisement returns why a Router Advertisement does not come from a router on this link, or nil if it does.
// See RFC 4861, Section 6.1.2.
func CheckAdvertisement(p Packet) error {
	switch from := p.Peer.Addr(); {
	case p.Hops != NDHopLimit:
		return fmt.Errorf("%w: hop limit %d", errNotNeighbor, p.Hops)
	case !from.IsLinkLocalUnicast():
		return fmt.Errorf("%w: %s", errNDSource, from)
	}
	return nil
}

// CheckSolicitation returns why hosts must not be answered for a Router Solicitation, or nil if it is valid. See RFC
// 4861, Section 6.1.1.
func CheckSolicitation(p Packet) error {
	switch {
	case p.Hops != NDHopLimit:
		return fmt.Errorf("%w: hop limit %d", errNotNeighbor, p.Hops)
	case len(p.Data) < solicitationLength:
		return fmt.Errorf("%w: %d octets", ErrNDShort, len(p.Data))
	case p.Data[0] != TypeRouterSolicitation || p.Data[1] != 0:
		return fmt.Errorf("%w: type %d, code %d", ErrNDType, p.Data[0], p.Data[1])
	case p.Peer.Addr().IsMulticast():
		return fmt.Errorf("%w: %s", errNDSource, p.Peer.Addr())
	}
	options, err := ParseNDOptions(p.Data[solicitationLength:])
	for _, o := range options {
		if o.Kind() == OptionSourceLinkLayer && p.Peer.Addr().IsUnspecified() {
			return fmt.Errorf("%w: a link-layer address without an address", errNDSource)
		}
	}
	return err
}

// SourceLinkLayer returns the option that carries our link-layer address, so that hosts need not ask for it, or nil if
// the address does not have 6 octets. See RFC 4861, Section 4.6.1.
func SourceLinkLayer(addr net.HardwareAddr) NDOption {
	if len(addr) != 6 {
		return nil
	}
	return append(NDOption{OptionSourceLinkLayer, 1}, addr...)
}

// maxRDNSS is how many addresses are put into one RDNSS option, so that it fits into the smallest MTU with room to
// spare.
const maxRDNSS = 32

// RDNSS returns the options that announce servers as recursive resolvers for lifetime. See RFC 8106, Section 5.1.
func RDNSS(servers []netip.Addr, lifetime time.Duration) (options []NDOption) {
	for len(servers) > 0 {
		n := min(len(servers), maxRDNSS)
		o := NDOption{OptionRDNSS, byte(1 + 2*n), 0, 0}
		o = binary.BigEndian.AppendUint32(o, uint32(lifetime/time.Second))
		for _, a := range servers[:n] {
			o = append(o, a.AsSlice()...)
		}
		options, servers = append(options, o), servers[n:]
	}
	return options
}

// ParseRDNSS returns the addresses of an RDNSS option, or nil if they are withdrawn or the option is malformed.
func ParseRDNSS(o NDOption) (servers []netip.Addr) {
	if len(o) < 24 || len(o)%16 != 8 || binary.BigEndian.Uint32(o[4:]) == 0 {
		return nil
	}
	for b := o[8:]; len(b) > 0; b = b[16:] {
		servers = append(servers, netip.AddrFrom16([16]byte(b)))
	}
	return servers
}
