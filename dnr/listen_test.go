package dnr

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	listenMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	listenLink = linkState{
		name: "link0", index: 2, up: true, carrier: true, mtu: 1500, mac: listenMAC,
		linkLocal: netip.MustParseAddr("fe80::2"),
		addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
	}
	bareLink = linkState{name: "link0", index: 2, up: true, carrier: true, mtu: 1500, mac: listenMAC}

	listenRouter = netip.MustParseAddr("fe80::1")
	listenServer = netip.MustParseAddr("192.0.2.1")
)

// fakeLink is a link on which a test hears and says packets.
type fakeLink struct {
	t      *testing.T
	start  time.Time
	sent   []string // what was asked, with the time after the start
	in     chan ipPacket
	closed chan struct{}
	broken error // of send
}

func newFakeLink(t *testing.T) *fakeLink {
	return &fakeLink{t: t, start: time.Now(), in: make(chan ipPacket, 1000), closed: make(chan struct{})}
}

var errFakeClosed = errors.New("closed")

func (f *fakeLink) receive() (ipPacket, error) {
	select {
	case p := <-f.in:
		return p, nil
	case <-f.closed:
		return ipPacket{}, errFakeClosed
	}
}

func (f *fakeLink) send(data []byte) error {
	if f.broken != nil {
		return f.broken
	}
	f.sent = append(f.sent, fmt.Sprintf("%v %s", time.Since(f.start), f.describe(data)))
	return nil
}

func (f *fakeLink) Close() error { close(f.closed); return nil }

// describe names a question, which must be one that a server would take.
func (f *fakeLink) describe(data []byte) string {
	d, ok := parsePacket(ipPacket{data: data})
	if !ok || len(d.findings.list) > 0 {
		f.t.Errorf("sent %x, which is no packet: %v", data, d.findings.list)
		return ""
	}
	switch {
	case d.protocol == protocolICMPv6:
		p := packet{peer: netip.AddrPortFrom(d.from, 0), to: d.to, hops: d.hops, data: d.data}
		if err := checkSolicitation(p); err != nil {
			f.t.Errorf("solicitation: %v", err)
		}
		return "solicitation"
	case d.v6:
		m, err := parseDHCPv6(d.data)
		if err = errors.Join(err, m.checkInformation(nil)); err != nil || !m.asks(OptionDHCPv6) || !m.asks(option6DNSServers) {
			f.t.Errorf("Information-request %+v: %v", m, err)
		}
		return "information-request"
	}
	m, err := parseDHCPv4(d.data)
	if err != nil || !m.asks(OptionDHCPv4) || m.op != bootRequest {
		f.t.Errorf("DHCPv4 %+v: %v", m, err)
	}
	kind, _ := m.get(option4MessageType)
	return map[byte]string{dhcp4Discover: "discover", dhcp4Inform: "inform"}[kind[0]] + " from " + d.from.String()
}

// advertisement returns a packet with a Router Advertisement.
func advertisement(hops byte, from netip.Addr, options ...[]byte) ipPacket {
	var message []byte
	message = routerAdvertisement{}.append(message)
	for _, o := range options {
		message = append(message, o...)
	}
	return ipPacket{data: ipv6Packet(from, allNodes, protocolICMPv6, hops, 2, message)}
}

func goodRA(t testing.TB) []byte {
	t.Helper()
	return unhex(t, "90 07 0001 00000708 000d"+adnHex+"0010 20010db8000000000000000000000053 0008 0001 0004 03646f74 0000000000")
}

// reply6 returns a packet with a reply to a's request, changed by f.
func reply6(a asker, f func(*dhcp6Message)) ipPacket {
	m := dhcp6Message{kind: dhcp6Reply, id: a.id6}
	m.add(option6ServerID, []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 1})
	m.add(option6ClientID, linkDUID(listenMAC))
	f(&m)
	message := udpMessage(dhcp6ServerPort, dhcp6ClientPort, m.append(nil))
	return ipPacket{data: ipv6Packet(listenRouter, a.link.linkLocal, protocolUDP, 64, udpSumAt, message)}
}

// reply4 does so for DHCPv4.
func reply4(a asker, f func(*dhcp4Message)) ipPacket {
	m := dhcp4Message{op: bootReply, hardware: 1, hardwareLen: 6, id: a.id4}
	copy(m.address[:], listenMAC)
	m.options = []byte{option4MessageType, 1, dhcp4Offer, option4ServerID, 4, 192, 0, 2, 1}
	f(&m)
	message := udpMessage(dhcp4ServerPort, dhcp4ClientPort, m.append(nil))
	to := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return ipPacket{data: ipv4Packet(listenServer, to, protocolUDP, 64, udpSumAt, message)}
}

// TestListenAsks wants the right questions at the right times, and an end after the window.
func TestListenAsks(t *testing.T) {
	for name, row := range map[string]struct {
		link    linkState
		window  time.Duration
		answers func(a asker) []ipPacket
		want    []string
		unasked []string
	}{
		"nobody-answers": {
			listenLink, DefaultWindow, nil,
			[]string{
				"0s solicitation", "0s information-request", "0s inform from 192.0.2.2", "1s information-request",
				"2s discover from 0.0.0.0", "3s information-request", "4s solicitation",
			}, nil,
		},
		"all-answer": {
			listenLink, DefaultWindow, func(a asker) []ipPacket {
				return []ipPacket{
					advertisement(255, listenRouter), reply6(a, func(*dhcp6Message) {}), reply4(a, func(*dhcp4Message) {}),
				}
			},
			[]string{"0s solicitation", "0s information-request", "0s inform from 192.0.2.2"}, nil,
		},
		"short": {
			listenLink, 500 * time.Millisecond, nil,
			[]string{"0s solicitation", "0s information-request", "0s inform from 192.0.2.2"}, nil,
		},
		"long": {
			listenLink, time.Minute, func(a asker) []ipPacket { return []ipPacket{reply4(a, func(*dhcp4Message) {})} },
			[]string{
				"0s solicitation", "0s information-request", "0s inform from 192.0.2.2", "1s information-request",
				"3s information-request", "4s solicitation",
			}, nil,
		},
		"no-address": {
			bareLink, time.Second / 2, nil,
			[]string{"0s solicitation", "0s discover from 0.0.0.0"}, []string{"dhcpv6: the interface has no link-local address"},
		},
		"no-ethernet": {
			linkState{name: "tun0", linkLocal: listenLink.linkLocal}, time.Second / 2, nil,
			[]string{"0s solicitation", "0s information-request"}, []string{"dhcpv4: the interface has no Ethernet address"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := newFakeLink(t), newSurveyor(row.link)
				if row.answers != nil {
					for _, p := range row.answers(s.asker) {
						f.in <- p
					}
				}
				got, err := s.run(t.Context(), f, row.window)
				if err != nil {
					t.Fatal(err)
				}
				if passed := time.Since(f.start); passed != row.window {
					t.Errorf("took %v; want %v", passed, row.window)
				}
				if diff := cmp.Diff(row.want, f.sent); diff != "" {
					t.Errorf("questions: -want +got:\n%s", diff)
				}
				if diff := cmp.Diff(row.unasked, got.Unasked); diff != "" {
					t.Errorf("unasked: -want +got:\n%s", diff)
				}
			})
		})
	}
}

// TestListenCollects wants every message once, and what comes late as well.
func TestListenCollects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFakeLink(t), newSurveyor(listenLink)
		go func() {
			for range 3 {
				f.in <- advertisement(255, listenRouter, goodRA(t))
			}
			<-time.After(4999 * time.Millisecond)
			f.in <- advertisement(255, netip.MustParseAddr("fe80::3"), goodRA(t))
			<-time.After(2 * time.Millisecond)
			f.in <- advertisement(255, netip.MustParseAddr("fe80::4"), goodRA(t)) // too late
		}()
		got, err := s.run(t.Context(), f, DefaultWindow)
		if err != nil || len(got.Heard) != 2 || got.Heard[0].Copies != 3 || got.Heard[1].Copies != 1 {
			t.Errorf("got %+v, %v; want two messages, the first three times", got.Heard, err)
		}
		<-time.After(time.Second) // until what came too late was said
	})
}

// TestListenIsBounded floods a survey.
func TestListenIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFakeLink(t), newSurveyor(listenLink)
		go func() {
			for i := range 1000 {
				from := netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(i >> 8), 15: byte(i)})
				f.in <- advertisement(255, from, slices.Repeat([][]byte{goodRA(t)}, 20)...)
			}
			// One with thousands of options, none of them right.
			f.in <- reply6(s.asker, func(m *dhcp6Message) {
				for range 10000 {
					m.add(OptionDHCPv6, []byte{0})
				}
			})
		}()
		got, err := s.run(t.Context(), f, DefaultWindow)
		if err != nil || len(got.Heard) != maxHeard || got.Dropped != 1001-maxHeard {
			t.Errorf("got %d messages, %d dropped, %v; want %d, %d", len(got.Heard), got.Dropped, err, maxHeard, 1001-maxHeard)
		}
	})
}

func TestHeardIsBounded(t *testing.T) {
	a := newAsker(listenLink)
	multicast := slices.Repeat(unhex(t, "ff020000000000000000000000000053"), 3500)
	p := reply6(a, func(m *dhcp6Message) {
		data := sized16(unhex(t, "0001 000d"+adnHex), multicast)
		m.add(OptionDHCPv6, append(data, bytes.Repeat([]byte{1}, 1000)...))
		m.add(option6DNSServers, multicast[:1600])
	})
	h := heard(t, a, p)
	if n := len(h.Instances[0].Findings); n != maxFindings+1 || len(h.Resolvers) != maxServers {
		t.Errorf("got %d findings and %d resolvers; want %d and %d", n, len(h.Resolvers), maxFindings+1, maxServers)
	}
	if got := h.Instances[0].Findings[0]; got.Severity != Error || len([]rune(got.Text)) > maxText+1 {
		t.Errorf("got first %+v; want an error, as they come first, of at most %d characters", got, maxText)
	}
	if last := h.Instances[0].Findings[maxFindings]; last.Code != CodeMore || !strings.Contains(last.Text, "more findings") {
		t.Errorf("got last %+v; want one that stands for the rest", last)
	}
	p = reply6(a, func(m *dhcp6Message) {
		for range 1000 {
			m.add(OptionDHCPv6, nil)
		}
	})
	if h := heard(t, a, p); len(h.Instances) != maxInstances || h.Omitted != 1000-maxInstances {
		t.Errorf("got %d instances, %d omitted; want %d, %d", len(h.Instances), h.Omitted, maxInstances, 1000-maxInstances)
	}
}

func sized16(b, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// TestListenEnds has what ends a survey before its time.
func TestListenEnds(t *testing.T) {
	t.Run("cancelled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := newSurveyor(listenLink).run(ctx, newFakeLink(t), DefaultWindow)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v; want that of the context", err)
			}
		})
	})
	t.Run("interface-gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeLink(t)
			go func() {
				f.in <- advertisement(255, listenRouter)
				<-time.After(time.Second)
				f.closed <- struct{}{} // what receive takes for the end
			}()
			got, err := newSurveyor(listenLink).run(t.Context(), f, DefaultWindow)
			if !errors.Is(err, errFakeClosed) || len(got.Heard) != 1 {
				t.Errorf("got %d messages, %v; want 1 and the error of receive", len(got.Heard), err)
			}
		})
	})
	t.Run("cannot-send", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeLink(t)
			f.broken = errors.New("network is down")
			got, err := newSurveyor(listenLink).run(t.Context(), f, DefaultWindow)
			want := []string{"ra: network is down", "dhcpv6: network is down", "dhcpv4: network is down"}
			if diff := cmp.Diff(want, got.Unasked); err != nil || diff != "" {
				t.Errorf("got %v; -want +got:\n%s", err, diff)
			}
		})
	})
	t.Run("called-wrongly", func(t *testing.T) {
		for _, cfg := range []ListenConfig{{Interface: "no such one"}, {Window: -1}, {Window: time.Hour}} {
			if _, err := Listen(t.Context(), cfg); err == nil {
				t.Errorf("%+v: got no error", cfg)
			}
		}
	})
}

// heard returns what is made of one packet.
func heard(t testing.TB, a asker, p ipPacket) Heard {
	t.Helper()
	s := newSurveyor(a.link)
	s.asker = a
	s.take(p)
	if len(s.survey.Heard) != 1 {
		t.Fatalf("got %d messages; want 1", len(s.survey.Heard))
	}
	return s.survey.Heard[0]
}

// TestHeardRA goes through what can be wrong with a Router Advertisement around its options.
func TestHeardRA(t *testing.T) {
	cut := advertisement(255, listenRouter, goodRA(t)[:16]) // its length says 56 octets
	short := ipPacket{data: ipv6Packet(listenRouter, allNodes, protocolICMPv6, 255, 2, []byte{134, 0, 0, 0, 0, 0, 0, 0})}
	wrongSum := advertisement(255, listenRouter, goodRA(t))
	wrongSum.data[len(wrongSum.data)-9] ^= 1
	offloaded := advertisement(255, listenRouter, goodRA(t))
	offloaded.data[ipv6HeaderLength+2] ^= 1
	offloaded.unsummed = true
	code := routerAdvertisement{}.append(nil)
	code[1] = 1
	fragment := routerAdvertisement{}.append(unhex(t, "3a 00 0000 00000001"))
	for name, row := range map[string]struct {
		p         ipPacket
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
		"code":             {ipPacket{data: ipv6Packet(listenRouter, allNodes, protocolICMPv6, 255, 2, code)}, "error:message", 0},
		"fragment-header": {
			ipPacket{data: ipv6Packet(listenRouter, allNodes, protocolFragment, 255, 10, fragment), unsummed: true},
			"error:fragment", 0,
		},
		"longest-option": {advertisement(255, listenRouter, longestRA(t)), "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := heard(t, newAsker(listenLink), row.p)
			if codes(h.Findings) != row.findings || len(h.Instances) != row.instances || h.By != RA {
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
	b = binary.BigEndian.AppendUint16(b, uint16(maxRA-len(b)-2))
	b = append(b, make([]byte, maxRA-len(b))...)
	binary.BigEndian.PutUint16(b[at-2:], uint16(maxRA-at))
	return b
}

func TestHeardRAOptions(t *testing.T) {
	h := heard(t, newAsker(listenLink), advertisement(255, listenRouter,
		unhex(t, "19 03 0000 00000708 20010db8000000000000000000000053"),
		unhex(t, "07 01 0000 000927c0"), // 600 s
	))
	if h.Interval != 10*time.Minute || len(h.Resolvers) != 1 || h.Resolvers[0] != netip.MustParseAddr("2001:db8::53") {
		t.Errorf("got interval %s, resolvers %s", h.Interval, h.Resolvers)
	}
}

// TestHeardDHCP goes through what can be wrong with messages of DHCP around the option. -1 instances means that it is no
// message for us.
func TestHeardDHCP(t *testing.T) {
	a := newAsker(listenLink)
	data6 := unhex(t, "0001 000d"+adnHex+"0010 20010db8000000000000000000000053 0001 0004 03646f74")
	data4 := unhex(t, "001d 0001 0d"+adnHex+"04 c0000235 0001 0004 03646f74")
	cut6 := reply6(a, func(m *dhcp6Message) { m.add(OptionDHCPv6, data6) })
	binary.BigEndian.PutUint16(cut6.data[len(cut6.data)-len(data6)-2:], 60000)
	cut6.unsummed = true
	for name, row := range map[string]struct {
		p         ipPacket
		findings  string
		instances int
	}{
		"v6-good": {reply6(a, func(m *dhcp6Message) { m.add(OptionDHCPv6, data6); m.add(OptionDHCPv6, data6) }), "", 2},
		"v6-none": {reply6(a, func(*dhcp6Message) {}), "", 0},
		"v6-other-transaction": {
			reply6(a, func(m *dhcp6Message) { m.id[0]++ }), "", -1,
		},
		"v6-advertise":         {reply6(a, func(m *dhcp6Message) { m.kind = 2 }), "", -1},
		"v6-no-server-id":      {reply6(a, func(m *dhcp6Message) { m.options = m.options[1:] }), "error:server-id", 0},
		"v6-other-client":      {reply6(a, func(m *dhcp6Message) { m.options[1].data = []byte{1} }), "error:client-id", 0},
		"v6-cut":               {cut6, "error:options", 0},
		"v4-good":              {reply4(a, func(m *dhcp4Message) { m.options = AppendOption4(m.options, 162, data4) }), "", 1},
		"v4-none":              {reply4(a, func(*dhcp4Message) {}), "", 0},
		"v4-empty":             {reply4(a, func(m *dhcp4Message) { m.options = append(m.options, 162, 0) }), "", 1},
		"v4-other-transaction": {reply4(a, func(m *dhcp4Message) { m.id[0]++ }), "", -1},
		"v4-other-client":      {reply4(a, func(m *dhcp4Message) { m.address[5]++ }), "", -1},
		"v4-request":           {reply4(a, func(m *dhcp4Message) { m.op = bootRequest }), "", -1},
		"v4-nak":               {reply4(a, func(m *dhcp4Message) { m.options[2] = 6 }), "", -1},
		"v4-no-server-id":      {reply4(a, func(m *dhcp4Message) { m.options = m.options[:3] }), "error:server-id", 0},
		"v4-cut":               {reply4(a, func(m *dhcp4Message) { m.options = append(m.options, 162, 200, 1) }), "error:options", 0},
		"v4-cut-length":        {reply4(a, func(m *dhcp4Message) { m.options = append(m.options, 162) }), "error:options", 0},
		"v4-split": {
			reply4(a, func(m *dhcp4Message) {
				m.options = AppendOption4(AppendOption4(m.options, 162, data4[:9]), 162, data4[9:])
			}), "", 1,
		},
		"v4-overload": {
			reply4(a, func(m *dhcp4Message) {
				m.options = append(m.options, optionOverload, 1, 1, optionEnd)
				copy(m.file[:], append(AppendOption4(nil, 162, data4), optionEnd))
			}), "", 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSurveyor(listenLink)
			s.asker = a
			s.take(row.p)
			if row.instances < 0 {
				if len(s.survey.Heard) != 0 {
					t.Errorf("got %+v; want nothing", s.survey.Heard)
				}
				return
			}
			if len(s.survey.Heard) != 1 {
				t.Fatalf("got %d messages; want 1", len(s.survey.Heard))
			}
			if h := s.survey.Heard[0]; codes(h.Findings) != row.findings || len(h.Instances) != row.instances {
				t.Errorf("got [%s], %d instances; want [%s], %d", codes(h.Findings), len(h.Instances), row.findings, row.instances)
			}
		})
	}
}

// TestParsePacket has packets that no host takes, and some that it does.
func TestParsePacket(t *testing.T) {
	dhcp := udpMessage(67, 68, []byte("data"))
	v4 := func(change func([]byte) []byte) ipPacket {
		to := netip.AddrFrom4([4]byte{255, 255, 255, 255})
		return ipPacket{data: change(ipv4Packet(listenServer, to, protocolUDP, 64, udpSumAt, bytes.Clone(dhcp)))}
	}
	resum := func(b []byte) []byte {
		copy(b[10:], []byte{0, 0})
		putSum(b[10:], sum(0, b[:20]))
		return b
	}
	v6 := func(next byte, message string) ipPacket {
		return ipPacket{
			data: ipv6Packet(listenRouter, allNodes, next, 255, 0, append([]byte{0, 0}, unhex(t, message)...)), unsummed: true,
		}
	}
	same := func(b []byte) []byte { return b }
	for name, row := range map[string]struct {
		p        ipPacket
		ok       bool
		findings string
	}{
		"good":                  {v4(same), true, ""},
		"ethernet-padding":      {v4(func(b []byte) []byte { return append(b, 0, 0, 0) }), true, ""},
		"empty":                 {ipPacket{}, false, ""},
		"version-5":             {ipPacket{data: []byte{0x50}}, false, ""},
		"v4-short":              {v4(func(b []byte) []byte { return b[:19] }), false, ""},
		"v4-header-of-4":        {v4(func(b []byte) []byte { b[0] = 0x41; return resum(b) }), false, ""},
		"v4-header-too-long":    {v4(func(b []byte) []byte { b[0] = 0x4f; return resum(b) }), false, ""},
		"v4-header-checksum":    {v4(func(b []byte) []byte { b[8]--; return b }), false, ""},
		"v4-total-too-long":     {v4(func(b []byte) []byte { b[3]++; return resum(b) }), false, ""},
		"v4-later-fragment":     {v4(func(b []byte) []byte { b[7] = 1; return resum(b) }), false, ""},
		"v4-first-fragment":     {v4(func(b []byte) []byte { b[6] = 0x20; return resum(b) }), true, "warning:fragment"},
		"udp-checksum":          {v4(func(b []byte) []byte { b[29] ^= 1; return b }), true, "error:checksum"},
		"udp-without-checksum":  {v4(func(b []byte) []byte { b[26], b[27], b[29] = 0, 0, 7; return b }), true, ""},
		"udp-length-too-long":   {v4(func(b []byte) []byte { b[25]++; return b }), false, ""},
		"udp-length-of-7":       {v4(func(b []byte) []byte { b[25] = 7; return b }), false, ""},
		"v6-short":              {ipPacket{data: make([]byte, 39)}, false, ""},
		"v6-no-next-header":     {v6(59, ""), false, ""},
		"v6-extension-cut":      {v6(protocolHopByHop, "0000"), false, ""},
		"v6-extension-too-long": {v6(protocolDestination, "ff 00 00000000"), false, ""},
		"v6-endless-extensions": {
			ipPacket{data: ipv6Packet(listenRouter, allNodes, 0, 255, 4, make([]byte, 8*(maxExtensions+2)))}, false, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, ok := parsePacket(row.p)
			if ok != row.ok || ok && codes(d.findings.list) != row.findings {
				t.Errorf("got %t, [%s]; want %t, [%s]", ok, codes(d.findings.list), row.ok, row.findings)
			}
		})
	}
}

// FuzzListen puts any packet into a survey: nothing may break, and what is kept must be bounded.
func FuzzListen(f *testing.F) {
	a := newAsker(listenLink)
	a.id4, a.id6 = [4]byte{1, 2, 3, 4}, [3]byte{1, 2, 3} // so that inputs stay answers
	f.Add(advertisement(255, listenRouter, goodRA(f)).data)
	f.Add(advertisement(64, listenRouter, longestRA(f), make([]byte, 8)).data)
	f.Add(reply6(a, func(m *dhcp6Message) {
		m.add(OptionDHCPv6, []byte{0, 1, 0, 13})
		m.add(option6DNSServers, make([]byte, 33))
	}).data)
	f.Add(reply4(a, func(m *dhcp4Message) { m.options = append(m.options, 162, 2, 0, 0, optionOverload, 1, 3) }).data)
	for _, v := range vectors(f) {
		data := v.data(f)
		f.Add(advertisement(255, listenRouter, data).data)
		f.Add(reply6(a, func(m *dhcp6Message) { m.add(OptionDHCPv6, data) }).data)
		f.Add(reply4(a, func(m *dhcp4Message) { m.options = AppendOption4(m.options, OptionDHCPv4, data) }).data)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		s := newSurveyor(listenLink)
		s.asker = a
		s.take(ipPacket{data: b, unsummed: true})
		s.take(ipPacket{data: b, unsummed: true})
		if !bytes.Equal(before, b) {
			t.Fatal("the packet was changed")
		}
		for _, h := range s.survey.Heard {
			if len(s.survey.Heard) != 1 || h.Copies != 2 || len(h.Instances) > maxInstances || len(h.Resolvers) > maxServers {
				t.Fatalf("got %d messages, %+v", len(s.survey.Heard), h)
			}
			for _, i := range h.Instances {
				checkInspection(t, Inspection{i.Instance, i.Lifetime, withoutMore(i.Findings), i.readable}, len(b))
			}
			for _, r := range Clients(h) {
				if len(r.Uses) > 0 && h.Err() != nil || len(h.Instances) > 0 && len(r.Uses)+len(r.Reasons) == 0 {
					t.Fatalf("got %+v of %+v", r, h)
				}
			}
		}
	})
}

func withoutMore(list []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(list), func(f Finding) bool { return f.Code == CodeMore })
}
