package survey

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// received returns what is made of one packet.
func received(t testing.TB, a requester, p link.IPPacket) Message {
	t.Helper()
	s := newSurveyor(a.link)
	s.requester = a
	s.take(p)
	if len(s.result.Messages) != 1 {
		t.Fatalf("got %d messages; want 1", len(s.result.Messages))
	}
	return s.result.Messages[0]
}

// TestReadRA goes through what can be wrong with a Router Advertisement around its options.
func TestReadRA(t *testing.T) {
	cut := advertisement(255, listenRouter, goodRA(t)[:16]) // its length says 56 octets
	short := link.IPPacket{Data: link.IPv6Packet(listenRouter, link.AllNodes, link.ProtocolICMPv6, 255, 2, []byte{134, 0, 0, 0, 0, 0, 0, 0})}
	wrongSum := advertisement(255, listenRouter, goodRA(t))
	wrongSum.Data[len(wrongSum.Data)-9] ^= 1
	offloaded := advertisement(255, listenRouter, goodRA(t))
	offloaded.Data[link.IPv6HeaderLength+2] ^= 1
	offloaded.Unsummed = true
	code := link.RouterAdvertisement{}.Append(nil)
	code[1] = 1
	fragment := link.RouterAdvertisement{}.Append(unhex(t, "3a 00 0000 00000001"))
	for name, row := range map[string]struct {
		p         link.IPPacket
		findings  string
		instances int
	}{
		"good":             {advertisement(255, listenRouter, goodRA(t)), "", 1},
		"two-options":      {advertisement(255, listenRouter, goodRA(t), goodRA(t)), "", 2},
		"hop-limit":        {advertisement(64, listenRouter, goodRA(t)), "error:hop-limit", 1},
		"source":           {advertisement(255, netip.MustParseAddr("2001:db8::1"), goodRA(t)), "error:source", 1},
		"cut-option":       {cut, "error:options", 0},
		"cut-behind-good":  {advertisement(255, listenRouter, goodRA(t), []byte{144, 9, 0, 0, 0, 0, 0, 0}), "error:options", 1},
		"length-zero":      {advertisement(255, listenRouter, make([]byte, 8)), "error:options", 0},
		"odd-octets":       {advertisement(255, listenRouter, goodRA(t), []byte{1}), "error:options", 1},
		"short":            {short, "error:message", 0},
		"checksum":         {wrongSum, "error:checksum", 1},
		"checksum-to-come": {offloaded, "", 1},
		"code":             {link.IPPacket{Data: link.IPv6Packet(listenRouter, link.AllNodes, link.ProtocolICMPv6, 255, 2, code)}, "error:message", 0},
		"fragment-header": {
			link.IPPacket{Data: link.IPv6Packet(listenRouter, link.AllNodes, link.ProtocolFragment, 255, 10, fragment), Unsummed: true},
			"error:fragment", 0,
		},
		"longest-option": {advertisement(255, listenRouter, longestRA(t)), "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := received(t, newRequester(listenLink), row.p)
			if codes(h.Findings) != row.findings || len(h.Instances) != row.instances || h.By != dnr.RA {
				t.Errorf("got [%s], %d instances by %s; want [%s], %d", codes(h.Findings), len(h.Instances), h.By, row.findings,
					row.instances)
			}
			if (h.Err() == nil) != (row.findings == "") {
				t.Errorf("got %v; want an error if there is a finding", h.Err())
			}
		})
	}
}

// longestRA returns an option of 2,040 octets.
func longestRA(t testing.TB) []byte {
	b := append(unhex(t, "90 ff 0001 00000708 000d"+adnHex+"0010 20010db8000000000000000000000053"), 0, 0)
	at := len(b)
	b = append(b, unhex(t, "0001 0004 03646f74 ff00")...)
	b = binary.BigEndian.AppendUint16(b, uint16(255*8-len(b)-2))
	b = append(b, make([]byte, 255*8-len(b))...)
	binary.BigEndian.PutUint16(b[at-2:], uint16(255*8-at))
	return b
}

func TestReadRAOptions(t *testing.T) {
	h := received(t, newRequester(listenLink), advertisement(255, listenRouter,
		unhex(t, "19 03 0000 00000708 20010db8000000000000000000000053"),
		unhex(t, "07 01 0000 000927c0"), // 600 s
	))
	if h.Interval != 10*time.Minute || len(h.Resolvers) != 1 || h.Resolvers[0] != netip.MustParseAddr("2001:db8::53") {
		t.Errorf("got interval %s, resolvers %s", h.Interval, h.Resolvers)
	}
}

// TestReadDHCP goes through what can be wrong with messages of DHCP around the option. -1 instances means that it is no
// message for us.
func TestReadDHCP(t *testing.T) {
	a := newRequester(listenLink)
	data6 := unhex(t, "0001 000d"+adnHex+"0010 20010db8000000000000000000000053 0001 0004 03646f74")
	data4 := unhex(t, "001d 0001 0d"+adnHex+"04 c0000235 0001 0004 03646f74")
	cut6 := reply6(a, func(m *link.DHCPv6Message) { m.Add(dnr.OptionDHCPv6, data6) })
	binary.BigEndian.PutUint16(cut6.Data[len(cut6.Data)-len(data6)-2:], 60000)
	cut6.Unsummed = true
	fragment4 := reply4(a, func(m *link.DHCPv4Message) { m.Options = dnr.AppendOption4(m.Options, 162, data4) })
	fragment4.Data[6], fragment4.Data[7] = 0x20, 0 // more fragments follow, instead of "don't fragment"
	fragment4.Data[10] += 0x20                     // which changes the checksum of the header by as much
	for name, row := range map[string]struct {
		p         link.IPPacket
		findings  string
		instances int
	}{
		"v6-good": {reply6(a, func(m *link.DHCPv6Message) { m.Add(dnr.OptionDHCPv6, data6); m.Add(dnr.OptionDHCPv6, data6) }), "", 2},
		"v6-none": {reply6(a, func(*link.DHCPv6Message) {}), "", 0},
		"v6-other-transaction": {
			reply6(a, func(m *link.DHCPv6Message) { m.ID[0]++ }), "", -1,
		},
		"v6-advertise":    {reply6(a, func(m *link.DHCPv6Message) { m.Kind = 2 }), "", -1},
		"v6-no-server-id": {reply6(a, func(m *link.DHCPv6Message) { m.Options = m.Options[1:] }), "error:server-id", 0},
		"v6-other-client": {reply6(a, func(m *link.DHCPv6Message) { m.Options[1].Data = []byte{1} }), "error:client-id", 0},
		"v6-cut":          {cut6, "error:options", 0},
		"v6-malformed-other-option": {
			reply6(a, func(m *link.DHCPv6Message) {
				m.Add(24, []byte{5, 'a'}) // a search list that is cut off
				m.Add(dnr.OptionDHCPv6, data6)
			}), "", 1,
		},
		"v4-good":              {reply4(a, func(m *link.DHCPv4Message) { m.Options = dnr.AppendOption4(m.Options, 162, data4) }), "", 1},
		"v4-none":              {reply4(a, func(*link.DHCPv4Message) {}), "", 0},
		"v4-empty":             {reply4(a, func(m *link.DHCPv4Message) { m.Options = append(m.Options, 162, 0) }), "", 1},
		"v4-other-transaction": {reply4(a, func(m *link.DHCPv4Message) { m.ID[0]++ }), "", -1},
		"v4-other-client":      {reply4(a, func(m *link.DHCPv4Message) { m.Address[5]++ }), "", -1},
		"v4-request":           {reply4(a, func(m *link.DHCPv4Message) { m.Op = link.BootRequest }), "", -1},
		"v4-nak":               {reply4(a, func(m *link.DHCPv4Message) { m.Options[2] = 6 }), "", -1},
		"v4-no-server-id":      {reply4(a, func(m *link.DHCPv4Message) { m.Options = m.Options[:3] }), "error:server-id", 0},
		"v4-cut":               {reply4(a, func(m *link.DHCPv4Message) { m.Options = append(m.Options, 162, 200, 1) }), "error:options", 0},
		"v4-cut-length":        {reply4(a, func(m *link.DHCPv4Message) { m.Options = append(m.Options, 162) }), "error:options", 0},
		"v4-fragment":          {fragment4, "warning:fragment", 1},
		"v4-split": {
			reply4(a, func(m *link.DHCPv4Message) {
				m.Options = dnr.AppendOption4(dnr.AppendOption4(m.Options, 162, data4[:9]), 162, data4[9:])
			}), "", 1,
		},
		"v4-overload": {
			reply4(a, func(m *link.DHCPv4Message) {
				m.Options = append(m.Options, 52, 1, 1, dnr.Option4End)
				copy(m.File[:], append(dnr.AppendOption4(nil, 162, data4), dnr.Option4End))
			}), "", 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSurveyor(listenLink)
			s.requester = a
			s.take(row.p)
			if row.instances < 0 {
				if len(s.result.Messages) != 0 {
					t.Errorf("got %+v; want nothing", s.result.Messages)
				}
				return
			}
			if len(s.result.Messages) != 1 {
				t.Fatalf("got %d messages; want 1", len(s.result.Messages))
			}
			if h := s.result.Messages[0]; codes(h.Findings) != row.findings || len(h.Instances) != row.instances {
				t.Errorf("got [%s], %d instances; want [%s], %d", codes(h.Findings), len(h.Instances), row.findings, row.instances)
			}
		})
	}
}
