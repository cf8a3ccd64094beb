package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
)

// Ports, messages and options of DHCPv6. See RFC 8415, Sections 7.2, 7.3 and 21; RFC 3646, Section 3.
const (
	DHCPv6ClientPort = 546
	DHCPv6ServerPort = 547

	DHCPv6Reply              = 7
	DHCPv6InformationRequest = 11
	dhcp6RelayForward        = 12
	dhcp6RelayReply          = 13

	Option6ClientID    = 1
	Option6ServerID    = 2
	Option6IANA        = 3
	Option6IATA        = 4
	Option6Request     = 6
	Option6DNSServers  = 23
	Option6IAPD        = 25
	Option6RefreshTime = 32
)

// MaxDUID is the length of the longest DUID with its type, in octets. See RFC 8415, Section 11.1.
const MaxDUID = 130

// DHCPv6Message is a message between client and server. See RFC 8415, Section 8.
type DHCPv6Message struct {
	Kind    byte
	ID      [3]byte
	Options []DHCPv6Option
}

// DHCPv6Option is one option. See RFC 8415, Section 21.1.
type DHCPv6Option struct {
	Code uint16
	Data []byte
}

// ErrRelayed says that a message is one between a relay and a server, which has another form.
var ErrRelayed = errors.New("link: DHCPv6 message of a relay")

// ParseDHCPv6 reads a message, whose options share memory with b. A message of a relay is ErrRelayed. Of one whose
// options are cut off, it returns the options before that, and ErrDHCPShort.
func ParseDHCPv6(b []byte) (DHCPv6Message, error) {
	if len(b) < 4 {
		return DHCPv6Message{}, fmt.Errorf("%w: %d octets", ErrDHCPShort, len(b))
	}
	m := DHCPv6Message{Kind: b[0], ID: [3]byte(b[1:])}
	if m.Kind == dhcp6RelayForward || m.Kind == dhcp6RelayReply {
		return DHCPv6Message{}, ErrRelayed
	}
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 || len(b)-4 < int(binary.BigEndian.Uint16(b[2:])) {
			return m, fmt.Errorf("%w: option with %d octets left", ErrDHCPShort, len(b))
		}
		end := 4 + int(binary.BigEndian.Uint16(b[2:]))
		m.Options = append(m.Options, DHCPv6Option{binary.BigEndian.Uint16(b), b[4:end:end]})
		b = b[end:]
	}
	return m, nil
}

// Append appends the message to b. It is the inverse of ParseDHCPv6.
func (m DHCPv6Message) Append(b []byte) []byte {
	b = append(append(b, m.Kind), m.ID[:]...)
	for _, o := range m.Options {
		b = binary.BigEndian.AppendUint16(b, o.Code)
		b = binary.BigEndian.AppendUint16(b, uint16(len(o.Data)))
		b = append(b, o.Data...)
	}
	return b
}

// Add adds an option.
func (m *DHCPv6Message) Add(code uint16, data []byte) {
	m.Options = append(m.Options, DHCPv6Option{code, data})
}

// Get returns the data of the first option with code, and whether there is one.
func (m DHCPv6Message) Get(code uint16) (data []byte, ok bool) {
	i := slices.IndexFunc(m.Options, func(o DHCPv6Option) bool { return o.Code == code })
	if i < 0 {
		return nil, false
	}
	return m.Options[i].Data, true
}

// Asks reports whether the client's Option Request option lists code. See RFC 8415, Section 21.7.
func (m DHCPv6Message) Asks(code uint16) bool {
	data, _ := m.Get(Option6Request)
	for ; len(data) >= 2; data = data[2:] {
		if binary.BigEndian.Uint16(data) == code {
			return true
		}
	}
	return false
}

// DUID returns the DUID of an interface, which is the same after a restart without being stored. See RFC 8415, Section
// 11.4.
func DUID(mac net.HardwareAddr) []byte {
	const linkLayer, ethernet = 3, 1
	return append([]byte{0, linkLayer, 0, ethernet}, mac...)
}

// Length returns how many octets m takes.
func (m DHCPv6Message) Length() int {
	n := 4
	for _, o := range m.Options {
		n += 4 + len(o.Data)
	}
	return n
}
