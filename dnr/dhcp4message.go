package dnr

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// Ports, messages and options of DHCPv4. See RFC 2131, Section 4.1; RFC 2132, Sections 3.8, 9.3, 9.6 to 9.8, 9.10 and
// 9.14.
const (
	dhcp4ClientPort = 68
	dhcp4ServerPort = 67

	bootRequest = 1
	bootReply   = 2

	dhcp4ACK    = 5
	dhcp4Inform = 8

	option4DNSServers  = 6
	option4MessageType = 53
	option4ServerID    = 54
	option4Request     = 55
	option4MaxSize     = 57
	option4ClientID    = 61
)

// Lengths of the parts of a message, of the shortest that all relays of BOOTP take, and of the longest that a client
// takes if it does not say otherwise, with the headers of IP and UDP. See RFC 1542, Section 2.1; RFC 2131, Section 2.
const (
	dhcp4Header  = 236
	dhcp4Minimum = 300
	dhcp4Maximum = 576
	udpHeaders   = 28
)

// dhcp4Cookie is where options begin. See RFC 2131, Section 3.
var dhcp4Cookie = [4]byte{99, 130, 83, 99}

// dhcp4Message is a message of DHCPv4. See RFC 2131, Section 2.
type dhcp4Message struct {
	op, hardware, hardwareLen, hops byte
	id                              [4]byte
	secs, flags                     uint16
	client, your, server, relay     [4]byte // ciaddr, yiaddr, siaddr, giaddr
	address                         [16]byte
	sname                           [64]byte
	file                            [128]byte
	options                         []byte // behind the cookie
}

// parseDHCPv4 reads a message, whose options share memory with b.
func parseDHCPv4(b []byte) (dhcp4Message, error) {
	switch {
	case len(b) < dhcp4Header+len(dhcp4Cookie):
		return dhcp4Message{}, fmt.Errorf("%w: %d octets", errDHCPShort, len(b))
	case [4]byte(b[dhcp4Header:]) != dhcp4Cookie:
		return dhcp4Message{}, fmt.Errorf("%w: no magic cookie", errDHCPFormat)
	case b[2] > 16:
		return dhcp4Message{}, fmt.Errorf("%w: hardware address of %d octets", errDHCPFormat, b[2])
	}
	return dhcp4Message{
		op: b[0], hardware: b[1], hardwareLen: b[2], hops: b[3],
		id:   [4]byte(b[4:]),
		secs: binary.BigEndian.Uint16(b[8:]), flags: binary.BigEndian.Uint16(b[10:]),
		client: [4]byte(b[12:]), your: [4]byte(b[16:]), server: [4]byte(b[20:]), relay: [4]byte(b[24:]),
		address: [16]byte(b[28:]), sname: [64]byte(b[44:]), file: [128]byte(b[108:]),
		options: b[dhcp4Header+len(dhcp4Cookie):],
	}, nil
}

func (m dhcp4Message) append(b []byte) []byte {
	b = append(append(b, m.op, m.hardware, m.hardwareLen, m.hops), m.id[:]...)
	b = binary.BigEndian.AppendUint16(b, m.secs)
	b = binary.BigEndian.AppendUint16(b, m.flags)
	for _, addr := range [][4]byte{m.client, m.your, m.server, m.relay} {
		b = append(b, addr[:]...)
	}
	b = append(append(append(b, m.address[:]...), m.sname[:]...), m.file[:]...)
	return append(append(b, dhcp4Cookie[:]...), m.options...)
}

func (m dhcp4Message) get(code byte) (data []byte, ok bool) {
	return CollectOption4(code, m.options, m.file[:], m.sname[:])
}

// asks reports whether the client's Parameter Request List has code. See RFC 2132, Section 9.8.
func (m dhcp4Message) asks(code byte) bool {
	data, _ := m.get(option4Request)
	return slices.Contains(data, code)
}

// checkInform returns why m is not a DHCPINFORM that the server id answers. What a relay brings is for the servers
// that it was told of. See RFC 2131, Sections 3.4 and 4.4.3.
func (m dhcp4Message) checkInform(id netip.Addr) error {
	kind, _ := m.get(option4MessageType)
	server, named := m.get(option4ServerID)
	switch {
	case len(kind) != 1:
		return fmt.Errorf("%w: message type of %d octets", errDHCPFormat, len(kind))
	case m.op != bootRequest || kind[0] != dhcp4Inform:
		return fmt.Errorf("%w: type %d", errNotForUs, kind[0])
	case m.relay != [4]byte{}:
		return fmt.Errorf("%w: relayed", errNotForUs)
	case named && string(server) != string(id.AsSlice()):
		return fmt.Errorf("%w: to another server", errNotForUs)
	}
	return nil
}

// size returns how long a reply to m may be. See RFC 2132, Section 9.10.
func (m dhcp4Message) size() int {
	if data, _ := m.get(option4MaxSize); len(data) == 2 {
		return max(dhcp4Maximum, int(binary.BigEndian.Uint16(data))) - udpHeaders
	}
	return dhcp4Maximum - udpHeaders
}

// answerDHCPv4 returns the reply to request.
func (a *Announcer) answerDHCPv4(request packet, l linkState) (packet, error) {
	m, err := parseDHCPv4(request.data)
	if err != nil {
		return packet{}, err
	}
	reply, err := informDHCPv4(m, l.ipv4(), a.current())
	if err != nil {
		return packet{}, err
	}
	to, err := m.replyTo(request.peer.Addr(), l)
	if err != nil {
		return packet{}, err
	}
	return packet{peer: netip.AddrPortFrom(to, dhcp4ClientPort), data: reply.append(nil)}, nil
}

// replyTo returns where the reply to a DHCPINFORM from source goes: to ciaddr, which must be the source's and on the
// link, so that nobody else can be made to get it; or where a client left that out, to where the message came from,
// or to all. See RFC 2131, Section 4.3.5.
func (m dhcp4Message) replyTo(source netip.Addr, l linkState) (netip.Addr, error) {
	client := netip.AddrFrom4(m.client)
	switch {
	case client.IsUnspecified() && source.IsUnspecified():
		return netip.AddrFrom4([4]byte{255, 255, 255, 255}), nil
	case client.IsUnspecified():
		client = source
	case !source.IsUnspecified() && source != client:
		return client, fmt.Errorf("%w: ciaddr %s from %s", errNotOnLink, client, source)
	}
	if !l.onLink(client) || unusable(client) != "" || client == l.ipv4() {
		return client, fmt.Errorf("%w: ciaddr %s", errNotOnLink, client)
	}
	return client, nil
}

// informDHCPv4 returns the reply to a DHCPINFORM: a DHCPACK with what the client asked for, and without anything about
// leases. If there is nothing of that, it stays silent: a client that takes the first reply should take one of the
// link's DHCP server. See RFC 2131, Section 4.3.5; RFC 9463, Section 5.2.
func informDHCPv4(m dhcp4Message, id netip.Addr, an Announcement) (dhcp4Message, error) {
	if err := m.checkInform(id); err != nil {
		return dhcp4Message{}, err
	}
	reply := dhcp4Message{
		op: bootReply, hardware: m.hardware, hardwareLen: m.hardwareLen, id: m.id, flags: m.flags, client: m.client,
		address: m.address,
	}
	reply.options = AppendOption4(nil, option4MessageType, []byte{dhcp4ACK})
	reply.options = AppendOption4(reply.options, option4ServerID, id.AsSlice())
	// See RFC 6842, Section 3.
	if client, ok := m.get(option4ClientID); ok && len(client) < 256 {
		reply.options = AppendOption4(reply.options, option4ClientID, client)
	}
	empty := len(reply.options)
	if servers := serversOf(an.Servers, true); m.asks(option4DNSServers) && len(servers) > 0 {
		reply.options = AppendOption4(reply.options, option4DNSServers, octets(servers))
	}
	room := m.size() - dhcp4Header - len(dhcp4Cookie) - len(reply.options) - len([]byte{optionEnd})
	if m.asks(OptionDHCPv4) {
		reply.options = append(reply.options, designated(an, room)...)
	}
	if len(reply.options) == empty {
		return dhcp4Message{}, errNotAsked
	}
	reply.options = append(reply.options, optionEnd)
	if short := dhcp4Minimum - dhcp4Header - len(dhcp4Cookie) - len(reply.options); short > 0 {
		reply.options = append(reply.options, make([]byte, short)...)
	}
	return reply, nil
}

// octets returns the addresses one behind the other.
func octets(addrs []netip.Addr) (data []byte) {
	for _, a := range addrs {
		data = append(data, a.AsSlice()...)
	}
	return data
}

// designated returns option 162 with as many resolvers as the room takes, the preferred ones first.
func designated(an Announcement, room int) []byte {
	var list []byte
	var options []byte
	for _, r := range an.Resolvers {
		in, err := safe(r, DHCPv4)
		if err != nil {
			continue
		}
		longer, err := in.AppendDHCPv4(slices.Clip(list))
		if err != nil {
			continue
		}
		if encoded := AppendOption4(nil, OptionDHCPv4, longer); len(encoded) <= room {
			list, options = longer, encoded
		}
	}
	return options
}
