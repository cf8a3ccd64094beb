package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// minRefreshTime is the shortest time after which clients may be made to ask again. See RFC 8415, Section 7.6.
const minRefreshTime = 10 * time.Minute

// checkInformation returns why m is not an Information-request that the server duid answers. See RFC 8415, Section
// 16.12.
func checkInformation(m link.DHCPv6Message, duid []byte) error {
	if m.Kind != link.DHCPv6InformationRequest {
		return fmt.Errorf("%w: type %d", errNotForUs, m.Kind)
	}
	if id, ok := m.Get(link.Option6ServerID); ok && string(id) != string(duid) {
		return fmt.Errorf("%w: to another server", errNotForUs)
	}
	for _, o := range m.Options {
		switch o.Code {
		case link.Option6IANA, link.Option6IATA, link.Option6IAPD:
			return fmt.Errorf("%w: Information-request for an address", link.ErrDHCPFormat)
		case link.Option6ClientID:
			if len(o.Data) < 3 || len(o.Data) > link.MaxDUID {
				return fmt.Errorf("%w: DUID of %d octets", link.ErrDHCPFormat, len(o.Data))
			}
		case link.Option6Request:
			if len(o.Data)%2 != 0 {
				return fmt.Errorf("%w: Option Request of %d octets", link.ErrDHCPFormat, len(o.Data))
			}
		}
	}
	return nil
}

// answerDHCPv6 returns the reply to request.
func (a *Announcer) answerDHCPv6(request link.Packet, l link.State) (link.Packet, error) {
	// A message that was sent to all servers of the link, from the link. See RFC 8415, Sections 13.1 and 16.
	if request.To != link.AllDHCPServers || !request.Peer.Addr().IsLinkLocalUnicast() {
		return link.Packet{}, fmt.Errorf("%w: from %s to %s", errNotOnLink, request.Peer.Addr(), request.To)
	}
	m, err := link.ParseDHCPv6(request.Data)
	if errors.Is(err, link.ErrRelayed) {
		return link.Packet{}, fmt.Errorf("%w: %w", errNotForUs, err)
	}
	if err != nil {
		return link.Packet{}, err
	}
	reply, err := informDHCPv6(m, link.DUID(l.MAC), a.current(), max(a.lifetime(), minRefreshTime))
	if err != nil {
		return link.Packet{}, err
	}
	// The port is that of DHCP clients whatever the request came from, so that no other program can be made a target.
	return link.Packet{Peer: netip.AddrPortFrom(request.Peer.Addr(), link.DHCPv6ClientPort), Data: reply.Append(nil)}, nil
}

// informDHCPv6 returns the reply to an Information-request, with what the client asked for. If nothing of that is
// announced, it fails with errNotAsked, so that a client which takes the first reply takes that of the link's DHCP
// server. See RFC 8415, Section 18.3.6; RFC 9463, Section 4.2.
func informDHCPv6(m link.DHCPv6Message, duid []byte, an Content, refresh time.Duration) (link.DHCPv6Message, error) {
	if err := checkInformation(m, duid); err != nil {
		return link.DHCPv6Message{}, err
	}
	reply := link.DHCPv6Message{Kind: link.DHCPv6Reply, ID: m.ID}
	reply.Add(link.Option6ServerID, duid)
	if id, ok := m.Get(link.Option6ClientID); ok {
		reply.Add(link.Option6ClientID, id)
	}
	empty := len(reply.Options)
	if m.Asks(dnr.OptionDHCPv6) {
		for _, r := range an.Resolvers {
			if data, err := dnr.EncodeDHCPv6(r); err == nil {
				reply.Add(dnr.OptionDHCPv6, data)
			}
		}
	}
	if m.Asks(link.Option6DNSServers) {
		if servers := serversOf(an.Servers, false); len(servers) > 0 {
			reply.Add(link.Option6DNSServers, octets(servers))
		}
	}
	if len(reply.Options) == empty {
		return link.DHCPv6Message{}, errNotAsked
	}
	// Without this option clients would not ask again for a day. See RFC 8415, Section 21.23.
	if m.Asks(link.Option6RefreshTime) {
		reply.Add(link.Option6RefreshTime, binary.BigEndian.AppendUint32(nil, uint32(refresh/time.Second)))
	}
	return reply, nil
}
