package survey

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// requestTimes are the times after the start at which requests may be due. See RFC 4861, Section 10
// (RTR_SOLICITATION_INTERVAL); RFC 8415, Section 7.6 (INF_TIMEOUT); RFC 2131, Section 4.1.
var requestTimes = []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second}

// requester makes the requests of one survey. Replies carry its transaction ids.
type requester struct {
	link link.State
	id4  [4]byte // transaction ids
	id6  [3]byte
}

func newRequester(l link.State) requester {
	a := requester{link: l}
	rand.Read(a.id4[:])
	rand.Read(a.id6[:])
	return a
}

// request is one request to the servers of the link.
type request struct {
	by      dnr.Form
	data    []byte // an IP packet
	unasked string // why it cannot be sent, or ""
}

// requests returns what is due at one of requestTimes. Nothing is sent again by a protocol that was answered. A
// DHCPINFORM without an answer is followed by a DHCPDISCOVER, because many servers answer only clients to which they
// gave a lease.
func (a requester) requests(at time.Duration, answered func(dnr.Form) bool) (list []request) {
	switch at {
	case 0:
		return []request{a.solicitation(), a.informationRequest(0), a.inform()}
	case time.Second, 3 * time.Second:
		if !answered(dnr.DHCPv6) {
			list = append(list, a.informationRequest(at))
		}
	case 2 * time.Second:
		if !answered(dnr.DHCPv4) {
			list = append(list, a.discover())
		}
	case 4 * time.Second:
		if !answered(dnr.RA) {
			list = append(list, a.solicitation())
		}
	}
	return list
}

// solicitation asks for Router Advertisements, without an address if there is none yet. See RFC 4861, Section 4.1.
func (a requester) solicitation() request {
	from, message := netip.IPv6Unspecified(), []byte{link.TypeRouterSolicitation, 0, 0, 0, 0, 0, 0, 0}
	if a.link.LinkLocal.IsValid() {
		from = a.link.LinkLocal
		message = append(message, link.SourceLinkLayer(a.link.MAC)...)
	}
	const sumAt = 2
	return request{by: dnr.RA, data: link.IPv6Packet(from, link.AllRouters, link.ProtocolICMPv6, link.NDHopLimit, sumAt, message)}
}

// Options that an Information-request must ask for, and the one that says how long the client has been trying. See RFC
// 8415, Sections 18.2.6, 21.9 and 21.25.
const (
	option6ElapsedTime = 8
	option6MaxRT       = 83
)

// informationRequest asks for DNR and for resolvers without encryption, elapsed after the first one. See RFC 8415,
// Section 18.2.6; RFC 9463, Section 4.2.
func (a requester) informationRequest(elapsed time.Duration) request {
	if !a.link.LinkLocal.IsValid() {
		return request{by: dnr.DHCPv6, unasked: "the interface has no link-local address"}
	}
	m := link.DHCPv6Message{Kind: link.DHCPv6InformationRequest, ID: a.id6}
	if len(a.link.MAC) > 0 {
		m.Add(link.Option6ClientID, link.DUID(a.link.MAC))
	}
	var codes []byte
	for _, code := range []uint16{link.Option6DNSServers, link.Option6RefreshTime, option6MaxRT, dnr.OptionDHCPv6} {
		codes = binary.BigEndian.AppendUint16(codes, code)
	}
	m.Add(link.Option6Request, codes)
	m.Add(option6ElapsedTime, binary.BigEndian.AppendUint16(nil, uint16(elapsed/(10*time.Millisecond))))
	message := link.UDPMessage(link.DHCPv6ClientPort, link.DHCPv6ServerPort, m.Append(nil))
	return request{
		by: dnr.DHCPv6, data: link.IPv6Packet(a.link.LinkLocal, link.AllDHCPServers, link.ProtocolUDP, 1, link.UDPSumAt, message),
	}
}

const (
	dhcp4Discover = 1
	dhcp4Offer    = 2
)

// inform asks without wanting an address, or like discover if the interface has none.
func (a requester) inform() request {
	if !a.link.IPv4().IsValid() {
		return a.discover()
	}
	return a.dhcp4(link.DHCPv4Inform, a.link.IPv4())
}

// discover asks what a lease would come with. It is never followed by a request for one.
func (a requester) discover() request { return a.dhcp4(dhcp4Discover, netip.IPv4Unspecified()) }

// dhcp4 asks all servers. See RFC 2131, Sections 4.4.1 and 4.4.3; RFC 9463, Section 5.2.
func (a requester) dhcp4(kind byte, from netip.Addr) request {
	if len(a.link.MAC) != 6 {
		return request{by: dnr.DHCPv4, unasked: "the interface has no Ethernet address"}
	}
	const ethernet, broadcast = 1, 0x8000
	m := link.DHCPv4Message{Op: link.BootRequest, Hardware: ethernet, HardwareLen: 6, ID: a.id4, Client: from.As4()}
	copy(m.Address[:], a.link.MAC)
	if kind == dhcp4Discover {
		m.Flags = broadcast // there is no address to send to
	}
	m.Options = dnr.AppendOption4(m.Options, link.Option4MessageType, []byte{kind})
	m.Options = dnr.AppendOption4(m.Options, link.Option4Request, []byte{link.Option4DNSServers, dnr.OptionDHCPv4})
	m.Options = dnr.AppendOption4(m.Options, link.Option4MaxSize, binary.BigEndian.AppendUint16(nil, uint16(a.maxSize())))
	m.Options = append(m.Options, dnr.Option4End)
	data := m.Append(nil)
	if short := link.DHCPv4Minimum - len(data); short > 0 {
		data = append(data, make([]byte, short)...)
	}
	message := link.UDPMessage(link.DHCPv4ClientPort, link.DHCPv4ServerPort, data)
	to := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return request{by: dnr.DHCPv4, data: link.IPv4Packet(from, to, link.ProtocolUDP, 64, link.UDPSumAt, message)}
}

// maxSize is how long a reply may be, so that it comes in one packet.
func (a requester) maxSize() int { return min(max(a.link.MTU, link.DHCPv4Maximum), 0xffff) }
