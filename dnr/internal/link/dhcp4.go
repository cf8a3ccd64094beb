package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cfrd-project/cfrd/dnr"
)

// Errors of DHCP messages that cannot be read.
var (
	ErrDHCPShort  = errors.New("link: DHCP message ends too early")
	ErrDHCPFormat = errors.New("link: DHCP message is malformed")
)

// Ports, messages and options of DHCPv4. See RFC 2131, Section 4.1; RFC 2132, Sections 3.8, 9.3, 9.6 to 9.8, 9.10 and
// 9.14.
const (
	DHCPv4ClientPort = 68
	DHCPv4ServerPort = 67

	BootRequest = 1
	BootReply   = 2

	DHCPv4ACK    = 5
	DHCPv4Inform = 8

	Option4DNSServers  = 6
	Option4MessageType = 53
	Option4ServerID    = 54
	Option4Request     = 55
	Option4MaxSize     = 57
	Option4ClientID    = 61
)

// Lengths in octets. See RFC 1542, Section 2.1; RFC 2131, Section 2.
const (
	DHCPv4Header  = 240 // of everything before the options, with the magic cookie
	DHCPv4Minimum = 300 // of a message: relays of BOOTP may drop shorter ones
	DHCPv4Maximum = 576 // of a packet that every client accepts, with the headers of IP and UDP
	UDPHeaders    = 28  // of the headers of IPv4 and UDP
)

// cookie is what the options begin behind. See RFC 2131, Section 3.
var cookie = [4]byte{99, 130, 83, 99}

// DHCPv4Message is a message of DHCPv4. See RFC 2131, Section 2.
type DHCPv4Message struct {
	Op, Hardware, HardwareLen, Hops byte
	ID                              [4]byte
	Secs, Flags                     uint16
	Client, Your, Server, Relay     [4]byte  // ciaddr, yiaddr, siaddr, giaddr
	Address                         [16]byte // chaddr
	Sname                           [64]byte
	File                            [128]byte
	Options                         []byte // the options field, behind the magic cookie
}

// ParseDHCPv4 reads a message, whose options share memory with b. It does not look at the options. An error is
// ErrDHCPShort or ErrDHCPFormat.
func ParseDHCPv4(b []byte) (DHCPv4Message, error) {
	switch {
	case len(b) < DHCPv4Header:
		return DHCPv4Message{}, fmt.Errorf("%w: %d octets", ErrDHCPShort, len(b))
	case [4]byte(b[DHCPv4Header-len(cookie):]) != cookie:
		return DHCPv4Message{}, fmt.Errorf("%w: no magic cookie", ErrDHCPFormat)
	case b[2] > 16:
		return DHCPv4Message{}, fmt.Errorf("%w: hardware address of %d octets", ErrDHCPFormat, b[2])
	}
	return DHCPv4Message{
		Op: b[0], Hardware: b[1], HardwareLen: b[2], Hops: b[3],
		ID:   [4]byte(b[4:]),
		Secs: binary.BigEndian.Uint16(b[8:]), Flags: binary.BigEndian.Uint16(b[10:]),
		Client: [4]byte(b[12:]), Your: [4]byte(b[16:]), Server: [4]byte(b[20:]), Relay: [4]byte(b[24:]),
		Address: [16]byte(b[28:]), Sname: [64]byte(b[44:]), File: [128]byte(b[108:]),
		Options: b[DHCPv4Header:],
	}, nil
}

// Append appends the message to b. It is the inverse of ParseDHCPv4.
func (m DHCPv4Message) Append(b []byte) []byte {
	b = append(append(b, m.Op, m.Hardware, m.HardwareLen, m.Hops), m.ID[:]...)
	b = binary.BigEndian.AppendUint16(b, m.Secs)
	b = binary.BigEndian.AppendUint16(b, m.Flags)
	for _, addr := range [][4]byte{m.Client, m.Your, m.Server, m.Relay} {
		b = append(b, addr[:]...)
	}
	b = append(append(append(b, m.Address[:]...), m.Sname[:]...), m.File[:]...)
	return append(append(b, cookie[:]...), m.Options...)
}

// Get returns the data of the option with code, joined from all its parts, and whether it is there.
func (m DHCPv4Message) Get(code byte) (data []byte, ok bool) {
	return dnr.CollectOption4(code, m.Options, m.File[:], m.Sname[:])
}

// Asks reports whether the client's Parameter Request List has code. See RFC 2132, Section 9.8.
func (m DHCPv4Message) Asks(code byte) bool {
	data, _ := m.Get(Option4Request)
	return slices.Contains(data, code)
}
