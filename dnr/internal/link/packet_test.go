package link

import (
	"bytes"
	"net/netip"
	"testing"
)

// TestParsePacket has packets that no host takes, and some that it does.
func TestParsePacket(t *testing.T) {
	dhcp := UDPMessage(67, 68, []byte("data"))
	v4 := func(change func([]byte) []byte) IPPacket {
		to := netip.AddrFrom4([4]byte{255, 255, 255, 255})
		return IPPacket{Data: change(IPv4Packet(testServer, to, ProtocolUDP, 64, UDPSumAt, bytes.Clone(dhcp)))}
	}
	resum := func(b []byte) []byte {
		copy(b[10:], []byte{0, 0})
		putSum(b[10:], sum(0, b[:20]))
		return b
	}
	v6 := func(next byte, message string) IPPacket {
		return IPPacket{
			Data: IPv6Packet(testRouter, AllNodes, next, 255, 0, append([]byte{0, 0}, unhex(t, message)...)), Unsummed: true,
		}
	}
	same := func(b []byte) []byte { return b }
	for name, row := range map[string]struct {
		p        IPPacket
		ok       bool
		findings string
	}{
		"good":                  {v4(same), true, ""},
		"ethernet-padding":      {v4(func(b []byte) []byte { return append(b, 0, 0, 0) }), true, ""},
		"empty":                 {IPPacket{}, false, ""},
		"version-5":             {IPPacket{Data: []byte{0x50}}, false, ""},
		"v4-short":              {v4(func(b []byte) []byte { return b[:19] }), false, ""},
		"v4-header-of-4":        {v4(func(b []byte) []byte { b[0] = 0x41; return resum(b) }), false, ""},
		"v4-header-too-long":    {v4(func(b []byte) []byte { b[0] = 0x4f; return resum(b) }), false, ""},
		"v4-header-checksum":    {v4(func(b []byte) []byte { b[8]--; return b }), false, ""},
		"v4-total-too-long":     {v4(func(b []byte) []byte { b[3]++; return resum(b) }), false, ""},
		"v4-later-fragment":     {v4(func(b []byte) []byte { b[7] = 1; return resum(b) }), false, ""},
		"v4-first-fragment":     {v4(func(b []byte) []byte { b[6] = 0x20; return resum(b) }), true, "partial"},
		"udp-checksum":          {v4(func(b []byte) []byte { b[29] ^= 1; return b }), true, "checksum"},
		"udp-without-checksum":  {v4(func(b []byte) []byte { b[26], b[27], b[29] = 0, 0, 7; return b }), true, ""},
		"udp-length-too-long":   {v4(func(b []byte) []byte { b[25]++; return b }), false, ""},
		"udp-length-of-7":       {v4(func(b []byte) []byte { b[25] = 7; return b }), false, ""},
		"v6-short":              {IPPacket{Data: make([]byte, 39)}, false, ""},
		"v6-no-next-header":     {v6(59, ""), false, ""},
		"v6-extension-cut":      {v6(protocolHopByHop, "0000"), false, ""},
		"v6-extension-too-long": {v6(protocolDestination, "ff 00 00000000"), false, ""},
		"v6-endless-extensions": {
			IPPacket{Data: IPv6Packet(testRouter, AllNodes, 0, 255, 4, make([]byte, 8*(maxExtensions+2)))}, false, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, ok := ParsePacket(row.p)
			got := map[[2]bool]string{{true, false}: "partial", {false, true}: "checksum", {true, true}: "both"}[[2]bool{d.Partial, d.BadSum}]
			if ok != row.ok || ok && got != row.findings {
				t.Errorf("got %t, [%s]; want %t, [%s]", ok, got, row.ok, row.findings)
			}
		})
	}
}
