package dnr

import (
	"encoding/binary"
	"net/netip"
)

// ipPacket is a packet as the link carries it, from its IP header on.
type ipPacket struct {
	data []byte
	// unsummed says that the sender is this very machine and left checksums to hardware that is not there.
	unsummed bool
}

// datagram is what an IP packet carries: a message of ICMPv6, or one of UDP without its header.
type datagram struct {
	v6       bool
	protocol byte
	from, to netip.Addr
	port     uint16 // of UDP, where it goes to
	hops     int
	data     []byte
	partial  bool     // only the first fragment is there
	findings findings // of its packet
}

// Protocols and headers of IPv6. See RFC 8200, Section 4; RFC 4443, Section 1.
const (
	protocolHopByHop    = 0
	protocolUDP         = 17
	protocolRouting     = 43
	protocolFragment    = 44
	protocolICMPv6      = 58
	protocolDestination = 60
)

const (
	ipv4HeaderLength = 20
	ipv6HeaderLength = 40
	udpHeaderLength  = 8
	// maxExtensions bounds the headers between IPv6 and what it carries. See RFC 8504, Section 5.3.
	maxExtensions = 8
)

// parsePacket takes a packet apart, and reports whether a host would: lengths must not lie.
func parsePacket(p ipPacket) (d datagram, ok bool) {
	if len(p.data) == 0 {
		return d, false
	}
	switch p.data[0] >> 4 {
	case 4:
		ok = d.parseIPv4(p.data)
	case 6:
		ok = d.parseIPv6(p.data)
	}
	if !ok {
		return d, false
	}
	switch d.protocol {
	case protocolUDP:
		return d, d.parseUDP(p.unsummed)
	case protocolICMPv6:
		if d.v6 && !p.unsummed && !d.partial && !d.sumHolds() {
			d.badSum()
		}
		return d, d.v6
	}
	return d, false
}

func (d *datagram) parseIPv4(b []byte) bool {
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
		return false // the first one tells
	}
	d.protocol, d.hops = b[9], int(b[8])
	d.from, d.to = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	d.data = b[header:total:total]
	if d.partial = fragment&moreFragments != 0; d.partial {
		d.findings.warn(CodeFragment, 0, "the packet comes in fragments, which clients that read packets themselves do "+
			"not put together; only the first %d octets are judged here", len(d.data))
	}
	return true
}

func (d *datagram) parseIPv6(b []byte) bool {
	if len(b) < ipv6HeaderLength {
		return false
	}
	end := ipv6HeaderLength + int(binary.BigEndian.Uint16(b[4:]))
	if end > len(b) {
		return false
	}
	d.v6, d.protocol, d.hops = true, b[6], int(b[7])
	d.from, d.to = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	d.data = b[ipv6HeaderLength:end:end]
	for range maxExtensions {
		if done, ok := d.skipExtension(); done {
			return ok
		}
	}
	return false
}

// skipExtension goes on behind one header between IPv6 and what it carries. It reports whether that was reached, or
// else cannot be.
func (d *datagram) skipExtension() (done, ok bool) {
	switch d.protocol {
	case protocolHopByHop, protocolRouting, protocolDestination, protocolFragment:
	default:
		return true, true
	}
	if len(d.data) < 8 {
		return true, false
	}
	length := 8 + int(d.data[1])*8
	if d.protocol == protocolFragment {
		length = 8
		if !d.firstFragment(binary.BigEndian.Uint16(d.data[2:])) {
			return true, false
		}
	}
	if length > len(d.data) {
		return true, false
	}
	d.protocol, d.data = d.data[0], d.data[length:]
	return false, false
}

// firstFragment reports whether a Fragment header with the given field begins a packet.
func (d *datagram) firstFragment(field uint16) bool {
	const offset, more = 0xfff8, 1
	if field&offset != 0 {
		return false // the first one tells
	}
	d.partial = field&more != 0
	if d.data[0] == protocolICMPv6 { // See RFC 6980, Section 5.
		d.findings.fail(CodeFragment, ErrMessage, 0, "Neighbor Discovery in a packet with a Fragment header")
	} else if d.partial {
		d.findings.warn(CodeFragment, 0, "the packet comes in fragments; only the first is judged here")
	}
	return true
}

// parseUDP goes on behind the header of UDP.
func (d *datagram) parseUDP(unsummed bool) bool {
	if len(d.data) < udpHeaderLength {
		return false
	}
	length := int(binary.BigEndian.Uint16(d.data[4:]))
	if length < udpHeaderLength || length > len(d.data) && !d.partial {
		return false
	}
	length = min(length, len(d.data))
	d.data = d.data[:length:length]
	unsummed = unsummed || d.partial || !d.v6 && binary.BigEndian.Uint16(d.data[6:]) == 0
	if !unsummed && !d.sumHolds() {
		d.badSum()
	}
	d.port, d.data = binary.BigEndian.Uint16(d.data[2:]), d.data[udpHeaderLength:]
	return true
}

func (d *datagram) badSum() {
	d.findings.fail(CodeChecksum, ErrMessage, 0, "the checksum is wrong")
}

// sumHolds reports whether the checksum of what was carried is right. See RFC 8200, Section 8.1; RFC 768.
func (d *datagram) sumHolds() bool { return sum(d.pseudoHeader(), d.data) == 0xffff }

func (d *datagram) pseudoHeader() uint32 { return pseudoHeader(d.from, d.to, d.protocol, len(d.data)) }

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

// ipv6Packet returns a packet with a message of ICMPv6 or UDP, whose checksum, at the given offset, it fills in.
func ipv6Packet(from, to netip.Addr, protocol byte, hops byte, sumAt int, message []byte) []byte {
	b := []byte{6 << 4, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	b = append(b, protocol, hops)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	putSum(message[sumAt:], sum(pseudoHeader(from, to, protocol, len(message)), message))
	return append(b, message...)
}

// ipv4Packet does so for IPv4.
func ipv4Packet(from, to netip.Addr, protocol byte, hops byte, sumAt int, message []byte) []byte {
	const version, dontFragment = 4 << 4, 0x40
	b := []byte{version | ipv4HeaderLength/4, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4HeaderLength+len(message)))
	b = append(b, 0, 0, dontFragment, 0, hops, protocol, 0, 0)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	putSum(b[10:], sum(0, b))
	putSum(message[sumAt:], sum(pseudoHeader(from, to, protocol, len(message)), message))
	return append(b, message...)
}

// putSum writes the complement of a sum, which is never 0, because that says in UDP that there is none.
func putSum(b []byte, total uint16) {
	if total == 0xffff {
		total = 0
	}
	binary.BigEndian.PutUint16(b, ^total)
}

// udpMessage returns a header, with a checksum of 0, and data.
func udpMessage(from, to uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(udpHeaderLength+len(data)))
	return append(append(b, 0, 0), data...)
}
