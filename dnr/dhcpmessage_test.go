package dnr

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// testAnnounce returns an Announcer that nothing runs, on a link that is ready.
func testAnnounce(t testing.TB, source func(Link) Announcement) (*Announcer, linkState) {
	t.Helper()
	cfg := AnnounceConfig{Interface: "lan0", DHCPv4: true, DHCPv6: true, Source: source}
	a, err := newAnnouncer(cfg, newFakeSystem(readyLink()).system())
	if err != nil {
		t.Fatal(err)
	}
	return a, readyLink()
}

func always(Link) Announcement { return announced() }

func TestDHCPv6Reply(t *testing.T) {
	duid, client := "0003000102"+"0000000001", "0003000102"+"0000000002"
	from := netip.AddrPortFrom(host6, 40000)
	with := func(change func(*dhcp6Message)) []byte {
		m := informationRequest(OptionDHCPv6, option6DNSServers)
		change(&m)
		return m.append(nil)
	}
	options := func(codes ...uint16) []byte { m := informationRequest(codes...); return m.append(nil) }
	global := netip.MustParseAddrPort("[2001:db8:1::2]:546")
	for name, test := range map[string]struct {
		from    netip.AddrPort
		to      netip.Addr
		request []byte
		codes   []uint16 // of the reply
		err     error
	}{
		"both":         {from, allDHCPServers, options(144, 23), []uint16{2, 1, 144, 144, 23}, nil},
		"refresh-time": {from, allDHCPServers, options(32, 144), []uint16{2, 1, 144, 144, 32}, nil},
		"only-servers": {from, allDHCPServers, options(23, 24), []uint16{2, 1, 23}, nil},
		"others-only":  {from, allDHCPServers, options(24, 32), nil, errNotAsked},
		"no-request":   {from, allDHCPServers, with(func(m *dhcp6Message) { m.options = nil }), nil, errNotAsked},
		"anonymous": {from, allDHCPServers, with(func(m *dhcp6Message) { m.options = m.options[1:] }),
			[]uint16{2, 144, 144, 23}, nil},
		"to-us": {from, allDHCPServers, with(func(m *dhcp6Message) { m.add(2, unhex(t, duid)) }),
			[]uint16{2, 1, 144, 144, 23}, nil},
		"to-another":  {from, allDHCPServers, with(func(m *dhcp6Message) { m.add(2, unhex(t, client)) }), nil, errNotForUs},
		"solicit":     {from, allDHCPServers, with(func(m *dhcp6Message) { m.kind = 1 }), nil, errNotForUs},
		"request":     {from, allDHCPServers, with(func(m *dhcp6Message) { m.kind = 3 }), nil, errNotForUs},
		"reply":       {from, allDHCPServers, with(func(m *dhcp6Message) { m.kind = 7 }), nil, errNotForUs},
		"relayed":     {from, allDHCPServers, with(func(m *dhcp6Message) { m.kind = 12 }), nil, errNotForUs},
		"for-address": {from, allDHCPServers, with(func(m *dhcp6Message) { m.add(3, make([]byte, 12)) }), nil, errDHCPFormat},
		"long-duid":   {from, allDHCPServers, with(func(m *dhcp6Message) { m.options[0].data = make([]byte, 131) }), nil, errDHCPFormat},
		"odd-request": {from, allDHCPServers, with(func(m *dhcp6Message) { m.options[1].data = make([]byte, 3) }), nil, errDHCPFormat},
		"unicast":     {from, readyLink().linkLocal, options(144), nil, errNotOnLink},
		"from-beyond": {global, allDHCPServers, options(144), nil, errNotOnLink},
		"empty":       {from, allDHCPServers, nil, nil, errDHCPShort},
		"cut-off":     {from, allDHCPServers, options(144)[:9], nil, errDHCPShort},
		"length-lies": {from, allDHCPServers, append(options(144), 0, 1, 0xff, 0xff, 1), nil, errDHCPShort},
	} {
		t.Run(name, func(t *testing.T) {
			a, l := testAnnounce(t, always)
			p, err := a.answerDHCPv6(packet{peer: test.from, to: test.to, data: test.request}, l)
			if !errors.Is(err, test.err) {
				t.Fatalf("got error %v; want %v", err, test.err)
			}
			if err != nil {
				return
			}
			m, err := parseDHCPv6(p.data)
			if err != nil {
				t.Fatal(err)
			}
			var codes []uint16
			for _, o := range m.options {
				codes = append(codes, o.code)
			}
			if diff := cmp.Diff(test.codes, codes); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
			if p.peer != netip.AddrPortFrom(host6, dhcp6ClientPort) {
				t.Errorf("got a reply to %s; want the client's address and port", p.peer)
			}
			if id, _ := m.get(option6ServerID); hex.EncodeToString(id) != duid {
				t.Errorf("got server %x; want %s", id, duid)
			}
			if id, ok := m.get(option6ClientID); ok && hex.EncodeToString(id) != client {
				t.Errorf("got client %x; want %s", id, client)
			}
			if d, ok := m.get(option6RefreshTime); ok && binary.BigEndian.Uint32(d) != 1800 {
				t.Errorf("got refresh time %x; want 1800", d)
			}
		})
	}
}

func TestDHCPv4Reply(t *testing.T) {
	to := func(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), 68) }
	unspecified := to("0.0.0.0")
	with := func(change func(*dhcp4Message)) []byte {
		m := inform(OptionDHCPv4, option4DNSServers)
		change(&m)
		return m.append(nil)
	}
	kind := func(n ...byte) []byte {
		return with(func(m *dhcp4Message) {
			m.options = append(AppendOption4(nil, option4MessageType, n), 55, 2, 6, 162, 255)
		})
	}
	client := func(addr string) []byte {
		return with(func(m *dhcp4Message) { m.client = netip.MustParseAddr(addr).As4() })
	}
	for name, test := range map[string]struct {
		from    netip.AddrPort
		request []byte
		to      netip.AddrPort
		err     error
	}{
		"both":             {to("192.0.2.2"), inform(6, 162).append(nil), to("192.0.2.2"), nil},
		"other-port":       {netip.MustParseAddrPort("192.0.2.2:4000"), inform(162).append(nil), to("192.0.2.2"), nil},
		"only-servers":     {to("192.0.2.2"), inform(6, 15).append(nil), to("192.0.2.2"), nil},
		"others-only":      {to("192.0.2.2"), inform(1, 3, 252).append(nil), netip.AddrPort{}, errNotAsked},
		"without-source":   {unspecified, inform(162).append(nil), to("192.0.2.2"), nil},
		"without-ciaddr":   {to("192.0.2.2"), client("0.0.0.0"), to("192.0.2.2"), nil},
		"without-either":   {unspecified, client("0.0.0.0"), to("255.255.255.255"), nil},
		"somebody-else":    {to("192.0.2.2"), client("192.0.2.3"), netip.AddrPort{}, errNotOnLink},
		"from-beyond":      {to("198.51.100.2"), client("198.51.100.2"), netip.AddrPort{}, errNotOnLink},
		"claims-beyond":    {unspecified, client("198.51.100.2"), netip.AddrPort{}, errNotOnLink},
		"claims-us":        {unspecified, client("192.0.2.53"), netip.AddrPort{}, errNotOnLink},
		"claims-multicast": {unspecified, client("224.0.0.1"), netip.AddrPort{}, errNotOnLink},
		"discover":         {unspecified, kind(1), netip.AddrPort{}, errNotForUs},
		"request":          {unspecified, kind(3), netip.AddrPort{}, errNotForUs},
		"ack":              {unspecified, kind(5), netip.AddrPort{}, errNotForUs},
		"no-type":          {unspecified, kind(), netip.AddrPort{}, errDHCPFormat},
		"two-types":        {unspecified, kind(8, 8), netip.AddrPort{}, errDHCPFormat},
		"reply":            {unspecified, with(func(m *dhcp4Message) { m.op = bootReply }), netip.AddrPort{}, errNotForUs},
		"relayed":          {unspecified, with(func(m *dhcp4Message) { m.relay = [4]byte{192, 0, 2, 1} }), netip.AddrPort{}, errNotForUs},
		"to-another": {unspecified, with(func(m *dhcp4Message) {
			m.options = AppendOption4(m.options[:len(m.options)-1], 54, []byte{192, 0, 2, 9})
		}), netip.AddrPort{}, errNotForUs},
		"long-hardware":     {unspecified, with(func(m *dhcp4Message) { m.hardwareLen = 17 }), netip.AddrPort{}, errDHCPFormat},
		"bootp":             {unspecified, make([]byte, 300), netip.AddrPort{}, errDHCPFormat},
		"cut-off":           {unspecified, inform(162).append(nil)[:239], netip.AddrPort{}, errDHCPShort},
		"options-that-lies": {unspecified, with(func(m *dhcp4Message) { m.options = []byte{53, 200, 8} }), netip.AddrPort{}, errDHCPFormat},
	} {
		t.Run(name, func(t *testing.T) {
			a, l := testAnnounce(t, always)
			p, err := a.answerDHCPv4(packet{peer: test.from, data: test.request}, l)
			if !errors.Is(err, test.err) {
				t.Fatalf("got error %v; want %v", err, test.err)
			}
			if err != nil {
				return
			}
			if p.peer != test.to || len(p.data) < dhcp4Minimum {
				t.Errorf("got %d octets to %s; want %s", len(p.data), p.peer, test.to)
			}
			checkAck(t, test.request, p.data)
		})
	}
}

// checkAck wants a DHCPACK to request without anything about leases.
func checkAck(t *testing.T, request, reply []byte) {
	t.Helper()
	asked, err := parseDHCPv4(request)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseDHCPv4(reply)
	if err != nil {
		t.Fatal(err)
	}
	if m.your != [4]byte{} || m.server != [4]byte{} || m.id != asked.id || m.client != asked.client || m.address != asked.address {
		t.Errorf("got %+v; want the request's fields and no address", m)
	}
	for code := 1; code < 255; code++ {
		_, there := m.get(byte(code))
		want := code == option4MessageType || code == option4ServerID ||
			(code == OptionDHCPv4 || code == option4DNSServers) && asked.asks(byte(code))
		if there != want {
			t.Errorf("got option %d %t; want %t", code, there, want)
		}
	}
}

// TestDHCPv4Room announces more than fits, to clients that take more or less.
func TestDHCPv4Room(t *testing.T) {
	var an Announcement
	for i := range 20 {
		an.Resolvers = append(an.Resolvers, svcb.Resolver{
			Priority: uint16(i + 1), Name: "dns.isp.example.", Addresses: []netip.Addr{server4}, ALPN: []string{"dot"},
			Port: uint16(8000 + i),
		})
	}
	source := func(Link) Announcement { return an }
	for size, want := range map[int]int{0: 7, 100: 7, 576: 7, 1024: 18, 1500: 20, 65535: 20} {
		m := inform(OptionDHCPv4)
		if size != 0 {
			m.options = AppendOption4(m.options[:len(m.options)-1], option4MaxSize, binary.BigEndian.AppendUint16(nil, uint16(size)))
		}
		a, l := testAnnounce(t, source)
		p, err := a.answerDHCPv4(packet{peer: netip.AddrPortFrom(host4, 68), data: m.append(nil)}, l)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := parseDHCPv4(p.data)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := reply.get(OptionDHCPv4)
		ins, err := DecodeDHCPv4(data)
		if limit := max(size, dhcp4Maximum); err != nil || len(ins) != want || len(p.data)+udpHeaders > limit {
			t.Errorf("%d: got %d of 20 in %d octets, %v; want %d", size, len(ins), len(p.data), err, want)
		}
	}
}

func TestDHCPv4EchoesClient(t *testing.T) {
	m := inform(OptionDHCPv4)
	m.options = AppendOption4(m.options[:len(m.options)-1], option4ClientID, []byte("client"))
	reply, err := informDHCPv4(m, server4, announced())
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := reply.get(option4ClientID); string(id) != "client" {
		t.Errorf("got client identifier %q; want it back", id)
	}
}

func TestLimiter(t *testing.T) {
	var l limiter
	now := time.Unix(1e9, 0)
	count := func() (n int) {
		for range 10 * replyRate {
			if l.allow(now) {
				n++
			}
		}
		return n
	}
	if got := count(); got != replyRate {
		t.Errorf("got %d at once; want %d", got, replyRate)
	}
	now = now.Add(time.Second / 2)
	if got := count(); got != replyRate/2 {
		t.Errorf("got %d after half a second; want %d", got, replyRate/2)
	}
	now = now.Add(-time.Hour)
	if got := count(); got != 0 {
		t.Errorf("got %d when the clock went back; want none", got)
	}
	now = now.Add(2 * time.Hour)
	if got := count(); got != replyRate {
		t.Errorf("got %d after an hour; want %d", got, replyRate)
	}
}

// FuzzDHCPv6Message reads what comes to port 547.
func FuzzDHCPv6Message(f *testing.F) {
	f.Add(informationRequest(OptionDHCPv6, option6DNSServers, option6RefreshTime).append(nil))
	f.Add([]byte{12, 0, 1, 2})                               // of a relay
	f.Add([]byte{11, 0, 0, 0, 0, 6, 0xff, 0xff, 0})          // a length that lies
	f.Add(bytes.Repeat([]byte{11, 0, 0, 0, 0, 0, 0, 0}, 99)) // many options
	a, l := testAnnounce(f, always)
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseDHCPv6(b); err == nil && !bytes.Equal(m.append(nil), b) {
			t.Errorf("got %x after a round trip; want %x", m.append(nil), b)
		}
		p, err := a.answerDHCPv6(packet{peer: netip.AddrPortFrom(host6, 546), to: allDHCPServers, data: b}, l)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "dnr: ") {
				t.Errorf("got error %v; want one of ours", err)
			}
			return
		}
		if m, err := parseDHCPv6(p.data); err != nil || m.kind != dhcp6Reply || [3]byte(b[1:]) != m.id {
			t.Errorf("got %v, %v; want a reply", m, err)
		}
	})
}

// FuzzDHCPv4Message reads what comes to port 67.
func FuzzDHCPv4Message(f *testing.F) {
	f.Add(inform(OptionDHCPv4, option4DNSServers).append(nil), true)
	m := inform()
	m.options = []byte{52, 1, 3, 255} // the rest is in file and sname
	copy(m.file[:], []byte{53, 1, 8, 255})
	copy(m.sname[:], []byte{55, 1, 162, 255})
	f.Add(m.append(nil), false)
	f.Add(make([]byte, 240), true) // no cookie
	a, l := testAnnounce(f, always)
	f.Fuzz(func(t *testing.T, b []byte, addressed bool) {
		if m, err := parseDHCPv4(b); err == nil && !bytes.Equal(m.append(nil), b) {
			t.Errorf("got %x after a round trip; want %x", m.append(nil), b)
		}
		from := netip.AddrPortFrom(netip.IPv4Unspecified(), 68)
		if addressed {
			from = netip.AddrPortFrom(host4, 68)
		}
		p, err := a.answerDHCPv4(packet{peer: from, data: b}, l)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "dnr: ") {
				t.Errorf("got error %v; want one of ours", err)
			}
			return
		}
		m, err := parseDHCPv4(p.data)
		if err != nil || m.op != bootReply || m.your != [4]byte{} {
			t.Errorf("got %v, %v; want a reply without address", m, err)
		}
		if broadcast := p.peer.Addr() == netip.AddrFrom4([4]byte{255, 255, 255, 255}); !broadcast && !l.onLink(p.peer.Addr()) {
			t.Errorf("got a reply to %s; want none beyond the link", p.peer)
		}
	})
}
