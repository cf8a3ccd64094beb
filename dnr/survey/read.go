package survey

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"time"

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// read returns the message in a datagram, if it is one of a router, or one of a DHCP server that answers this survey.
func (a requester) read(d link.Datagram) (Message, bool) {
	h := Message{Server: d.From, Findings: packetFindings(d)}
	switch {
	case d.V6 && d.Protocol == link.ProtocolICMPv6 && len(d.Data) > 0 && d.Data[0] == link.TypeRouterAdvertisement:
		h.readRA(d)
		return h, true
	case d.V6 && d.Protocol == link.ProtocolUDP && d.Port == link.DHCPv6ClientPort:
		return h, h.readDHCPv6(d.Data, a)
	case !d.V6 && d.Protocol == link.ProtocolUDP && d.Port == link.DHCPv4ClientPort:
		return h, h.readDHCPv4(d.Data, a)
	}
	return h, false
}

// packetFindings returns what is wrong with the packet in which a datagram came.
func packetFindings(d link.Datagram) (fs dnr.Findings) {
	switch {
	case d.FragmentND:
		fs.Fail(codeFragment, errMessage, 0, "Neighbor Discovery in a packet with a Fragment header")
	case d.Partial && d.V6:
		fs.Warn(codeFragment, 0, "the packet comes in fragments; only the first is judged here")
	case d.Partial:
		fs.Warn(codeFragment, 0, "the packet comes in fragments, which clients that read packets themselves do not put "+
			"together; only the first %d octets are judged here", ipv4Payload(d))
	}
	if d.BadSum {
		fs.Fail(codeChecksum, errMessage, 0, "the checksum is wrong")
	}
	return fs
}

// ipv4Payload returns how many octets of the datagram are behind its IPv4 header.
func ipv4Payload(d link.Datagram) int { return link.UDPHeaderLength + len(d.Data) }

// optionAdvertisementInterval is the option that carries how often a router advertises. See RFC 6275, Section 7.3.
const optionAdvertisementInterval = 7

// readRA reads a Router Advertisement. See RFC 4861, Section 6.1.2.
func (h *Message) readRA(d link.Datagram) {
	h.By, h.Kind = dnr.RA, "advertisement"
	if d.Hops != link.NDHopLimit {
		h.Findings.Fail(CodeHopLimit, ErrOffLink, 0, "the hop limit is %d, not %d: a router has forwarded it", d.Hops, link.NDHopLimit)
	}
	if !d.From.IsLinkLocalUnicast() {
		h.Findings.Fail(codeSource, ErrOffLink, 0, "the source %s is not a link-local address", d.From)
	}
	switch b := d.Data; {
	case len(b) < link.AdvertisementLength:
		h.Findings.Fail(codeMessage, errMessage, 0, "it has %d octets; want at least %d", len(b), link.AdvertisementLength)
		return
	case b[1] != 0:
		h.Findings.Fail(codeMessage, errMessage, 1, "the code is %d; want 0", b[1])
	}
	options, err := link.ParseNDOptions(d.Data[link.AdvertisementLength:])
	off := link.AdvertisementLength
	for _, o := range options {
		h.readNDOption(o)
		off += len(o)
	}
	if err != nil {
		h.Findings.Fail(codeOptions, errMessage, off, "the option there has a length that is 0 or exceeds the message, for which hosts "+
			"ignore all of it")
	}
}

// readNDOption reads one option of a Router Advertisement.
func (h *Message) readNDOption(o link.NDOption) {
	switch o.Kind() {
	case dnr.OptionRA:
		h.inspect(func() dnr.Inspection { return dnr.InspectRA(o) })
	case link.OptionRDNSS:
		h.Resolvers = append(h.Resolvers, link.ParseRDNSS(o)...)
	case optionAdvertisementInterval:
		h.Interval = time.Duration(binary.BigEndian.Uint32(o[4:])) * time.Millisecond
	}
}

// inspect adds an instance, unless there are too many.
func (h *Message) inspect(instance func() dnr.Inspection) {
	if len(h.Instances) >= maxInstances {
		h.Omitted++
		return
	}
	h.Instances = append(h.Instances, instance())
}

// readDHCPv6 reads a reply to an Information-request, and reports whether it answers a request of a. See RFC 8415,
// Section 16.10.
func (h *Message) readDHCPv6(b []byte, a requester) bool {
	m, err := link.ParseDHCPv6(b)
	if m.Kind != link.DHCPv6Reply || m.ID != a.id6 {
		return false
	}
	h.By, h.Kind = dnr.DHCPv6, "reply"
	if err != nil {
		h.Findings.Fail(codeOptions, errMessage, m.Length(), "the option there is longer than what is left of the message")
	}
	id, ok := m.Get(link.Option6ServerID)
	if h.ID = hex.EncodeToString(id[:min(len(id), link.MaxDUID)]); !ok {
		h.Findings.Fail(codeServerID, errMessage, 0, "the server does not identify itself, for which clients ignore the reply")
	}
	if id, _ := m.Get(link.Option6ClientID); len(a.link.MAC) > 0 && string(id) != string(link.DUID(a.link.MAC)) {
		h.Findings.Fail(codeClientID, errMessage, 0, "the client's identifier is not that of the request, for which clients ignore "+
			"the reply")
	}
	for _, o := range m.Options {
		switch o.Code {
		case dnr.OptionDHCPv6:
			h.inspect(func() dnr.Inspection { return dnr.InspectDHCPv6(o.Data) })
		case link.Option6DNSServers:
			h.Resolvers = append(h.Resolvers, addressesOf(o.Data, 16)...)
		}
	}
	return true
}

// addressesOf returns the addresses of size octets in data, up to one that is cut off.
func addressesOf(data []byte, size int) (list []netip.Addr) {
	for ; len(data) >= size; data = data[size:] {
		addr, _ := netip.AddrFromSlice(data[:size])
		list = append(list, addr)
	}
	return list
}

// readDHCPv4 reads a DHCPOFFER or DHCPACK, and reports whether it answers a request of a. See RFC 2131, Sections 4.3.1
// and 4.4.1.
func (h *Message) readDHCPv4(b []byte, a requester) bool {
	m, err := link.ParseDHCPv4(b)
	if err != nil || m.Op != link.BootReply || m.ID != a.id4 || string(m.Address[:len(a.link.MAC)]) != string(a.link.MAC) {
		return false
	}
	kind, _ := m.Get(link.Option4MessageType)
	if len(kind) != 1 || kind[0] != dhcp4Offer && kind[0] != link.DHCPv4ACK {
		return false
	}
	h.By, h.Kind = dnr.DHCPv4, map[byte]string{dhcp4Offer: "offer", link.DHCPv4ACK: "ack"}[kind[0]]
	if at, ok := dnr.CutOption4(m.Options); ok {
		h.Findings.Fail(codeOptions, errMessage, link.DHCPv4Header+at,
			"the option there is longer than what is left of the message")
	}
	if id, _ := m.Get(link.Option4ServerID); len(id) == 4 {
		h.ID = netip.AddrFrom4([4]byte(id)).String()
	} else {
		h.Findings.Fail(codeServerID, errMessage, 0, "the server does not identify itself, for which clients ignore the message")
	}
	if data, _ := m.Get(link.Option4DNSServers); len(data) > 0 {
		h.Resolvers = addressesOf(data, 4)
	}
	if data, ok := m.Get(dnr.OptionDHCPv4); ok {
		h.Instances = dnr.InspectDHCPv4(data)
	}
	return true
}
