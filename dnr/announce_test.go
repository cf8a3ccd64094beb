package dnr

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/ddr"
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
		Resolvers: []ddr.Resolver{
			{Priority: 1, Name: "dns.isp.example.", Addresses: both, ALPN: []string{"h3", "h2"}, DoHPath: ddr.DefaultDoHPath},
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

func TestAnnouncer(t *testing.T) {
	runFake(t, func(c *AnnounceConfig) { c.MaxInterval = 4 * time.Second },
		func(t *testing.T, f *fakeSystem, _ *Announcer, _ *lines, stop func()) {
			f.nd.from = netip.AddrPortFrom(host6, 0)
			f.dhcp6.from = netip.AddrPortFrom(host6, dhcp6ClientPort)
			f.dhcp4.from = netip.AddrPortFrom(host4, dhcp4ClientPort)
			testAnnouncer(t, hostEnds{f.nd, f.dhcp6, f.dhcp4, linkState{linkLocal: host6}}, stop)
		})
}

// times returns when the next n Router Advertisements to all nodes come, from now on.
func (f *fakeSystem) times(t *testing.T, n int) (list []time.Duration) {
	t.Helper()
	start := time.Now()
	for len(list) < n {
		if _, p := waitRA(t, f.nd); p.to == allNodes {
			list = append(list, time.Since(start))
		}
	}
	return list
}

func TestAnnouncerInterval(t *testing.T) {
	runFake(t, nil, func(t *testing.T, f *fakeSystem, _ *Announcer, _ *lines, _ func()) {
		got := f.times(t, 6)
		// Half-way between 200 s and 600 s, but for the first three intervals.
		want := []time.Duration{0, 16, 32, 48, 448, 848}
		for i := range want {
			if got[i] != want[i]*time.Second {
				t.Errorf("got %v; want %v seconds", got, want)
				break
			}
		}
	})
}

func (f *fakeSystem) solicit(from netip.Addr) {
	f.nd.from = netip.AddrPortFrom(from, 0)
	_ = f.nd.send(packet{peer: netip.AddrPortFrom(allRouters, 0), data: []byte{typeRouterSolicitation, 7: 0}})
}

// TestAnnouncerManySolicitations floods the announcer with solicitations for a minute: what all hosts get stays at one
// in 3 s.
func TestAnnouncerManySolicitations(t *testing.T) {
	runFake(t, nil, func(t *testing.T, f *fakeSystem, a *Announcer, _ *lines, _ func()) {
		waitRA(t, f.nd)
		start := time.Now()
		for i := range 6000 {
			f.solicit(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(i >> 8), 15: byte(i)}))
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		all, single := 0, 0
		for len(f.nd.in) > 0 {
			if _, p := waitRA(t, f.nd); p.to == allNodes {
				all++
			} else {
				single++
			}
		}
		if took := time.Since(start); all > int(took/minDelayBetween)+1 || all < 10 {
			t.Errorf("got %d to all nodes in %s; want about one in 3.25 s", all, took)
		}
		if single > 60*2*maxUnicast*4 {
			t.Errorf("got %d to single hosts; want far less than the 6000 that asked", single)
		}
		if got := a.Stats().Solicitations; got != 6000 {
			t.Errorf("got %d solicitations; want 6000", got)
		}
	})
}

func TestAnnouncerWithoutAddress(t *testing.T) {
	runFake(t, nil, func(t *testing.T, f *fakeSystem, _ *Announcer, _ *lines, _ func()) {
		f.times(t, 1)
		start := time.Now()
		f.solicit(netip.IPv6Unspecified())
		f.solicit(netip.IPv6Unspecified())
		if got := f.times(t, 1)[0]; got != minDelayBetween+maxDelayOfAnswer/2 {
			t.Errorf("got an answer after %s; want 3.25 s: not sooner after the one before, and one for both", got)
		}
		if got := f.times(t, 1)[0]; got < 15*time.Second {
			t.Errorf("got another after %s, %s in all; want one after 16 s", got, time.Since(start))
		}
	})
}

// TestAnnouncerLink takes the interface through everything that may happen to it.
func TestAnnouncerLink(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*linkState)
		reason string // in the log
		quiet6 bool   // Router Advertisements cannot be sent
	}{
		"down":          {func(l *linkState) { l.up = false }, "the interface is down", true},
		"no-carrier":    {func(l *linkState) { l.carrier = false }, "no carrier", true},
		"renamed":       {func(l *linkState) { *l = linkState{name: "lan0"} }, "no such interface", true},
		"no-link-local": {func(l *linkState) { l.linkLocal = netip.Addr{} }, "no link-local address", true},
		"no-ipv4":       {func(l *linkState) { l.addresses = l.addresses[:1] }, "no IPv4 address", false},
	} {
		t.Run(name, func(t *testing.T) {
			runFake(t, nil, func(t *testing.T, f *fakeSystem, a *Announcer, log *lines, _ func()) {
				f.times(t, 1)
				f.set(test.change)
				f.set(func(*linkState) {}) // something unrelated
				time.Sleep(time.Hour)
				synctest.Wait()
				sent := len(f.nd.in)
				if test.quiet6 && sent > 0 {
					t.Errorf("got %d Router Advertisements; want none", sent)
				}
				if n := log.count(test.reason); n == 0 || n > 3 {
					t.Errorf("got %q %d times; want once for each part", test.reason, n)
				}
				said := log.count("\n")
				time.Sleep(time.Hour)
				if got := log.count("\n"); got != said {
					t.Errorf("got %d lines more; want silence", got-said)
				}
				for len(f.nd.in) > 0 {
					<-f.nd.in
				}
				f.set(func(l *linkState) { *l = readyLink(); l.index++ })
				f.times(t, 1)
				synctest.Wait()
				if got := a.Stats().Announcing; got != 3 {
					t.Errorf("got %d parts at work; want 3", got)
				}
			})
		})
	}
}

// TestAnnouncerNotThere starts before the interface is there.
func TestAnnouncerNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, log := newFakeSystem(linkState{name: "lan0"}), new(lines)
		_, stop := start(t, everything(zerolog.New(log)), f.system())
		defer stop()
		time.Sleep(time.Minute)
		if got := log.count("waiting to announce"); got != 3 {
			t.Errorf("got %d lines; want 3", got)
		}
		f.set(func(l *linkState) { *l = readyLink() })
		f.times(t, 1)
	})
}

// TestAnnouncerNews changes what is announced, and where it is announced.
func TestAnnouncerNews(t *testing.T) {
	var mu sync.Mutex
	an := announced()
	source := func(Link) Announcement { mu.Lock(); defer mu.Unlock(); return an }
	runFake(t, func(c *AnnounceConfig) { c.Source = source }, func(t *testing.T, f *fakeSystem, _ *Announcer, _ *lines, stop func()) {
		f.times(t, 4)
		mu.Lock()
		an = Announcement{Servers: []netip.Addr{netip.MustParseAddr("2001:db8:1::54")}} // the certificate has expired
		mu.Unlock()
		for i := range 4 {
			ra, _ := waitRA(t, f.nd)
			dnr, servers := lifetimes(t, ra)
			withdrawn := len(dnr) == 2 && dnr[0] == 0 && len(servers) == 2 && servers[0] == 0 && servers[1] == 1800
			forgotten := len(dnr) == 0 && len(servers) == 1 && servers[0] == 1800
			if i < maxInitial && !withdrawn || i >= maxInitial && !forgotten {
				t.Errorf("%d: got lifetimes %d and %d; want the old to be withdrawn three times", i, dnr, servers)
			}
		}
		mu.Lock()
		an = announced()
		mu.Unlock()
		if got := f.times(t, 1)[0]; got > refreshAfter {
			t.Errorf("got the news after %s; want %s", got, refreshAfter)
		}
	})
}

func TestNewAnnouncer(t *testing.T) {
	good := everything(zerolog.Nop())
	for name, test := range map[string]struct {
		change func(*AnnounceConfig)
		part   string
		open   error
		want   string
	}{
		"good":         {},
		"no-interface": {change: func(c *AnnounceConfig) { c.Interface = "" }, want: "no interface"},
		"nothing":      {change: func(c *AnnounceConfig) { c.RA, c.DHCPv4, c.DHCPv6 = false, false, false }, want: "none of RA"},
		"too-often":    {change: func(c *AnnounceConfig) { c.MaxInterval = time.Second }, want: "want 4s to 30m0s"},
		"too-seldom":   {change: func(c *AnnounceConfig) { c.MaxInterval = time.Hour }, want: "want 4s to 30m0s"},
		"no-rights":    {part: partRA, open: fs.ErrPermission, want: "announce on lan0: ra: permission denied"},
		"port-taken":   {part: partDHCPv4, open: errPortTaken, want: "dhcpv4: dnr: port in use"},
		"other-error":  {part: partDHCPv6, open: errors.New("bus on fire")},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, f := good, newFakeSystem(readyLink())
			if test.change != nil {
				test.change(&cfg)
			}
			f.fail(test.part, test.open)
			_, err := newAnnouncer(cfg, f.system())
			if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want %q", err, test.want)
			}
		})
	}
}

// TestAnnouncerRetries lets a port be taken by another server for a while, which must not keep the other parts waiting.
func TestAnnouncerRetries(t *testing.T) {
	runFake(t, nil, func(t *testing.T, f *fakeSystem, a *Announcer, log *lines, _ func()) {
		f.times(t, 1)
		f.fail(partDHCPv4, errPortTaken)
		f.set(func(l *linkState) { l.index++ })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := a.Stats().Announcing; got != 2 {
			t.Errorf("got %d parts at work; want 2", got)
		}
		if got := log.count("port in use"); got != 1 {
			t.Errorf("got %d lines about the port; want 1", got)
		}
		f.fail(partDHCPv4, nil)
		time.Sleep(retryAfter)
		synctest.Wait()
		if got := a.Stats().Announcing; got != 3 {
			t.Errorf("got %d parts at work; want 3", got)
		}
	})
}

// TestAnnouncerNothingToSay has no IPv6 address to announce: no Router Advertisement is sent, also none at the end.
func TestAnnouncerNothingToSay(t *testing.T) {
	change := func(c *AnnounceConfig) {
		c.Source = func(Link) Announcement { return Announcement{Servers: []netip.Addr{server4}} }
	}
	runFake(t, change, func(t *testing.T, f *fakeSystem, a *Announcer, log *lines, stop func()) {
		time.Sleep(time.Hour)
		stop()
		if got := a.Stats().Advertisements; got != 0 {
			t.Errorf("got %d Router Advertisements; want none", got)
		}
		if got := log.count("no resolver with an IPv6 address"); got != 1 {
			t.Errorf("got %d lines about it; want 1", got)
		}
	})
}

// TestAnnouncerFinal measures the end: three Router Advertisements, no faster than any others.
func TestAnnouncerFinal(t *testing.T) {
	runFake(t, nil, func(t *testing.T, f *fakeSystem, a *Announcer, _ *lines, stop func()) {
		f.times(t, 1)
		start := time.Now()
		stop()
		if got, want := time.Since(start), maxFinal*minDelayBetween; got != want {
			t.Errorf("got an end after %s; want %s", got, want)
		}
		if got := a.Stats().Advertisements; got != 1+maxFinal {
			t.Errorf("got %d Router Advertisements; want 4", got)
		}
	})
}

// TestAnnouncerBadInput sends what must be neither answered nor adopted.
func TestAnnouncerBadInput(t *testing.T) {
	router := routerAdvertisement{managed: true, lifetime: 1800}
	router.options = []ndOption{{OptionRA, 1, 0, 0, 0, 0, 0, 0}}
	router.options = append(router.options, rdnss([]netip.Addr{netip.MustParseAddr("2001:db8::bad")}, time.Hour)...)
	rogue := router.append(nil)
	many := append(routerAdvertisement{}.append(nil), bytes.Repeat([]byte{200, 1, 0, 0, 0, 0, 0, 0}, 8000)...)
	long := append(routerAdvertisement{}.append(nil), append([]byte{OptionRA, 255}, make([]byte, 2038)...)...)
	runFake(t, nil, func(t *testing.T, f *fakeSystem, a *Announcer, log *lines, _ func()) {
		f.times(t, 1)
		bad := []packet{
			{},
			{data: []byte{typeRouterSolicitation}},
			{data: []byte{typeRouterSolicitation, 1, 7: 0}},
			{data: []byte{typeRouterSolicitation, 7: 0}, hops: 64},
			{data: []byte{typeRouterSolicitation, 7: 0, 8: 1, 9: 0}},
			{data: rogue[:12]},
			{data: rogue[:20]},
			{data: rogue, hops: 254},
			{data: append(bytes.Clone(rogue), 1, 2)},
		}
		f.nd.from = netip.AddrPortFrom(host6, 0)
		for _, p := range bad {
			_ = f.nd.send(p)
		}
		for range 3 {
			for _, data := range [][]byte{rogue, many, long} {
				_ = f.nd.send(packet{data: data})
			}
		}
		synctest.Wait()
		if got := a.Stats(); got.Invalid != uint64(len(bad)) || got.Solicitations != 0 {
			t.Errorf("got %+v; want %d invalid messages", got, len(bad))
		}
		for _, d := range []string{"M flag is true there", "2001:db8::bad", "discard"} {
			if n := log.count(d); n < 1 || n > 2 {
				t.Errorf("got %q %d times; want it to be reported once", d, n)
			}
		}
		ra, _ := waitRA(t, f.nd)
		if dnr, servers := lifetimes(t, ra); len(dnr) != 2 || len(servers) != 1 || ra.managed {
			t.Errorf("got %v and %v; want what was announced before", dnr, servers)
		}
	})
}

// TestAnnouncerOnRouter has a host that is the link's router, because it forwards, or because another program says so.
// What we advertise must not come from its address: a router lifetime of 0 would take the default route away.
func TestAnnouncerOnRouter(t *testing.T) {
	runFake(t, nil, func(t *testing.T, f *fakeSystem, _ *Announcer, _ *lines, _ func()) {
		own := readyLink().linkLocal
		if _, p := waitRA(t, f.nd); p.peer.Addr() != own {
			t.Errorf("got %s; want %s", p.peer.Addr(), own)
		}
		f.nd.from = netip.AddrPortFrom(own, 0)
		_ = f.nd.send(packet{data: routerAdvertisement{lifetime: 1800}.append(nil)})
		_, first := waitRA(t, f.nd)
		if first.peer.Addr() == own || !first.peer.Addr().IsLinkLocalUnicast() {
			t.Errorf("got %s beside a router of this host; want another link-local address", first.peer.Addr())
		}
		if _, p := waitRA(t, f.nd); p.peer != first.peer {
			t.Errorf("got %s and %s; want one address", first.peer, p.peer)
		}
	})
	r := advertiser{}
	l := readyLink()
	l.forwards = true
	if got := r.source(l); got == l.linkLocal || got != r.source(l) {
		t.Errorf("got %s on a host that forwards; want another address, always the same", got)
	}
}

// TestAnnouncerReplyRate asks more often than is answered.
func TestAnnouncerReplyRate(t *testing.T) {
	runFake(t, nil, func(t *testing.T, f *fakeSystem, a *Announcer, _ *lines, _ func()) {
		f.dhcp6.from = netip.AddrPortFrom(host6, dhcp6ClientPort)
		request := packet{
			peer: netip.AddrPortFrom(allDHCPServers, dhcp6ServerPort), data: informationRequest(OptionDHCPv6).append(nil),
		}
		for range 10 {
			for range 100 {
				_ = f.dhcp6.send(request)
			}
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		got := a.Stats()
		if got.DHCPv6 < replyRate || got.DHCPv6 > 2*replyRate || got.DHCPv6+got.Limited != 1000 {
			t.Errorf("got %+v; want %d to %d replies", got, replyRate, 2*replyRate)
		}
	})
}
