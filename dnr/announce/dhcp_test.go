package announce

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
	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// testAnnounce returns an Announcer that nothing runs, on a link that is ready.
func testAnnounce(t testing.TB, source func(Link) Content) (*Announcer, link.State) {
	t.Helper()
	cfg := Config{Interface: "lan0", DHCPv4: true, DHCPv6: true, Source: source}
	a, err := newAnnouncer(cfg, newFakeSystem(readyLink()).system())
	if err != nil {
		t.Fatal(err)
	}
	return a, readyLink()
}

func always(Link) Content { return announced() }

func TestDHCPv6Reply(t *testing.T) {
	duid, client := "0003000102"+"0000000001", "0003000102"+"0000000002"
	from := netip.AddrPortFrom(host6, 40000)
	with := func(change func(*link.DHCPv6Message)) []byte {
		m := informationRequest(dnr.OptionDHCPv6, link.Option6DNSServers)
		change(&m)
		return m.Append(nil)
	}
	options := func(codes ...uint16) []byte { m := informationRequest(codes...); return m.Append(nil) }
	global := netip.MustParseAddrPort("[2001:db8:1::2]:546")
	for name, test := range map[string]struct {
		from    netip.AddrPort
		to      netip.Addr
		request []byte
		codes   []uint16 // of the reply
		err     error
	}{
		"both":         {from, link.AllDHCPServers, options(144, 23), []uint16{2, 1, 144, 144, 23}, nil},
		"refresh-time": {from, link.AllDHCPServers, options(32, 144), []uint16{2, 1, 144, 144, 32}, nil},
		"only-servers": {from, link.AllDHCPServers, options(23, 24), []uint16{2, 1, 23}, nil},
		"others-only":  {from, link.AllDHCPServers, options(24, 32), nil, errNotAsked},
		"no-request":   {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Options = nil }), nil, errNotAsked},
		"anonymous": {
			from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Options = m.Options[1:] }),
			[]uint16{2, 144, 144, 23},
			nil,
		},
		"to-us": {
			from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Add(2, unhex(t, duid)) }),
			[]uint16{2, 1, 144, 144, 23},
			nil,
		},
		"opaque-duid": {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) {
			m.Options[0].Data = unhex(t, "0004 0102030405060708") // a UUID that is too short
		}), []uint16{2, 1, 144, 144, 23}, nil},
		"to-another":  {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Add(2, unhex(t, client)) }), nil, errNotForUs},
		"solicit":     {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Kind = 1 }), nil, errNotForUs},
		"request":     {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Kind = 3 }), nil, errNotForUs},
		"reply":       {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Kind = 7 }), nil, errNotForUs},
		"relayed":     {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Kind = 12 }), nil, errNotForUs},
		"for-address": {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Add(3, make([]byte, 12)) }), nil, link.ErrDHCPFormat},
		"long-duid":   {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Options[0].Data = make([]byte, 131) }), nil, link.ErrDHCPFormat},
		"odd-request": {from, link.AllDHCPServers, with(func(m *link.DHCPv6Message) { m.Options[1].Data = make([]byte, 3) }), nil, link.ErrDHCPFormat},
		"unicast":     {from, readyLink().LinkLocal, options(144), nil, errNotOnLink},
		"from-beyond": {global, link.AllDHCPServers, options(144), nil, errNotOnLink},
		"empty":       {from, link.AllDHCPServers, nil, nil, link.ErrDHCPShort},
		"cut-off":     {from, link.AllDHCPServers, options(144)[:9], nil, link.ErrDHCPShort},
		"length-lies": {from, link.AllDHCPServers, append(options(144), 0, 1, 0xff, 0xff, 1), nil, link.ErrDHCPShort},
	} {
		t.Run(name, func(t *testing.T) {
			a, l := testAnnounce(t, always)
			p, err := a.answerDHCPv6(link.Packet{Peer: test.from, To: test.to, Data: test.request}, l)
			if !errors.Is(err, test.err) {
				t.Fatalf("got error %v; want %v", err, test.err)
			}
			if err != nil {
				return
			}
			m, err := link.ParseDHCPv6(p.Data)
			if err != nil {
				t.Fatal(err)
			}
			var codes []uint16
			for _, o := range m.Options {
				codes = append(codes, o.Code)
			}
			if diff := cmp.Diff(test.codes, codes); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
			if p.Peer != netip.AddrPortFrom(host6, link.DHCPv6ClientPort) {
				t.Errorf("got a reply to %s; want the client's address and port", p.Peer)
			}
			if id, _ := m.Get(link.Option6ServerID); hex.EncodeToString(id) != duid {
				t.Errorf("got server %x; want %s", id, duid)
			}
			asked, _ := link.ParseDHCPv6(test.request)
			want, _ := asked.Get(link.Option6ClientID)
			if id, _ := m.Get(link.Option6ClientID); !bytes.Equal(id, want) {
				t.Errorf("got client %x; want %x", id, want)
			}
			if d, ok := m.Get(link.Option6RefreshTime); ok && binary.BigEndian.Uint32(d) != 1800 {
				t.Errorf("got refresh time %x; want 1800", d)
			}
		})
	}
}

func TestDHCPv4Reply(t *testing.T) {
	to := func(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), 68) }
	unspecified := to("0.0.0.0")
	with := func(change func(*link.DHCPv4Message)) []byte {
		m := inform(dnr.OptionDHCPv4, link.Option4DNSServers)
		change(&m)
		return m.Append(nil)
	}
	kind := func(n ...byte) []byte {
		return with(func(m *link.DHCPv4Message) {
			m.Options = append(dnr.AppendOption4(nil, link.Option4MessageType, n), 55, 2, 6, 162, 255)
		})
	}
	client := func(addr string) []byte {
		return with(func(m *link.DHCPv4Message) { m.Client = netip.MustParseAddr(addr).As4() })
	}
	for name, test := range map[string]struct {
		from    netip.AddrPort
		request []byte
		to      netip.AddrPort
		err     error
	}{
		"both":             {to("192.0.2.2"), inform(6, 162).Append(nil), to("192.0.2.2"), nil},
		"other-port":       {netip.MustParseAddrPort("192.0.2.2:4000"), inform(162).Append(nil), to("192.0.2.2"), nil},
		"only-servers":     {to("192.0.2.2"), inform(6, 15).Append(nil), to("192.0.2.2"), nil},
		"others-only":      {to("192.0.2.2"), inform(1, 3, 252).Append(nil), netip.AddrPort{}, errNotAsked},
		"without-source":   {unspecified, inform(162).Append(nil), to("192.0.2.2"), nil},
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
		"no-type":          {unspecified, kind(), netip.AddrPort{}, link.ErrDHCPFormat},
		"two-types":        {unspecified, kind(8, 8), netip.AddrPort{}, link.ErrDHCPFormat},
		"reply":            {unspecified, with(func(m *link.DHCPv4Message) { m.Op = link.BootReply }), netip.AddrPort{}, errNotForUs},
		"relayed":          {unspecified, with(func(m *link.DHCPv4Message) { m.Relay = [4]byte{192, 0, 2, 1} }), netip.AddrPort{}, errNotForUs},
		"to-another": {unspecified, with(func(m *link.DHCPv4Message) {
			m.Options = dnr.AppendOption4(m.Options[:len(m.Options)-1], 54, []byte{192, 0, 2, 9})
		}), netip.AddrPort{}, errNotForUs},
		"long-hardware":     {unspecified, with(func(m *link.DHCPv4Message) { m.HardwareLen = 17 }), netip.AddrPort{}, link.ErrDHCPFormat},
		"bootp":             {unspecified, make([]byte, 300), netip.AddrPort{}, link.ErrDHCPFormat},
		"cut-off":           {unspecified, inform(162).Append(nil)[:239], netip.AddrPort{}, link.ErrDHCPShort},
		"options-that-lies": {unspecified, with(func(m *link.DHCPv4Message) { m.Options = []byte{53, 200, 8} }), netip.AddrPort{}, link.ErrDHCPFormat},
	} {
		t.Run(name, func(t *testing.T) {
			a, l := testAnnounce(t, always)
			p, err := a.answerDHCPv4(link.Packet{Peer: test.from, Data: test.request}, l)
			if !errors.Is(err, test.err) {
				t.Fatalf("got error %v; want %v", err, test.err)
			}
			if err != nil {
				return
			}
			if p.Peer != test.to || len(p.Data) < link.DHCPv4Minimum {
				t.Errorf("got %d octets to %s; want %s", len(p.Data), p.Peer, test.to)
			}
			checkAck(t, test.request, p.Data)
		})
	}
}

// checkAck wants a DHCPACK to request without anything about leases.
func checkAck(t *testing.T, request, reply []byte) {
	t.Helper()
	asked, err := link.ParseDHCPv4(request)
	if err != nil {
		t.Fatal(err)
	}
	m, err := link.ParseDHCPv4(reply)
	if err != nil {
		t.Fatal(err)
	}
	if m.Your != [4]byte{} || m.Server != [4]byte{} || m.ID != asked.ID || m.Client != asked.Client || m.Address != asked.Address {
		t.Errorf("got %+v; want the request's fields and no address", m)
	}
	for code := 1; code < 255; code++ {
		_, there := m.Get(byte(code))
		want := code == link.Option4MessageType || code == link.Option4ServerID ||
			(code == dnr.OptionDHCPv4 || code == link.Option4DNSServers) && asked.Asks(byte(code))
		if there != want {
			t.Errorf("got option %d %t; want %t", code, there, want)
		}
	}
}

// TestDHCPv4Room announces more than fits, to clients that take more or less.
func TestDHCPv4Room(t *testing.T) {
	var an Content
	for i := range 20 {
		an.Resolvers = append(an.Resolvers, svcb.Resolver{
			Priority: uint16(i + 1), Name: "dns.isp.example.", Addresses: []netip.Addr{server4}, ALPN: []string{"dot"},
			Port: uint16(8000 + i),
		})
	}
	source := func(Link) Content { return an }
	for size, want := range map[int]int{0: 7, 100: 7, 576: 7, 1024: 18, 1500: 20, 65535: 20} {
		m := inform(dnr.OptionDHCPv4)
		if size != 0 {
			m.Options = dnr.AppendOption4(m.Options[:len(m.Options)-1], link.Option4MaxSize, binary.BigEndian.AppendUint16(nil, uint16(size)))
		}
		a, l := testAnnounce(t, source)
		p, err := a.answerDHCPv4(link.Packet{Peer: netip.AddrPortFrom(host4, 68), Data: m.Append(nil)}, l)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := link.ParseDHCPv4(p.Data)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := reply.Get(dnr.OptionDHCPv4)
		ins, err := dnr.DecodeDHCPv4(data)
		if limit := max(size, link.DHCPv4Maximum); err != nil || len(ins) != want || len(p.Data)+link.UDPHeaders > limit {
			t.Errorf("%d: got %d of 20 in %d octets, %v; want %d", size, len(ins), len(p.Data), err, want)
		}
	}
}

func TestDHCPv4EchoesClient(t *testing.T) {
	m := inform(dnr.OptionDHCPv4)
	m.Options = dnr.AppendOption4(m.Options[:len(m.Options)-1], link.Option4ClientID, []byte("client"))
	reply, err := informDHCPv4(m, server4, announced())
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := reply.Get(link.Option4ClientID); string(id) != "client" {
		t.Errorf("got client identifier %q; want it back", id)
	}
}

// TestLimiter wants each server to answer no more than replyRate requests in a second.
func TestLimiter(t *testing.T) {
	a, _ := testAnnounce(t, always)
	for _, answer := range []func(link.Packet, link.State) (link.Packet, error){a.answerDHCPv4, a.answerDHCPv6} {
		l := newDHCPServer(a, answer).limiter
		now := time.Unix(1e9, 0)
		count := func() (n int) {
			for range 10 * replyRate {
				if l.AllowN(now, 1) {
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
		now = now.Add(time.Hour)
		if got := count(); got != replyRate {
			t.Errorf("got %d after an hour; want %d", got, replyRate)
		}
	}
}

// FuzzDHCPv6Message reads what comes to port 547.
func FuzzDHCPv6Message(f *testing.F) {
	f.Add(informationRequest(dnr.OptionDHCPv6, link.Option6DNSServers, link.Option6RefreshTime).Append(nil))
	f.Add([]byte{12, 0, 1, 2})                               // of a relay
	f.Add([]byte{11, 0, 0, 0, 0, 6, 0xff, 0xff, 0})          // a length that lies
	f.Add(bytes.Repeat([]byte{11, 0, 0, 0, 0, 0, 0, 0}, 99)) // many options
	a, l := testAnnounce(f, always)
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := link.ParseDHCPv6(b); err == nil && !bytes.Equal(m.Append(nil), b) {
			t.Errorf("got %x after a round trip; want %x", m.Append(nil), b)
		}
		p, err := a.answerDHCPv6(link.Packet{Peer: netip.AddrPortFrom(host6, 546), To: link.AllDHCPServers, Data: b}, l)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "announce: ") && !strings.HasPrefix(err.Error(), "link: ") {
				t.Errorf("got error %v; want one of ours", err)
			}
			return
		}
		if m, err := link.ParseDHCPv6(p.Data); err != nil || m.Kind != link.DHCPv6Reply || [3]byte(b[1:]) != m.ID {
			t.Errorf("got %v, %v; want a reply", m, err)
		}
	})
}

// FuzzDHCPv4Message reads what comes to port 67.
func FuzzDHCPv4Message(f *testing.F) {
	f.Add(inform(dnr.OptionDHCPv4, link.Option4DNSServers).Append(nil), true)
	m := inform()
	m.Options = []byte{52, 1, 3, 255} // the rest is in file and sname
	copy(m.File[:], []byte{53, 1, 8, 255})
	copy(m.Sname[:], []byte{55, 1, 162, 255})
	f.Add(m.Append(nil), false)
	f.Add(make([]byte, 240), true) // no cookie
	a, l := testAnnounce(f, always)
	f.Fuzz(func(t *testing.T, b []byte, addressed bool) {
		if m, err := link.ParseDHCPv4(b); err == nil && !bytes.Equal(m.Append(nil), b) {
			t.Errorf("got %x after a round trip; want %x", m.Append(nil), b)
		}
		from := netip.AddrPortFrom(netip.IPv4Unspecified(), 68)
		if addressed {
			from = netip.AddrPortFrom(host4, 68)
		}
		p, err := a.answerDHCPv4(link.Packet{Peer: from, Data: b}, l)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "announce: ") && !strings.HasPrefix(err.Error(), "link: ") {
				t.Errorf("got error %v; want one of ours", err)
			}
			return
		}
		m, err := link.ParseDHCPv4(p.Data)
		if err != nil || m.Op != link.BootReply || m.Your != [4]byte{} {
			t.Errorf("got %v, %v; want a reply without address", m, err)
		}
		if broadcast := p.Peer.Addr() == netip.AddrFrom4([4]byte{255, 255, 255, 255}); !broadcast && !l.OnLink(p.Peer.Addr()) {
			t.Errorf("got a reply to %s; want none beyond the link", p.Peer)
		}
	})
}
