package announce

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

var (
	server6 = netip.MustParseAddr("2001:db8:1::53")
	server4 = netip.MustParseAddr("192.0.2.53")
	host6   = netip.MustParseAddr("fe80::2")
	host4   = netip.MustParseAddr("192.0.2.2")
)

// announced returns what the tests announce, unless they change it: DoT and DoH.
func announced() Content {
	both := []netip.Addr{server6, server4}
	return Content{
		Resolvers: []svcb.Resolver{
			{Priority: 1, Name: "dns.isp.example.", Addresses: both, ALPN: []string{"h3", "h2"}, DoHPath: svcb.DefaultDoHPath},
			{Priority: 2, Name: "dns.isp.example.", Addresses: both, ALPN: []string{"dot"}},
		},
		Servers: both,
	}
}

// readyLink is an interface on which everything works.
func readyLink() link.State {
	return link.State{
		Name: "lan0", Index: 7, Up: true, Carrier: true, MTU: 1500, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		LinkLocal: netip.MustParseAddr("fe80::1"),
		Addresses: []netip.Prefix{netip.PrefixFrom(server6, 64), netip.PrefixFrom(server4, 24)},
	}
}

// fakeSystem is a host with one interface, whose other end is played by the test.
type fakeSystem struct {
	openErr map[string]error // by part; guarded by mu
	mu      sync.Mutex
	state   link.State
	changes chan link.State

	nd, dhcp6, dhcp4 *fakeConn // the test's ends
}

func newFakeSystem(l link.State) *fakeSystem {
	return &fakeSystem{
		state: l, changes: make(chan link.State, 16), openErr: make(map[string]error),
		nd: newFakeConn(), dhcp6: newFakeConn(), dhcp4: newFakeConn(),
	}
}

func (f *fakeSystem) set(change func(*link.State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.state)
	f.changes <- f.state
}

func (f *fakeSystem) fail(part string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.openErr[part] = err
}

func (f *fakeSystem) system() system {
	open := func(part string, far *fakeConn, source func(link.State) netip.AddrPort) openFunc {
		return func(l link.State) (link.Conn, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if err := f.openErr[part]; err != nil {
				return nil, err
			}
			if !l.Exists() {
				return nil, errors.New("no such device")
			}
			return far.dial(source(l)), nil
		}
	}
	return system{
		look: func(string) (link.State, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.state, nil
		},
		watch: func(ctx context.Context, _ string, changed func(link.State)) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case l := <-f.changes:
					changed(l)
				}
			}
		},
		openND:     open(byRA, f.nd, func(l link.State) netip.AddrPort { return netip.AddrPortFrom(l.LinkLocal, 0) }),
		openDHCPv6: open(byDHCPv6, f.dhcp6, func(l link.State) netip.AddrPort { return netip.AddrPortFrom(l.LinkLocal, 547) }),
		openDHCPv4: open(byDHCPv4, f.dhcp4, func(l link.State) netip.AddrPort { return netip.AddrPortFrom(l.IPv4(), 67) }),
		random:     func(d time.Duration) time.Duration { return d / 2 },
	}
}

// fakeConn is one end of a link made of channels. The test's end receives everything that the other end sends, whichever
// socket that is at the moment.
type fakeConn struct {
	in, out chan link.Packet
	from    netip.AddrPort
	closed  chan struct{}
	once    sync.Once
	far     *fakeConn
}

func newFakeConn() *fakeConn {
	return &fakeConn{in: make(chan link.Packet, 1024), out: make(chan link.Packet), closed: make(chan struct{})}
}

// dial returns the other end.
func (c *fakeConn) dial(from netip.AddrPort) *fakeConn {
	return &fakeConn{in: c.out, out: c.in, from: from, closed: make(chan struct{}), far: c}
}

func (c *fakeConn) Receive([]byte) (link.Packet, error) {
	select {
	case p := <-c.in:
		return p, nil
	case <-c.closed:
		return link.Packet{}, net.ErrClosed
	}
}

// Send turns where the packet goes into where it came from, as a link does.
func (c *fakeConn) Send(p link.Packet) error {
	if p.From.IsValid() {
		c.from = netip.AddrPortFrom(p.From, 0)
	}
	arrived := link.Packet{Peer: c.from, To: p.Peer.Addr(), Hops: cmp.Or(p.Hops, link.NDHopLimit), Data: bytes.Clone(p.Data)}
	select {
	case c.out <- arrived:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *fakeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// hostEnds are the sockets of a host on the link that is announced on.
type hostEnds struct {
	nd, dhcp6, dhcp4 link.Conn
	link             link.State // of the host
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func everything(log zerolog.Logger) Config {
	return Config{
		Interface: "lan0", RA: true, DHCPv6: true, DHCPv4: true, Log: log,
		Source: func(Link) Content { return announced() },
	}
}

// start runs an announcer; stop ends it and waits.
func start(t *testing.T, cfg Config, sys system) (a *Announcer, stop func()) {
	t.Helper()
	a, err := newAnnouncer(cfg, sys)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return a, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// runFake runs body in a bubble of fake time, with everything announced.
func runFake(t *testing.T, change func(*Config), body func(t *testing.T, f *fakeSystem, a *Announcer, log *lines, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f, log := newFakeSystem(readyLink()), new(lines)
		cfg := everything(zerolog.New(log))
		if change != nil {
			change(&cfg)
		}
		a, stop := start(t, cfg, f.system())
		defer stop()
		body(t, f, a, log, stop)
	})
}

// waitRA waits for the next Router Advertisement on nd.
func waitRA(t *testing.T, nd link.Conn) (link.RouterAdvertisement, link.Packet) {
	t.Helper()
	for {
		p, err := nd.Receive(make([]byte, link.MaxPacket))
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Data) == 0 || p.Data[0] != link.TypeRouterAdvertisement {
			continue
		}
		if err := link.CheckAdvertisement(p); err != nil {
			t.Fatal(err)
		}
		ra, err := link.ParseAdvertisement(p.Data)
		if err != nil {
			t.Fatal(err)
		}
		return ra, p
	}
}

// lifetimes returns those of the DNR options and of the RDNSS options of ra, in seconds.
func lifetimes(t *testing.T, ra link.RouterAdvertisement) (designated, servers []time.Duration) {
	t.Helper()
	for _, o := range ra.Options {
		switch o.Kind() {
		case dnr.OptionRA:
			_, d, err := dnr.DecodeRA(o)
			if err != nil {
				t.Error(err)
			}
			designated = append(designated, d/time.Second)
		case link.OptionRDNSS:
			servers = append(servers, time.Duration(binary.BigEndian.Uint32(o[4:])))
		}
	}
	return designated, servers
}

// testAnnouncer is what must hold on a link of channels and on one of the kernel. The announcer must announce at most
// every 4 s.
func testAnnouncer(t *testing.T, h hostEnds, stop func()) {
	ra, p := waitRA(t, h.nd)
	designated, servers := lifetimes(t, ra)
	if ra.Lifetime != 0 || ra.Managed || ra.Other || p.To != link.AllNodes || p.Hops != link.NDHopLimit {
		t.Errorf("got %+v to %s; want one to all nodes of no default router", ra, p.To)
	}
	if len(designated) != 2 || designated[0] != 12 || designated[1] != 12 || len(servers) != 1 || servers[0] != 12 {
		t.Errorf("got lifetimes %d and %d; want 12 12 and 12", designated, servers)
	}
	if ra.Options[0].Kind() != link.OptionSourceLinkLayer {
		t.Errorf("got option %d first; want our link-layer address", ra.Options[0].Kind())
	}
	solicit := link.Packet{Peer: netip.AddrPortFrom(link.AllRouters, 0), Data: []byte{link.TypeRouterSolicitation, 7: 0}}
	if err := h.nd.Send(solicit); err != nil {
		t.Fatal(err)
	}
	for p.To != h.link.LinkLocal {
		_, p = waitRA(t, h.nd)
	}
	testDHCPv6(t, h)
	testDHCPv4(t, h)

	go stop()
	for final := 0; final < maxFinal; {
		ra, p := waitRA(t, h.nd)
		designated, servers := lifetimes(t, ra)
		if len(designated) != 2 || len(servers) != 1 || p.To != link.AllNodes || designated[0] != designated[1] || designated[0] != servers[0] {
			t.Fatalf("got lifetimes %d and %d to %s; want 2 and 1", designated, servers, p.To)
		}
		if designated[0] == 0 {
			final++
		}
	}
	stop()
}

func informationRequest(codes ...uint16) link.DHCPv6Message {
	m := link.DHCPv6Message{Kind: link.DHCPv6InformationRequest, ID: [3]byte{1, 2, 3}}
	m.Add(link.Option6ClientID, []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 2})
	var list []byte
	for _, c := range codes {
		list = binary.BigEndian.AppendUint16(list, c)
	}
	m.Add(link.Option6Request, list)
	return m
}

func testDHCPv6(t *testing.T, h hostEnds) {
	t.Helper()
	request := informationRequest(dnr.OptionDHCPv6, link.Option6DNSServers, link.Option6RefreshTime)
	to := netip.AddrPortFrom(link.AllDHCPServers, link.DHCPv6ServerPort)
	if err := h.dhcp6.Send(link.Packet{Peer: to, Data: request.Append(nil)}); err != nil {
		t.Fatal(err)
	}
	p, err := h.dhcp6.Receive(make([]byte, link.MaxPacket))
	if err != nil {
		t.Fatal(err)
	}
	m, err := link.ParseDHCPv6(p.Data)
	if err != nil || m.Kind != link.DHCPv6Reply || m.ID != request.ID {
		t.Fatalf("got %v, %v; want the reply", m, err)
	}
	data, _ := m.Get(dnr.OptionDHCPv6)
	in, err := dnr.DecodeDHCPv6(data)
	if err != nil || in.ADN != "dns.isp.example." || in.Addresses[0] != server6 {
		t.Errorf("got %v, %v; want our resolver", in, err)
	}
}

func inform(codes ...byte) link.DHCPv4Message {
	m := link.DHCPv4Message{Op: link.BootRequest, Hardware: 1, HardwareLen: 6, ID: [4]byte{1, 2, 3, 4}, Client: host4.As4()}
	m.Options = dnr.AppendOption4(nil, link.Option4MessageType, []byte{link.DHCPv4Inform})
	m.Options = dnr.AppendOption4(m.Options, link.Option4Request, codes)
	m.Options = append(m.Options, dnr.Option4End)
	return m
}

func testDHCPv4(t *testing.T, h hostEnds) {
	t.Helper()
	request := inform(dnr.OptionDHCPv4, link.Option4DNSServers)
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), link.DHCPv4ServerPort)
	if err := h.dhcp4.Send(link.Packet{Peer: to, Data: request.Append(nil)}); err != nil {
		t.Fatal(err)
	}
	p, err := h.dhcp4.Receive(make([]byte, link.MaxPacket))
	if err != nil {
		t.Fatal(err)
	}
	m, err := link.ParseDHCPv4(p.Data)
	if err != nil || m.Op != link.BootReply || m.ID != request.ID {
		t.Fatalf("got %v, %v; want the reply", m, err)
	}
	data, _ := m.Get(dnr.OptionDHCPv4)
	ins, err := dnr.DecodeDHCPv4(data)
	if err != nil || len(ins) != 2 || ins[0].Addresses[0] != server4 {
		t.Errorf("got %v, %v; want two ways to our resolver", ins, err)
	}
}
