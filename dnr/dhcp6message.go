package dnr

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Ports, messages and options of DHCPv6. See RFC 8415, Sections 7.2, 7.3 and 21; RFC 3646, Section 3.
const (
	dhcp6ClientPort = 546
	dhcp6ServerPort = 547

	dhcp6Reply              = 7
	dhcp6InformationRequest = 11
	dhcp6RelayForward       = 12
	dhcp6RelayReply         = 13

	option6ClientID    = 1
	option6ServerID    = 2
	option6IANA        = 3
	option6IATA        = 4
	option6Request     = 6
	option6DNSServers  = 23
	option6IAPD        = 25
	option6RefreshTime = 32
)

// Bounds of a DUID, and of the time after which clients ask again. See RFC 8415, Sections 7.6 and 11.1.
const (
	maxDUID        = 130
	minRefreshTime = 10 * time.Minute
)

// dhcp6Message is a message between client and server. See RFC 8415, Section 8.
type dhcp6Message struct {
	kind    byte
	id      [3]byte
	options []dhcp6Option
}

// dhcp6Option is one option. See RFC 8415, Section 21.1.
type dhcp6Option struct {
	code uint16
	data []byte
}

// parseDHCPv6 reads a message, whose options share memory with b. Messages between relays and servers have another
// form, and are refused. Of one that is malformed, it returns what is before that.
func parseDHCPv6(b []byte) (dhcp6Message, error) {
	if len(b) < 4 {
		return dhcp6Message{}, fmt.Errorf("%w: %d octets", errDHCPShort, len(b))
	}
	m := dhcp6Message{kind: b[0], id: [3]byte(b[1:])}
	if m.kind == dhcp6RelayForward || m.kind == dhcp6RelayReply {
		return dhcp6Message{}, fmt.Errorf("%w: relayed", errNotForUs)
	}
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 || len(b)-4 < int(binary.BigEndian.Uint16(b[2:])) {
			return m, fmt.Errorf("%w: option with %d octets left", errDHCPShort, len(b))
		}
		end := 4 + int(binary.BigEndian.Uint16(b[2:]))
		m.options = append(m.options, dhcp6Option{binary.BigEndian.Uint16(b), b[4:end:end]})
		b = b[end:]
	}
	return m, nil
}

func (m dhcp6Message) append(b []byte) []byte {
	b = append(append(b, m.kind), m.id[:]...)
	for _, o := range m.options {
		b = binary.BigEndian.AppendUint16(b, o.code)
		b = binary.BigEndian.AppendUint16(b, uint16(len(o.data)))
		b = append(b, o.data...)
	}
	return b
}

func (m *dhcp6Message) add(code uint16, data []byte) {
	m.options = append(m.options, dhcp6Option{code, data})
}

// get returns the data of the first option with code.
func (m dhcp6Message) get(code uint16) (data []byte, ok bool) {
	i := slices.IndexFunc(m.options, func(o dhcp6Option) bool { return o.code == code })
	if i < 0 {
		return nil, false
	}
	return m.options[i].data, true
}

// asks reports whether the client's Option Request option lists code. See RFC 8415, Section 21.7.
func (m dhcp6Message) asks(code uint16) bool {
	data, _ := m.get(option6Request)
	for ; len(data) >= 2; data = data[2:] {
		if binary.BigEndian.Uint16(data) == code {
			return true
		}
	}
	return false
}

// checkInformation returns why m is not an Information-request that the server duid answers. See RFC 8415, Section
// 16.12.
func (m dhcp6Message) checkInformation(duid []byte) error {
	if m.kind != dhcp6InformationRequest {
		return fmt.Errorf("%w: type %d", errNotForUs, m.kind)
	}
	if id, ok := m.get(option6ServerID); ok && string(id) != string(duid) {
		return fmt.Errorf("%w: to another server", errNotForUs)
	}
	for _, o := range m.options {
		switch o.code {
		case option6IANA, option6IATA, option6IAPD:
			return fmt.Errorf("%w: Information-request for an address", errDHCPFormat)
		case option6ClientID:
			if len(o.data) < 3 || len(o.data) > maxDUID {
				return fmt.Errorf("%w: DUID of %d octets", errDHCPFormat, len(o.data))
			}
		case option6Request:
			if len(o.data)%2 != 0 {
				return fmt.Errorf("%w: Option Request of %d octets", errDHCPFormat, len(o.data))
			}
		}
	}
	return nil
}

// linkDUID returns a DUID that survives restarts without being stored. See RFC 8415, Section 11.4.
func linkDUID(mac net.HardwareAddr) []byte {
	const linkLayer, ethernet = 3, 1
	return append([]byte{0, linkLayer, 0, ethernet}, mac...)
}

// answerDHCPv6 returns the reply to request.
func (a *Announcer) answerDHCPv6(request packet, l linkState) (packet, error) {
	// A message that was sent to all servers of the link, from the link. See RFC 8415, Sections 13.1 and 16.
	if request.to != allDHCPServers || !request.peer.Addr().IsLinkLocalUnicast() {
		return packet{}, fmt.Errorf("%w: from %s to %s", errNotOnLink, request.peer.Addr(), request.to)
	}
	m, err := parseDHCPv6(request.data)
	if err != nil {
		return packet{}, err
	}
	reply, err := informDHCPv6(m, linkDUID(l.mac), a.current(), max(a.lifetime(), minRefreshTime))
	if err != nil {
		return packet{}, err
	}
	// Clients listen nowhere else, and so nobody can be made to get this who is none.
	return packet{peer: netip.AddrPortFrom(request.peer.Addr(), dhcp6ClientPort), data: reply.append(nil)}, nil
}

// informDHCPv6 returns the reply to an Information-request, with what the client asked for. If there is nothing of
// that, it stays silent: a client that takes the first reply should take one of the link's DHCP server. See RFC 8415,
// Section 18.3.6; RFC 9463, Section 4.2.
func informDHCPv6(m dhcp6Message, duid []byte, an Announcement, refresh time.Duration) (dhcp6Message, error) {
	if err := m.checkInformation(duid); err != nil {
		return dhcp6Message{}, err
	}
	reply := dhcp6Message{kind: dhcp6Reply, id: m.id}
	reply.add(option6ServerID, duid)
	if id, ok := m.get(option6ClientID); ok {
		reply.add(option6ClientID, id)
	}
	empty := len(reply.options)
	if m.asks(OptionDHCPv6) {
		for _, r := range an.Resolvers {
			if data, err := EncodeDHCPv6(r); err == nil {
				reply.add(OptionDHCPv6, data)
			}
		}
	}
	if m.asks(option6DNSServers) {
		var data []byte
		for _, addr := range serversOf(an.Servers, false) {
			data = append(data, addr.AsSlice()...)
		}
		if len(data) > 0 {
			reply.add(option6DNSServers, data)
		}
	}
	if len(reply.options) == empty {
		return dhcp6Message{}, errNotAsked
	}
	// Without it clients would not ask again for a day. See RFC 8415, Section 21.23.
	if m.asks(option6RefreshTime) {
		reply.add(option6RefreshTime, binary.BigEndian.AppendUint32(nil, uint32(refresh/time.Second)))
	}
	return reply, nil
}
