package announce

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// checkInform returns why m is not a DHCPINFORM that the server id answers. A relayed message is
// for the servers that the relay is configured with. See RFC 2131, Sections 3.4 and 4.4.3.
func checkInform(m link.DHCPv4Message, id netip.Addr) error {
	kind, _ := m.Get(link.Option4MessageType)
	server, named := m.Get(link.Option4ServerID)
	switch {
	case len(kind) != 1:
		return fmt.Errorf("%w: message type of %d octets", link.ErrDHCPFormat, len(kind))
	case m.Op != link.BootRequest || kind[0] != link.DHCPv4Inform:
		return fmt.Errorf("%w: type %d", errNotForUs, kind[0])
	case m.Relay != [4]byte{}:
		return fmt.Errorf("%w: relayed", errNotForUs)
	case named && string(server) != string(id.AsSlice()):
		return fmt.Errorf("%w: to another server", errNotForUs)
	}
	return nil
}

// replySize returns how long a reply to m may be. See RFC 2132, Section 9.10.
func replySize(m link.DHCPv4Message) int {
	if data, _ := m.Get(link.Option4MaxSize); len(data) == 2 {
		return max(link.DHCPv4Maximum, int(binary.BigEndian.Uint16(data))) - link.UDPHeaders
	}
	return link.DHCPv4Maximum - link.UDPHeaders
}

// answerDHCPv4 returns the reply to request.
func (a *Announcer) answerDHCPv4(request link.Packet, l link.State) (link.Packet, error) {
	m, err := link.ParseDHCPv4(request.Data)
	if err != nil {
		return link.Packet{}, err
	}
	reply, err := informDHCPv4(m, l.IPv4(), a.current())
	if err != nil {
		return link.Packet{}, err
	}
	to, err := replyTo(m, request.Peer.Addr(), l)
	if err != nil {
		return link.Packet{}, err
	}
	return link.Packet{Peer: netip.AddrPortFrom(to, link.DHCPv4ClientPort), Data: reply.Append(nil)}, nil
}

// replyTo returns the address to which the reply to a DHCPINFORM from source goes. This is ciaddr, which must be on the
// link and, unless source is unspecified, equal to it, so that the reply cannot be directed at another host. Without a
// ciaddr it is source, and without either the broadcast address. See RFC 2131, Section 4.3.5.
func replyTo(m link.DHCPv4Message, source netip.Addr, l link.State) (netip.Addr, error) {
	client := netip.AddrFrom4(m.Client)
	switch {
	case client.IsUnspecified() && source.IsUnspecified():
		return netip.AddrFrom4([4]byte{255, 255, 255, 255}), nil
	case client.IsUnspecified():
		client = source
	case !source.IsUnspecified() && source != client:
		return client, fmt.Errorf("%w: ciaddr %s from %s", errNotOnLink, client, source)
	}
	if !l.OnLink(client) || dnr.Unusable(client) != "" || client == l.IPv4() {
		return client, fmt.Errorf("%w: ciaddr %s", errNotOnLink, client)
	}
	return client, nil
}

// informDHCPv4 returns the reply to a DHCPINFORM: a DHCPACK with what the client asked for, and without anything about
// leases. If nothing that was asked for is announced, it fails with errNotAsked, so that a client which takes the first
// reply takes that of the link's DHCP server. See RFC 2131, Section 4.3.5; RFC 9463, Section 5.2.
func informDHCPv4(m link.DHCPv4Message, id netip.Addr, an Content) (link.DHCPv4Message, error) {
	if err := checkInform(m, id); err != nil {
		return link.DHCPv4Message{}, err
	}
	reply := link.DHCPv4Message{
		Op: link.BootReply, Hardware: m.Hardware, HardwareLen: m.HardwareLen, ID: m.ID, Flags: m.Flags, Client: m.Client,
		Address: m.Address,
	}
	reply.Options = dnr.AppendOption4(nil, link.Option4MessageType, []byte{link.DHCPv4ACK})
	reply.Options = dnr.AppendOption4(reply.Options, link.Option4ServerID, id.AsSlice())
	// See RFC 6842, Section 3.
	if client, ok := m.Get(link.Option4ClientID); ok && len(client) < 256 {
		reply.Options = dnr.AppendOption4(reply.Options, link.Option4ClientID, client)
	}
	empty := len(reply.Options)
	if servers := serversOf(an.Servers, true); m.Asks(link.Option4DNSServers) && len(servers) > 0 {
		reply.Options = dnr.AppendOption4(reply.Options, link.Option4DNSServers, octets(servers))
	}
	room := replySize(m) - link.DHCPv4Header - len(reply.Options) - len([]byte{dnr.Option4End})
	if m.Asks(dnr.OptionDHCPv4) {
		reply.Options = append(reply.Options, designated(an, room)...)
	}
	if len(reply.Options) == empty {
		return link.DHCPv4Message{}, errNotAsked
	}
	reply.Options = append(reply.Options, dnr.Option4End)
	if short := link.DHCPv4Minimum - link.DHCPv4Header - len(reply.Options); short > 0 {
		reply.Options = append(reply.Options, make([]byte, short)...)
	}
	return reply, nil
}

// designated returns option 162 with as many resolvers as fit into room octets, the preferred ones first.
func designated(an Content, room int) []byte {
	var list []byte
	var options []byte
	for _, r := range an.Resolvers {
		in, err := dnr.NewInstance(r, dnr.DHCPv4)
		if err != nil {
			continue
		}
		longer, err := in.AppendDHCPv4(slices.Clip(list))
		if err != nil {
			continue
		}
		if encoded := dnr.AppendOption4(nil, dnr.OptionDHCPv4, longer); len(encoded) <= room {
			list, options = longer, encoded
		}
	}
	return options
}
