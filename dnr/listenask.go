package dnr

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"
)

// askTimes are the times after the start at which something may be due. See RFC 4861, Section 10
// (RTR_SOLICITATION_INTERVAL); RFC 8415, Section 7.6 (INF_TIMEOUT); RFC 2131, Section 4.1.
var askTimes = []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second}

// asker makes the questions of one survey and recognises the answers to them.
type asker struct {
	link linkState
	id4  [4]byte // transaction ids
	id6  [3]byte
}

func newAsker(l linkState) asker {
	a := asker{link: l}
	rand.Read(a.id4[:])
	rand.Read(a.id6[:])
	return a
}

// listenQuestion is one question to the servers of the link.
type listenQuestion struct {
	by      Form
	data    []byte // an IP packet
	unasked string // why there is none, or ""
}

// questions returns what is due at a time. What was answered is not asked again, except that a DHCPINFORM without an
// answer is followed by a DHCPDISCOVER, because many servers know no other clients than their own.
func (a asker) questions(at time.Duration, answered func(Form) bool) (list []listenQuestion) {
	switch at {
	case 0:
		return []listenQuestion{a.solicitation(), a.informationRequest(0), a.inform()}
	case time.Second, 3 * time.Second:
		if !answered(DHCPv6) {
			list = append(list, a.informationRequest(at))
		}
	case 2 * time.Second:
		if !answered(DHCPv4) {
			list = append(list, a.discover())
		}
	case 4 * time.Second:
		if !answered(RA) {
			list = append(list, a.solicitation())
		}
	}
	return list
}

// solicitation asks for Router Advertisements, without an address if there is none yet. See RFC 4861, Section 4.1.
func (a asker) solicitation() listenQuestion {
	from, message := netip.IPv6Unspecified(), []byte{typeRouterSolicitation, 0, 0, 0, 0, 0, 0, 0}
	if a.link.linkLocal.IsValid() {
		from = a.link.linkLocal
		message = append(message, sourceLinkLayer(a.link.mac)...)
	}
	const sumAt = 2
	return listenQuestion{by: RA, data: ipv6Packet(from, allRouters, protocolICMPv6, ndHopLimit, sumAt, message)}
}

// udpSumAt is where UDP has its checksum.
const udpSumAt = 6

// Options that an Information-request must ask for, and the one that says how long the client has been trying. See RFC
// 8415, Sections 18.2.6, 21.9 and 21.25.
const (
	option6ElapsedTime = 8
	option6MaxRT       = 83
)

// informationRequest asks for DNR and for resolvers without encryption, elapsed after the first one. See RFC 8415,
// Section 18.2.6; RFC 9463, Section 4.2.
func (a asker) informationRequest(elapsed time.Duration) listenQuestion {
	if !a.link.linkLocal.IsValid() {
		return listenQuestion{by: DHCPv6, unasked: "the interface has no link-local address"}
	}
	m := dhcp6Message{kind: dhcp6InformationRequest, id: a.id6}
	if len(a.link.mac) > 0 {
		m.add(option6ClientID, linkDUID(a.link.mac))
	}
	var codes []byte
	for _, code := range []uint16{option6DNSServers, option6RefreshTime, option6MaxRT, OptionDHCPv6} {
		codes = binary.BigEndian.AppendUint16(codes, code)
	}
	m.add(option6Request, codes)
	m.add(option6ElapsedTime, binary.BigEndian.AppendUint16(nil, uint16(elapsed/(10*time.Millisecond))))
	message := udpMessage(dhcp6ClientPort, dhcp6ServerPort, m.append(nil))
	return listenQuestion{
		by: DHCPv6, data: ipv6Packet(a.link.linkLocal, allDHCPServers, protocolUDP, 1, udpSumAt, message),
	}
}

const (
	dhcp4Discover = 1
	dhcp4Offer    = 2
)

// inform asks without wanting an address, or like discover if the interface has none.
func (a asker) inform() listenQuestion {
	if !a.link.ipv4().IsValid() {
		return a.discover()
	}
	return a.dhcp4(dhcp4Inform, a.link.ipv4())
}

// discover asks what a lease would come with. It is never followed by a request for one.
func (a asker) discover() listenQuestion { return a.dhcp4(dhcp4Discover, netip.IPv4Unspecified()) }

// dhcp4 asks all servers. See RFC 2131, Sections 4.4.1 and 4.4.3; RFC 9463, Section 5.2.
func (a asker) dhcp4(kind byte, from netip.Addr) listenQuestion {
	if len(a.link.mac) != 6 {
		return listenQuestion{by: DHCPv4, unasked: "the interface has no Ethernet address"}
	}
	const ethernet, broadcast = 1, 0x8000
	m := dhcp4Message{op: bootRequest, hardware: ethernet, hardwareLen: 6, id: a.id4, client: from.As4()}
	copy(m.address[:], a.link.mac)
	if kind == dhcp4Discover {
		m.flags = broadcast // there is no address to send to
	}
	m.options = AppendOption4(m.options, option4MessageType, []byte{kind})
	m.options = AppendOption4(m.options, option4Request, []byte{option4DNSServers, OptionDHCPv4})
	m.options = AppendOption4(m.options, option4MaxSize, binary.BigEndian.AppendUint16(nil, uint16(a.maxSize())))
	m.options = append(m.options, optionEnd)
	data := m.append(nil)
	if short := dhcp4Minimum - len(data); short > 0 {
		data = append(data, make([]byte, short)...)
	}
	message := udpMessage(dhcp4ClientPort, dhcp4ServerPort, data)
	to := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return listenQuestion{by: DHCPv4, data: ipv4Packet(from, to, protocolUDP, 64, udpSumAt, message)}
}

// maxSize is how long a reply may be, so that it comes in one packet.
func (a asker) maxSize() int { return min(max(a.link.mtu, dhcp4Maximum), 0xffff) }
