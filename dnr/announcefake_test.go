package dnr

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
)

var (
	server6 = netip.MustParseAddr("2001:db8:1::53")
	server4 = netip.MustParseAddr("192.0.2.53")
	host6   = netip.MustParseAddr("fe80::2")
	host4   = netip.MustParseAddr("192.0.2.2")
)

// announced returns what the tests announce, unless they change it: DoT and DoH.
func announced() Announcement {
	both := []netip.Addr{server6, server4}
	return Announcement{
		Resolvers: []svcb.Resolver{
			{Priority: 1, Name: "dns.isp.example.", Addresses: both, ALPN: []string{"h3", "h2"}, DoHPath: svcb.DefaultDoHPath},
			{Priority: 2, Name: "dns.isp.example.", Addresses: both, ALPN: []string{"dot"}},
		},
		Servers: both,
	}
}

// readyLink is an interface on which everything works.
func readyLink() linkState {
	return linkState{
		name: "lan0", index: 7, up: true, carrier: true, mtu: 1500, mac: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		linkLocal: netip.MustParseAddr("fe80::1"),
		addresses: []netip.Prefix{netip.PrefixFrom(server6, 64), netip.PrefixFrom(server4, 24)},
	}
}

// fakeSystem is a host with one interface, whose other end is played by the test.
type fakeSystem struct {
	openErr map[string]error // by part; guarded by mu
	mu      sync.Mutex
	state   linkState
	changes chan linkState

	nd, dhcp6, dhcp4 *fakeConn // the test's ends
}

func newFakeSystem(l linkState) *fakeSystem {
	return &fakeSystem{
		state: l, changes: make(chan linkState, 16), openErr: make(map[string]error),
		nd: newFakeConn(), dhcp6: newFakeConn(), dhcp4: newFakeConn(),
	}
}

func (f *fakeSystem) set(change func(*linkState)) {
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
	open := func(part string, far *fakeConn, source func(linkState) netip.AddrPort) openFunc {
		return func(l linkState) (packetConn, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if err := f.openErr[part]; err != nil {
				return nil, err
			}
			if !l.exists() {
				return nil, errors.New("no such device")
			}
			return far.dial(source(l)), nil
		}
	}
	return system{
		look: func(string) (linkState, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.state, nil
		},
		watch: func(ctx context.Context, _ string, changed func(linkState)) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case l := <-f.changes:
					changed(l)
				}
			}
		},
		openND:     open(partRA, f.nd, func(l linkState) netip.AddrPort { return netip.AddrPortFrom(l.linkLocal, 0) }),
		openDHCPv6: open(partDHCPv6, f.dhcp6, func(l linkState) netip.AddrPort { return netip.AddrPortFrom(l.linkLocal, 547) }),
		openDHCPv4: open(partDHCPv4, f.dhcp4, func(l linkState) netip.AddrPort { return netip.AddrPortFrom(l.ipv4(), 67) }),
		random:     func(d time.Duration) time.Duration { return d / 2 },
	}
}

// fakeConn is one end of a link made of channels. The test's end hears everything that the other end sends, whichever
// socket that is at the moment.
type fakeConn struct {
	in, out chan packet
	from    netip.AddrPort
	closed  chan struct{}
	once    sync.Once
	far     *fakeConn
}

func newFakeConn() *fakeConn {
	return &fakeConn{in: make(chan packet, 1024), out: make(chan packet), closed: make(chan struct{})}
}

// dial returns the other end.
func (c *fakeConn) dial(from netip.AddrPort) *fakeConn {
	return &fakeConn{in: c.out, out: c.in, from: from, closed: make(chan struct{}), far: c}
}

func (c *fakeConn) receive([]byte) (packet, error) {
	select {
	case p := <-c.in:
		return p, nil
	case <-c.closed:
		return packet{}, net.ErrClosed
	}
}

// send turns where the packet goes into where it came from, as a link does.
func (c *fakeConn) send(p packet) error {
	if p.from.IsValid() {
		c.from = netip.AddrPortFrom(p.from, 0)
	}
	arrived := packet{peer: c.from, to: p.peer.Addr(), hops: cmp.Or(p.hops, ndHopLimit), data: bytes.Clone(p.data)}
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
	nd, dhcp6, dhcp4 packetConn
	link             linkState // of the host
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

func everything(log zerolog.Logger) AnnounceConfig {
	return AnnounceConfig{
		Interface: "lan0", RA: true, DHCPv6: true, DHCPv4: true, Log: log,
		Source: func(Link) Announcement { return announced() },
	}
}

// start runs an announcer; stop ends it and waits.
func start(t *testing.T, cfg AnnounceConfig, sys system) (a *Announcer, stop func()) {
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
func runFake(t *testing.T, change func(*AnnounceConfig), body func(t *testing.T, f *fakeSystem, a *Announcer, log *lines, stop func())) {
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
func waitRA(t *testing.T, nd packetConn) (routerAdvertisement, packet) {
	t.Helper()
	for {
		p, err := nd.receive(make([]byte, maxPacket))
		if err != nil {
			t.Fatal(err)
		}
		if len(p.data) == 0 || p.data[0] != typeRouterAdvertisement {
			continue
		}
		if err := checkAdvertisement(p); err != nil {
			t.Fatal(err)
		}
		ra, err := parseAdvertisement(p.data)
		if err != nil {
			t.Fatal(err)
		}
		return ra, p
	}
}

// lifetimes returns those of the DNR options and of the RDNSS options of ra, in seconds.
func lifetimes(t *testing.T, ra routerAdvertisement) (dnr, servers []time.Duration) {
	t.Helper()
	for _, o := range ra.options {
		switch o.kind() {
		case OptionRA:
			_, d, err := DecodeRA(o)
			if err != nil {
				t.Error(err)
			}
			dnr = append(dnr, d/time.Second)
		case optionRDNSS:
			servers = append(servers, time.Duration(binary.BigEndian.Uint32(o[4:])))
		}
	}
	return dnr, servers
}

// testAnnouncer is what must hold on a link of channels and on one of the kernel. The announcer must announce at most
// every 4 s.
func testAnnouncer(t *testing.T, h hostEnds, stop func()) {
	ra, p := waitRA(t, h.nd)
	dnr, servers := lifetimes(t, ra)
	if ra.lifetime != 0 || ra.managed || ra.other || p.to != allNodes || p.hops != ndHopLimit {
		t.Errorf("got %+v to %s; want one to all nodes of no default router", ra, p.to)
	}
	if len(dnr) != 2 || dnr[0] != 12 || dnr[1] != 12 || len(servers) != 1 || servers[0] != 12 {
		t.Errorf("got lifetimes %d and %d; want 12 12 and 12", dnr, servers)
	}
	if ra.options[0].kind() != optionSourceLinkLayer {
		t.Errorf("got option %d first; want our link-layer address", ra.options[0].kind())
	}
	solicit := packet{peer: netip.AddrPortFrom(allRouters, 0), data: []byte{typeRouterSolicitation, 7: 0}}
	if err := h.nd.send(solicit); err != nil {
		t.Fatal(err)
	}
	for p.to != h.link.linkLocal {
		_, p = waitRA(t, h.nd)
	}
	testDHCPv6(t, h)
	testDHCPv4(t, h)

	go stop()
	for final := 0; final < maxFinal; {
		ra, p := waitRA(t, h.nd)
		dnr, servers := lifetimes(t, ra)
		if len(dnr) != 2 || len(servers) != 1 || p.to != allNodes || dnr[0] != dnr[1] || dnr[0] != servers[0] {
			t.Fatalf("got lifetimes %d and %d to %s; want 2 and 1", dnr, servers, p.to)
		}
		if dnr[0] == 0 {
			final++
		}
	}
	stop()
}

func informationRequest(codes ...uint16) dhcp6Message {
	m := dhcp6Message{kind: dhcp6InformationRequest, id: [3]byte{1, 2, 3}}
	m.add(option6ClientID, []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 2})
	var list []byte
	for _, c := range codes {
		list = binary.BigEndian.AppendUint16(list, c)
	}
	m.add(option6Request, list)
	return m
}

func testDHCPv6(t *testing.T, h hostEnds) {
	t.Helper()
	request := informationRequest(OptionDHCPv6, option6DNSServers, option6RefreshTime)
	to := netip.AddrPortFrom(allDHCPServers, dhcp6ServerPort)
	if err := h.dhcp6.send(packet{peer: to, data: request.append(nil)}); err != nil {
		t.Fatal(err)
	}
	p, err := h.dhcp6.receive(make([]byte, maxPacket))
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseDHCPv6(p.data)
	if err != nil || m.kind != dhcp6Reply || m.id != request.id {
		t.Fatalf("got %v, %v; want the reply", m, err)
	}
	data, _ := m.get(OptionDHCPv6)
	in, err := DecodeDHCPv6(data)
	if err != nil || in.ADN != "dns.isp.example." || in.Addresses[0] != server6 {
		t.Errorf("got %v, %v; want our resolver", in, err)
	}
}

func inform(codes ...byte) dhcp4Message {
	m := dhcp4Message{op: bootRequest, hardware: 1, hardwareLen: 6, id: [4]byte{1, 2, 3, 4}, client: host4.As4()}
	m.options = AppendOption4(nil, option4MessageType, []byte{dhcp4Inform})
	m.options = AppendOption4(m.options, option4Request, codes)
	m.options = append(m.options, optionEnd)
	return m
}

func testDHCPv4(t *testing.T, h hostEnds) {
	t.Helper()
	request := inform(OptionDHCPv4, option4DNSServers)
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcp4ServerPort)
	if err := h.dhcp4.send(packet{peer: to, data: request.append(nil)}); err != nil {
		t.Fatal(err)
	}
	p, err := h.dhcp4.receive(make([]byte, maxPacket))
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseDHCPv4(p.data)
	if err != nil || m.op != bootReply || m.id != request.id {
		t.Fatalf("got %v, %v; want the reply", m, err)
	}
	data, _ := m.get(OptionDHCPv4)
	ins, err := DecodeDHCPv4(data)
	if err != nil || len(ins) != 2 || ins[0].Addresses[0] != server4 {
		t.Errorf("got %v, %v; want two ways to our resolver", ins, err)
	}
}
