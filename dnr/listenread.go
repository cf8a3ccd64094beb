package dnr

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"time"
)

// read returns what a datagram says, if it is a message of a server to us or to all.
func (a asker) read(d datagram) (Heard, bool) {
	h := Heard{Server: d.from, Findings: d.findings.list}
	switch {
	case d.v6 && d.protocol == protocolICMPv6 && len(d.data) > 0 && d.data[0] == typeRouterAdvertisement:
		h.readRA(d)
		return h, true
	case d.v6 && d.protocol == protocolUDP && d.port == dhcp6ClientPort:
		return h, h.readDHCPv6(d.data, a)
	case !d.v6 && d.protocol == protocolUDP && d.port == dhcp4ClientPort:
		return h, h.readDHCPv4(d.data, a)
	}
	return h, false
}

// add adds a finding for which hosts ignore the message.
func (h *Heard) add(code string, rule error, off int, format string, args ...any) {
	fs := findings{list: h.Findings}
	fs.fail(code, rule, off, format, args...)
	h.Findings = fs.list
}

// optionAdvertisementInterval is the option by which a router tells how often it advertises. See RFC 6275, Section 7.3.
const optionAdvertisementInterval = 7

// readRA reads a Router Advertisement. See RFC 4861, Section 6.1.2.
func (h *Heard) readRA(d datagram) {
	h.By, h.Message = RA, "advertisement"
	if d.hops != ndHopLimit {
		h.add(CodeHopLimit, ErrOffLink, 0, "the hop limit is %d, not %d: a router has forwarded it", d.hops, ndHopLimit)
	}
	if !d.from.IsLinkLocalUnicast() {
		h.add(CodeSource, ErrOffLink, 0, "the source %s is not a link-local address", d.from)
	}
	switch b := d.data; {
	case len(b) < advertisementLength:
		h.add(CodeMessage, ErrMessage, 0, "it has %d octets; want at least %d", len(b), advertisementLength)
		return
	case b[1] != 0:
		h.add(CodeMessage, ErrMessage, 1, "the code is %d; want 0", b[1])
	}
	options, err := parseNDOptions(d.data[advertisementLength:])
	off := advertisementLength
	for _, o := range options {
		h.readNDOption(o)
		off += len(o)
	}
	if err != nil {
		h.add(CodeOptions, ErrMessage, off, "the option there has a length that is 0 or exceeds the message, for which hosts "+
			"ignore all of it")
	}
}

func (h *Heard) readNDOption(o ndOption) {
	switch o.kind() {
	case OptionRA:
		h.inspect(func() Inspection { return InspectRA(o) })
	case optionRDNSS:
		h.Resolvers = append(h.Resolvers, parseRDNSS(o)...)
	case optionAdvertisementInterval:
		h.Interval = time.Duration(binary.BigEndian.Uint32(o[4:])) * time.Millisecond
	}
}

// inspect adds an instance, as long as there are not too many.
func (h *Heard) inspect(instance func() Inspection) {
	if len(h.Instances) >= maxInstances {
		h.Omitted++
		return
	}
	h.Instances = append(h.Instances, instance())
}

// readDHCPv6 reads a reply to an Information-request, and reports whether it is one of ours. See RFC 8415, Section
// 16.10.
func (h *Heard) readDHCPv6(b []byte, a asker) bool {
	m, err := parseDHCPv6(b)
	if m.kind != dhcp6Reply || m.id != a.id6 {
		return false
	}
	h.By, h.Message = DHCPv6, "reply"
	if err != nil {
		h.add(CodeOptions, ErrMessage, m.length(), "the option there is longer than what is left of the message")
	}
	id, ok := m.get(option6ServerID)
	if h.ID = hex.EncodeToString(id[:min(len(id), maxDUID)]); !ok {
		h.add(CodeServerID, ErrMessage, 0, "the server does not identify itself, for which clients ignore the reply")
	}
	if id, _ := m.get(option6ClientID); len(a.link.mac) > 0 && string(id) != string(linkDUID(a.link.mac)) {
		h.add(CodeClientID, ErrMessage, 0, "the client's identifier is not that of the request, for which clients ignore "+
			"the reply")
	}
	for _, o := range m.options {
		switch o.code {
		case OptionDHCPv6:
			h.inspect(func() Inspection { return InspectDHCPv6(o.data) })
		case option6DNSServers:
			h.Resolvers = append(h.Resolvers, addressesOf(o.data, 16)...)
		}
	}
	return true
}

// length returns how many octets m takes.
func (m dhcp6Message) length() int {
	n := 4
	for _, o := range m.options {
		n += 4 + len(o.data)
	}
	return n
}

// addressesOf returns the addresses of size octets in data, up to one that is cut off.
func addressesOf(data []byte, size int) (list []netip.Addr) {
	for ; len(data) >= size; data = data[size:] {
		addr, _ := netip.AddrFromSlice(data[:size])
		list = append(list, addr)
	}
	return list
}

// readDHCPv4 reads a DHCPOFFER or DHCPACK, and reports whether it is one for us. See RFC 2131, Sections 4.3.1 and
// 4.4.1.
func (h *Heard) readDHCPv4(b []byte, a asker) bool {
	m, err := parseDHCPv4(b)
	if err != nil || m.op != bootReply || m.id != a.id4 || string(m.address[:len(a.link.mac)]) != string(a.link.mac) {
		return false
	}
	kind, _ := m.get(option4MessageType)
	if len(kind) != 1 || kind[0] != dhcp4Offer && kind[0] != dhcp4ACK {
		return false
	}
	h.By, h.Message = DHCPv4, map[byte]string{dhcp4Offer: "offer", dhcp4ACK: "ack"}[kind[0]]
	if at, ok := cutOption4(m.options); ok {
		h.add(CodeOptions, ErrMessage, dhcp4Header+len(dhcp4Cookie)+at,
			"the option there is longer than what is left of the message")
	}
	if id, _ := m.get(option4ServerID); len(id) == 4 {
		h.ID = netip.AddrFrom4([4]byte(id)).String()
	} else {
		h.add(CodeServerID, ErrMessage, 0, "the server does not identify itself, for which clients ignore the message")
	}
	if data, _ := m.get(option4DNSServers); len(data) > 0 {
		h.Resolvers = addressesOf(data, 4)
	}
	if data, ok := m.get(OptionDHCPv4); ok {
		h.Instances = InspectDHCPv4(data)
	}
	return true
}

// cutOption4 returns where in a field an option begins that is cut off, and whether there is one.
func cutOption4(field []byte) (at int, ok bool) {
	for at < len(field) && field[at] != optionEnd {
		if field[at] == optionPad {
			at++
			continue
		}
		if at+1 >= len(field) || at+2+int(field[at+1]) > len(field) {
			return at, true
		}
		at += 2 + int(field[at+1])
	}
	return 0, false
}
