// Package link is a network interface as DNR needs it: its state and addresses, sockets for Neighbor Discovery, for
// both versions of DHCP and for whole IP packets, and the messages that go over them (RFC 4861, RFC 2131, RFC 8415).
//
// It reads and writes messages, and checks what says whether a message was sent on this link. It does not decide what
// to send when, and except for their code it knows nothing of Encrypted DNS options. Packages announce and survey are
// its only users. One goroutine may receive on a connection while another one sends; Close ends Receive. All else is
// pure. Outside Linux, whatever needs the kernel fails with errors.ErrUnsupported.
//
// The messages of DHCP are our own, because github.com/insomniacslk/dhcp (version 234b97448fae) fails where hosts and
// servers must not:
//
//   - Its DHCPv4 drops the options in the fields file and sname, where RFC 3396, Section 5, continues long ones: the
//     rows overloaded-… and only-in-sname of TestCollectOption4 in package dnr. It also refuses a whole message for one
//     option that is cut off and for a missing end: the rows no-end and cut-off.
//   - Its DHCPv6 looks into every option, and refuses a whole message if any of them is malformed, wanted or not (row
//     v6-malformed-other-option of TestReadDHCP in package survey). It refuses DUIDs by their contents, which servers
//     must treat as opaque by RFC 8415, Section 11 (row opaque-duid of TestDHCPv6Reply in package announce).
package link

import (
	"errors"
	"net"
	"net/netip"
)

// ErrPortTaken says that another program of this host has the port of a DHCP server.
var ErrPortTaken = errors.New("link: port in use")

// Multicast addresses of one link. See RFC 4291, Section 2.7.1; RFC 8415, Section 7.1.
var (
	AllNodes       = netip.MustParseAddr("ff02::1")
	AllRouters     = netip.MustParseAddr("ff02::2")
	AllDHCPServers = netip.MustParseAddr("ff02::1:2")
)

// Conn is a socket on one link, for messages of one protocol.
type Conn interface {
	// Receive waits for a message, whose data may share memory with buf.
	Receive(buf []byte) (Packet, error)
	Send(Packet) error
	// Close makes Receive return an error.
	Close() error
}

// Packet is a message, received or to be sent.
type Packet struct {
	Peer netip.AddrPort // its sender, or the receiver of one to be sent; without zone
	To   netip.Addr     // destination address of a received one
	From netip.Addr     // source address of a Router Advertisement to be sent
	Hops int            // hop limit of a received one; 0 if unknown
	Data []byte
}

// State is what is known of an interface. An Index of 0 means that there is no interface of that name.
type State struct {
	Name      string
	Index     int
	Up        bool // set up by its administrator
	Carrier   bool
	Forwards  bool // forwards IPv6, as routers do
	MTU       int
	MAC       net.HardwareAddr
	LinkLocal netip.Addr     // the first usable one; zero if there is none
	Addresses []netip.Prefix // the other usable ones, with the prefixes of the link
}

// Exists reports whether there is an interface of that name.
func (l State) Exists() bool { return l.Index != 0 }

// NotReady returns why nothing can be sent on the link, or "".
func (l State) NotReady() string {
	switch {
	case !l.Exists():
		return "there is no such interface"
	case !l.Up:
		return "the interface is down"
	case !l.Carrier:
		return "the interface has no carrier"
	}
	return ""
}

// NotReady6 returns why nothing can be sent by IPv6 on the link, or "".
func (l State) NotReady6() string {
	if why := l.NotReady(); why != "" {
		return why
	}
	if !l.LinkLocal.IsValid() {
		return "the interface has no link-local address yet"
	}
	return ""
}

// NotReady4 returns why nothing can be sent by IPv4 on the link, or "".
func (l State) NotReady4() string {
	if why := l.NotReady(); why != "" {
		return why
	}
	if !l.IPv4().IsValid() {
		return "the interface has no IPv4 address"
	}
	return ""
}

// IPv4 returns the first IPv4 address, or the zero Addr.
func (l State) IPv4() netip.Addr {
	for _, p := range l.Addresses {
		if p.Addr().Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// Usable returns Addresses without the lengths of their prefixes.
func (l State) Usable() (addrs []netip.Addr) {
	for _, p := range l.Addresses {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// OnLink reports whether addr belongs to a prefix of the link.
func (l State) OnLink(addr netip.Addr) bool {
	for _, p := range l.Addresses {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// SameSocket reports whether a socket that was opened in state l can still be used in state m.
func (l State) SameSocket(m State) bool {
	return l.Index == m.Index && l.Name == m.Name && l.Up == m.Up && l.Carrier == m.Carrier && l.Forwards == m.Forwards &&
		l.LinkLocal == m.LinkLocal && l.IPv4() == m.IPv4() && l.MAC.String() == m.MAC.String()
}

// MaxPacket is the size of buffers for packets, in octets. No IP packet is longer.
const MaxPacket = 1 << 16
