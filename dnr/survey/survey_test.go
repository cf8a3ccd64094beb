package survey

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

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

var (
	listenMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	listenLink = link.State{
		Name: "link0", Index: 2, Up: true, Carrier: true, MTU: 1500, MAC: listenMAC,
		LinkLocal: netip.MustParseAddr("fe80::2"),
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
	}
	bareLink = link.State{Name: "link0", Index: 2, Up: true, Carrier: true, MTU: 1500, MAC: listenMAC}

	listenRouter = netip.MustParseAddr("fe80::1")
	listenServer = netip.MustParseAddr("192.0.2.1")
)

// fakeLink is a link on which a test sends and receives packets.
type fakeLink struct {
	t      *testing.T
	start  time.Time
	sent   []string // what was asked, with the time after the start
	in     chan link.IPPacket
	closed chan struct{}
	broken error // of send
}

func newFakeLink(t *testing.T) *fakeLink {
	return &fakeLink{t: t, start: time.Now(), in: make(chan link.IPPacket, 1000), closed: make(chan struct{})}
}

var errFakeClosed = errors.New("closed")

func (f *fakeLink) Receive() (link.IPPacket, error) {
	select {
	case p := <-f.in:
		return p, nil
	case <-f.closed:
		return link.IPPacket{}, errFakeClosed
	}
}

func (f *fakeLink) Send(data []byte) error {
	if f.broken != nil {
		return f.broken
	}
	f.sent = append(f.sent, fmt.Sprintf("%v %s", time.Since(f.start), f.describe(data)))
	return nil
}

func (f *fakeLink) Close() error { close(f.closed); return nil }

// describe names a question, which must be one that a server would take.
func (f *fakeLink) describe(data []byte) string {
	d, ok := link.ParsePacket(link.IPPacket{Data: data})
	if !ok || d.BadSum || d.Partial {
		f.t.Errorf("sent %x, which is no packet: %+v", data, d)
		return ""
	}
	switch {
	case d.Protocol == link.ProtocolICMPv6:
		p := link.Packet{Peer: netip.AddrPortFrom(d.From, 0), To: d.To, Hops: d.Hops, Data: d.Data}
		if err := link.CheckSolicitation(p); err != nil {
			f.t.Errorf("solicitation: %v", err)
		}
		return "solicitation"
	case d.V6:
		m, err := link.ParseDHCPv6(d.Data)
		if err != nil || m.Kind != link.DHCPv6InformationRequest || !m.Asks(dnr.OptionDHCPv6) || !m.Asks(link.Option6DNSServers) {
			f.t.Errorf("Information-request %+v: %v", m, err)
		}
		return "information-request"
	}
	m, err := link.ParseDHCPv4(d.Data)
	if err != nil || !m.Asks(dnr.OptionDHCPv4) || m.Op != link.BootRequest {
		f.t.Errorf("DHCPv4 %+v: %v", m, err)
	}
	kind, _ := m.Get(link.Option4MessageType)
	return map[byte]string{dhcp4Discover: "discover", link.DHCPv4Inform: "inform"}[kind[0]] + " from " + d.From.String()
}

// advertisement returns a packet with a Router Advertisement.
func advertisement(hops byte, from netip.Addr, options ...[]byte) link.IPPacket {
	var message []byte
	message = link.RouterAdvertisement{}.Append(message)
	for _, o := range options {
		message = append(message, o...)
	}
	return link.IPPacket{Data: link.IPv6Packet(from, link.AllNodes, link.ProtocolICMPv6, hops, 2, message)}
}

func goodRA(t testing.TB) []byte {
	t.Helper()
	return unhex(t, "90 07 0001 00000708 000d"+adnHex+"0010 20010db8000000000000000000000053 0008 0001 0004 03646f74 0000000000")
}

// reply6 returns a packet with a reply to a's request, changed by f.
func reply6(a requester, f func(*link.DHCPv6Message)) link.IPPacket {
	m := link.DHCPv6Message{Kind: link.DHCPv6Reply, ID: a.id6}
	m.Add(link.Option6ServerID, []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 1})
	m.Add(link.Option6ClientID, link.DUID(listenMAC))
	f(&m)
	message := link.UDPMessage(link.DHCPv6ServerPort, link.DHCPv6ClientPort, m.Append(nil))
	return link.IPPacket{Data: link.IPv6Packet(listenRouter, a.link.LinkLocal, link.ProtocolUDP, 64, link.UDPSumAt, message)}
}

// reply4 does so for DHCPv4.
func reply4(a requester, f func(*link.DHCPv4Message)) link.IPPacket {
	m := link.DHCPv4Message{Op: link.BootReply, Hardware: 1, HardwareLen: 6, ID: a.id4}
	copy(m.Address[:], listenMAC)
	m.Options = []byte{link.Option4MessageType, 1, dhcp4Offer, link.Option4ServerID, 4, 192, 0, 2, 1}
	f(&m)
	message := link.UDPMessage(link.DHCPv4ServerPort, link.DHCPv4ClientPort, m.Append(nil))
	to := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return link.IPPacket{Data: link.IPv4Packet(listenServer, to, link.ProtocolUDP, 64, link.UDPSumAt, message)}
}

// TestRequests wants the right questions at the right times, and an end after the window.
func TestRequests(t *testing.T) {
	for name, row := range map[string]struct {
		link    link.State
		window  time.Duration
		answers func(a requester) []link.IPPacket
		want    []string
		unasked []string
	}{
		"nobody-answers": {
			listenLink, DefaultWindow, nil,
			[]string{
				"0s solicitation", "0s information-request", "0s inform from 192.0.2.2", "1s information-request",
				"2s discover from 0.0.0.0", "3s information-request", "4s solicitation",
			},
			nil,
		},
		"all-answer": {
			listenLink, DefaultWindow, func(a requester) []link.IPPacket {
				return []link.IPPacket{
					advertisement(255, listenRouter), reply6(a, func(*link.DHCPv6Message) {}), reply4(a, func(*link.DHCPv4Message) {}),
				}
			},
			[]string{"0s solicitation", "0s information-request", "0s inform from 192.0.2.2"},
			nil,
		},
		"short": {
			listenLink, 500 * time.Millisecond, nil,
			[]string{"0s solicitation", "0s information-request", "0s inform from 192.0.2.2"},
			nil,
		},
		"long": {
			listenLink, time.Minute, func(a requester) []link.IPPacket { return []link.IPPacket{reply4(a, func(*link.DHCPv4Message) {})} },
			[]string{
				"0s solicitation", "0s information-request", "0s inform from 192.0.2.2", "1s information-request",
				"3s information-request", "4s solicitation",
			},
			nil,
		},
		"no-address": {
			bareLink, time.Second / 2, nil,
			[]string{"0s solicitation", "0s discover from 0.0.0.0"},
			[]string{"dhcpv6: the interface has no link-local address"},
		},
		"no-ethernet": {
			link.State{Name: "tun0", LinkLocal: listenLink.LinkLocal},
			time.Second / 2, nil,
			[]string{"0s solicitation", "0s information-request"},
			[]string{"dhcpv4: the interface has no Ethernet address"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := newFakeLink(t), newSurveyor(row.link)
				if row.answers != nil {
					for _, p := range row.answers(s.requester) {
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

// TestCollects wants every message once, and what comes late as well.
func TestCollects(t *testing.T) {
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
		if err != nil || len(got.Messages) != 2 || got.Messages[0].Copies != 3 || got.Messages[1].Copies != 1 {
			t.Errorf("got %+v, %v; want two messages, the first three times", got.Messages, err)
		}
		<-time.After(time.Second) // until what came too late was said
	})
}

// TestIsBounded floods a survey.
func TestIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFakeLink(t), newSurveyor(listenLink)
		go func() {
			for i := range 1000 {
				from := netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(i >> 8), 15: byte(i)})
				f.in <- advertisement(255, from, slices.Repeat([][]byte{goodRA(t)}, 20)...)
			}
			// One with thousands of options, none of them right.
			f.in <- reply6(s.requester, func(m *link.DHCPv6Message) {
				for range 10000 {
					m.Add(dnr.OptionDHCPv6, []byte{0})
				}
			})
		}()
		got, err := s.run(t.Context(), f, DefaultWindow)
		if err != nil || len(got.Messages) != maxMessages || got.Dropped != 1001-maxMessages {
			t.Errorf("got %d messages, %d dropped, %v; want %d, %d", len(got.Messages), got.Dropped, err, maxMessages, 1001-maxMessages)
		}
	})
}

func TestMessagesAreBounded(t *testing.T) {
	a := newRequester(listenLink)
	multicast := slices.Repeat(unhex(t, "ff020000000000000000000000000053"), 3500)
	p := reply6(a, func(m *link.DHCPv6Message) {
		data := sized16(unhex(t, "0001 000d"+adnHex), multicast)
		m.Add(dnr.OptionDHCPv6, append(data, bytes.Repeat([]byte{1}, 1000)...))
		m.Add(link.Option6DNSServers, multicast[:1600])
	})
	h := received(t, a, p)
	if n := len(h.Instances[0].Findings); n != maxFindings+1 || len(h.Resolvers) != maxServers {
		t.Errorf("got %d findings and %d resolvers; want %d and %d", n, len(h.Resolvers), maxFindings+1, maxServers)
	}
	if got := h.Instances[0].Findings[0]; got.Severity != dnr.Error || len([]rune(got.Text)) > maxText+1 {
		t.Errorf("got first %+v; want an error, as they come first, of at most %d characters", got, maxText)
	}
	if last := h.Instances[0].Findings[maxFindings]; last.Code != codeMore || !strings.Contains(last.Text, "more findings") {
		t.Errorf("got last %+v; want one that stands for the rest", last)
	}
	p = reply6(a, func(m *link.DHCPv6Message) {
		for range 1000 {
			m.Add(dnr.OptionDHCPv6, nil)
		}
	})
	if h := received(t, a, p); len(h.Instances) != maxInstances || h.Omitted != 1000-maxInstances {
		t.Errorf("got %d instances, %d omitted; want %d, %d", len(h.Instances), h.Omitted, maxInstances, 1000-maxInstances)
	}
}

func sized16(b, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// TestEnds has what ends a survey before its time.
func TestEnds(t *testing.T) {
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
			if !errors.Is(err, errFakeClosed) || len(got.Messages) != 1 {
				t.Errorf("got %d messages, %v; want 1 and the error of receive", len(got.Messages), err)
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
		for _, cfg := range []Config{{Interface: "no such one"}, {Window: -1}, {Window: time.Hour}} {
			if _, err := Run(t.Context(), cfg); err == nil {
				t.Errorf("%+v: got no error", cfg)
			}
		}
	})
}

// FuzzPacket puts any packet into a survey: nothing may break, and what is kept must be bounded.
func FuzzPacket(f *testing.F) {
	a := newRequester(listenLink)
	a.id4, a.id6 = [4]byte{1, 2, 3, 4}, [3]byte{1, 2, 3} // so that inputs stay answers
	f.Add(advertisement(255, listenRouter, goodRA(f)).Data)
	f.Add(advertisement(64, listenRouter, longestRA(f), make([]byte, 8)).Data)
	f.Add(reply6(a, func(m *link.DHCPv6Message) {
		m.Add(dnr.OptionDHCPv6, []byte{0, 1, 0, 13})
		m.Add(link.Option6DNSServers, make([]byte, 33))
	}).Data)
	f.Add(reply4(a, func(m *link.DHCPv4Message) { m.Options = append(m.Options, 162, 2, 0, 0, 52, 1, 3) }).Data)
	for _, data := range vectorOctets(f) {
		f.Add(advertisement(255, listenRouter, data).Data)
		f.Add(reply6(a, func(m *link.DHCPv6Message) { m.Add(dnr.OptionDHCPv6, data) }).Data)
		f.Add(reply4(a, func(m *link.DHCPv4Message) { m.Options = dnr.AppendOption4(m.Options, dnr.OptionDHCPv4, data) }).Data)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		s := newSurveyor(listenLink)
		s.requester = a
		s.take(link.IPPacket{Data: b, Unsummed: true})
		s.take(link.IPPacket{Data: b, Unsummed: true})
		if !bytes.Equal(before, b) {
			t.Fatal("the packet was changed")
		}
		for _, h := range s.result.Messages {
			if len(s.result.Messages) != 1 || h.Copies != 2 || len(h.Instances) > maxInstances || len(h.Resolvers) > maxServers {
				t.Fatalf("got %d messages, %+v", len(s.result.Messages), h)
			}
			for _, i := range h.Instances {
				i.Findings = withoutMore(i.Findings)
				checkInspection(t, i, len(b))
			}
			for _, r := range Clients(h) {
				if len(r.Uses) > 0 && h.Err() != nil || len(h.Instances) > 0 && len(r.Uses)+len(r.Reasons) == 0 {
					t.Fatalf("got %+v of %+v", r, h)
				}
			}
		}
	})
}

func withoutMore(list []dnr.Finding) []dnr.Finding {
	return slices.DeleteFunc(slices.Clone(list), func(f dnr.Finding) bool { return f.Code == codeMore })
}
