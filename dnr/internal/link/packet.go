package link

import (
	"encoding/binary"
	"net/netip"
)

// IPPacket is a packet as the link carries it, from its IP header on.
type IPPacket struct {
	Data []byte
	// Unsummed says that the checksums of the packet are not filled in: its sender is on this machine and leaves them to
	// the hardware, which such a packet never reaches.
	Unsummed bool
}

// IPConn sends and receives IP packets on one link.
type IPConn interface {
	// Receive waits for a packet, whose data belongs to the caller.
	Receive() (IPPacket, error)
	Send(data []byte) error
	// Close makes Receive return an error.
	Close() error
}

// Datagram is what an IP packet carries: a message of ICMPv6, or one of UDP without its header.
type Datagram struct {
	V6       bool
	Protocol byte
	From, To netip.Addr
	Port     uint16 // destination port of UDP
	Hops     int
	Data     []byte
	Partial  bool // only the first fragment is there
	// FragmentND says that a message of Neighbor Discovery came in a packet with a Fragment header, which hosts must
	// ignore. See RFC 6980, Section 5.
	FragmentND bool
	BadSum     bool // the checksum is wrong
}

// Protocols and headers of IPv6. See RFC 8200, Section 4; RFC 4443, Section 1.
const (
	protocolHopByHop    = 0
	ProtocolUDP         = 17
	protocolRouting     = 43
	ProtocolFragment    = 44
	ProtocolICMPv6      = 58
	protocolDestination = 60
)

const (
	ipv4HeaderLength = 20
	IPv6HeaderLength = 40
	UDPHeaderLength  = 8
	// UDPSumAt is the offset of the checksum in the header of UDP.
	UDPSumAt = 6
	// maxExtensions bounds the headers between IPv6 and what it carries. See RFC 8504, Section 5.3.
	maxExtensions = 8
)

// ParsePacket returns what a packet carries, and whether a host would accept it: ICMPv6 or UDP whose lengths are true.
func ParsePacket(p IPPacket) (d Datagram, ok bool) {
	if len(p.Data) == 0 {
		return d, false
	}
	switch p.Data[0] >> 4 {
	case 4:
		ok = d.parseIPv4(p.Data)
	case 6:
		ok = d.parseIPv6(p.Data)
	}
	if !ok {
		return d, false
	}
	switch d.Protocol {
	case ProtocolUDP:
		return d, d.parseUDP(p.Unsummed)
	case ProtocolICMPv6:
		d.BadSum = d.V6 && !p.Unsummed && !d.Partial && !d.sumHolds()
		return d, d.V6
	}
	return d, false
}

// parseIPv4 skips the header of IPv4.
func (d *Datagram) parseIPv4(b []byte) bool {
	if len(b) < ipv4HeaderLength {
		return false
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < ipv4HeaderLength || header > total || total > len(b) || sum(0, b[:header]) != 0xffff {
		return false
	}
	const moreFragments, offset = 0x2000, 0x1fff
	fragment := binary.BigEndian.Uint16(b[6:])
	if fragment&offset != 0 {
		return false // only the first fragment has the headers
	}
	d.Protocol, d.Hops = b[9], int(b[8])
	d.From, d.To = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	d.Data = b[header:total:total]
	d.Partial = fragment&moreFragments != 0
	return true
}

// parseIPv6 skips the header of IPv6 and the extension headers.
func (d *Datagram) parseIPv6(b []byte) bool {
	if len(b) < IPv6HeaderLength {
		return false
	}
	end := IPv6HeaderLength + int(binary.BigEndian.Uint16(b[4:]))
	if end > len(b) {
		return false
	}
	d.V6, d.Protocol, d.Hops = true, b[6], int(b[7])
	d.From, d.To = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	d.Data = b[IPv6HeaderLength:end:end]
	for range maxExtensions {
		if done, ok := d.skipExtension(); done {
			return ok
		}
	}
	return false
}

// skipExtension skips one extension header of IPv6. done means that there is no further one, or that this one is
// malformed, in which case ok is false.
func (d *Datagram) skipExtension() (done, ok bool) {
	switch d.Protocol {
	case protocolHopByHop, protocolRouting, protocolDestination, ProtocolFragment:
	default:
		return true, true
	}
	if len(d.Data) < 8 {
		return true, false
	}
	length := 8 + int(d.Data[1])*8
	if d.Protocol == ProtocolFragment {
		length = 8
		if !d.firstFragment(binary.BigEndian.Uint16(d.Data[2:])) {
			return true, false
		}
	}
	if length > len(d.Data) {
		return true, false
	}
	d.Protocol, d.Data = d.Data[0], d.Data[length:]
	return false, false
}

// firstFragment reports whether the Fragment header with the given field belongs to the first fragment.
func (d *Datagram) firstFragment(field uint16) bool {
	const offset, more = 0xfff8, 1
	if field&offset != 0 {
		return false // only the first fragment has the headers
	}
	d.Partial = field&more != 0
	d.FragmentND = d.Data[0] == ProtocolICMPv6
	return true
}

// parseUDP skips the header of UDP, and checks length and checksum.
func (d *Datagram) parseUDP(unsummed bool) bool {
	if len(d.Data) < UDPHeaderLength {
		return false
	}
	length := int(binary.BigEndian.Uint16(d.Data[4:]))
	if length < UDPHeaderLength || length > len(d.Data) && !d.Partial {
		return false
	}
	length = min(length, len(d.Data))
	d.Data = d.Data[:length:length]
	unsummed = unsummed || d.Partial || !d.V6 && binary.BigEndian.Uint16(d.Data[6:]) == 0
	d.BadSum = !unsummed && !d.sumHolds()
	d.Port, d.Data = binary.BigEndian.Uint16(d.Data[2:]), d.Data[UDPHeaderLength:]
	return true
}

// sumHolds reports whether the checksum of the message is right. See RFC 8200, Section 8.1; RFC 768.
func (d *Datagram) sumHolds() bool { return sum(d.pseudoHeader(), d.Data) == 0xffff }

func (d *Datagram) pseudoHeader() uint32 { return pseudoHeader(d.From, d.To, d.Protocol, len(d.Data)) }

// pseudoHeader returns the sum of what checksums cover besides the message.
func pseudoHeader(from, to netip.Addr, protocol byte, length int) uint32 {
	return uint32(sum(0, from.AsSlice())) + uint32(sum(0, to.AsSlice())) + uint32(protocol) + uint32(length)
}

// sum adds the 16-bit words of b to start in ones' complement. See RFC 1071.
func sum(start uint32, b []byte) uint16 {
	total := uint64(start)
	for ; len(b) >= 2; b = b[2:] {
		total += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		total += uint64(b[0]) << 8
	}
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return uint16(total)
}

// IPv6Packet returns a packet with a message of ICMPv6 or UDP. It fills in the checksum, which is at offset sumAt of
// message.
func IPv6Packet(from, to netip.Addr, protocol byte, hops byte, sumAt int, message []byte) []byte {
	b := []byte{6 << 4, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	b = append(b, protocol, hops)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	putSum(message[sumAt:], sum(pseudoHeader(from, to, protocol, len(message)), message))
	return append(b, message...)
}

// IPv4Packet is IPv6Packet for IPv4.
func IPv4Packet(from, to netip.Addr, protocol byte, hops byte, sumAt int, message []byte) []byte {
	const version, dontFragment = 4 << 4, 0x40
	b := []byte{version | ipv4HeaderLength/4, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4HeaderLength+len(message)))
	b = append(b, 0, 0, dontFragment, 0, hops, protocol, 0, 0)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	putSum(b[10:], sum(0, b))
	putSum(message[sumAt:], sum(pseudoHeader(from, to, protocol, len(message)), message))
	return append(b, message...)
}

// putSum writes the checksum that belongs to a sum: its complement, or 0xffff instead of 0, which in UDP means that
// there is no checksum.
func putSum(b []byte, total uint16) {
	if total == 0xffff {
		total = 0
	}
	binary.BigEndian.PutUint16(b, ^total)
}

// UDPMessage returns data behind a header of UDP, whose checksum is 0 for IPv4Packet or IPv6Packet to fill in.
func UDPMessage(from, to uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(UDPHeaderLength+len(data)))
	return append(append(b, 0, 0), data...)
}
