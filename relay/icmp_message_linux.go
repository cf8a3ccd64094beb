package relay

import (
	"encoding/binary"
	"net/netip"
)

// reason is why a datagram cannot reach its destination.
type reason uint8

const (
	hostUnreachable reason = iota
	portUnreachable
	prohibited
	tooBig
)

// unreachable says why a datagram did not arrive, in an ICMP message to its sender.
type unreachable struct {
	reason reason
	mtu    int // of tooBig: the largest packet, with its headers, that gets through
}

// Types and codes. See RFC 792, RFC 1812, Section 5.2.7.1, and RFC 4443, Section 3.
var (
	unreachable4 = [...][2]byte{hostUnreachable: {3, 1}, portUnreachable: {3, 3}, prohibited: {3, 13}, tooBig: {3, 4}}
	unreachable6 = [...][2]byte{hostUnreachable: {1, 3}, portUnreachable: {1, 4}, prohibited: {1, 1}, tooBig: {2, 0}}
)

const (
	ipv4Header = 20
	ipv6Header = 40
	udpHeader  = 8
	icmpHeader = 8
	protoUDP   = 17
	// quotedTTL is what the quoted header says. The real one is not known, and nobody looks.
	quotedTTL = 64
)

// appendUnreachable appends the ICMP message that tells the client of a flow about a datagram of n bytes of payload.
// Of that datagram it quotes no more than the headers, as far as they are known, which is all that the client's
// system needs to find the socket; so it is never longer than what it answers by more than its own headers.
func appendUnreachable(b []byte, key flowKey, u unreachable, n int) []byte {
	if key.client.Addr().Is4() {
		start := len(b)
		b = append(b, unreachable4[u.reason][0], unreachable4[u.reason][1], 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(min(u.mtu, 1<<16-1)))
		b = appendIPv4UDP(b, key, n)
		binary.BigEndian.PutUint16(b[start+2:], checksum(b[start:]))
		return b
	}
	b = append(b, unreachable6[u.reason][0], unreachable6[u.reason][1], 0, 0) // the kernel puts the checksum in
	b = binary.BigEndian.AppendUint32(b, uint32(u.mtu))
	return appendIPv6UDP(b, key, n)
}

func appendIPv4UDP(b []byte, key flowKey, n int) []byte {
	start := len(b)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Header+udpHeader+n))
	b = append(b, 0, 0, 0x40, 0, quotedTTL, protoUDP, 0, 0) // DF
	b = append(b, key.client.Addr().AsSlice()...)
	b = append(b, key.local.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(b[start+10:], checksum(b[start:]))
	return appendUDP(b, key, n)
}

func appendIPv6UDP(b []byte, key flowKey, n int) []byte {
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(udpHeader+n))
	b = append(b, protoUDP, quotedTTL)
	b = append(b, key.client.Addr().AsSlice()...)
	b = append(b, key.local.Addr().AsSlice()...)
	return appendUDP(b, key, n)
}

func appendUDP(b []byte, key flowKey, n int) []byte {
	b = binary.BigEndian.AppendUint16(b, key.client.Port())
	b = binary.BigEndian.AppendUint16(b, key.local.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(udpHeader+n))
	return append(b, 0, 0)
}

// checksum returns the checksum of b, whose own field is zero. See RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return ^uint16(sum)
}

// forFamily returns u, about packets to a destination of one family, as it is for the client's packets, which have a
// header of another length if theirs is the other family.
func (u unreachable) forFamily(client, dst netip.Addr) unreachable {
	if u.reason != tooBig {
		return u
	}
	u.mtu += headerLen(client) - headerLen(dst)
	return u
}

func headerLen(a netip.Addr) int {
	if a.Is4() {
		return ipv4Header
	}
	return ipv6Header
}

// ICMP messages per second that are sent in all, and at once: what Linux allows itself. See RFC 4443, Section 2.4.
const (
	icmpRate  = 1000
	icmpBurst = 50
)
