package announce

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

func TestAnnouncer(t *testing.T) {
	runFake(t, func(c *Config) { c.MaxInterval = 4 * time.Second },
		func(t *testing.T, f *fakeSystem, _ *Announcer, _ *lines, stop func()) {
			f.nd.from = netip.AddrPortFrom(host6, 0)
			f.dhcp6.from = netip.AddrPortFrom(host6, link.DHCPv6ClientPort)
			f.dhcp4.from = netip.AddrPortFrom(host4, link.DHCPv4ClientPort)
			testAnnouncer(t, hostEnds{f.nd, f.dhcp6, f.dhcp4, link.State{LinkLocal: host6}}, stop)
		})
}

// times returns when the next n Router Advertisements to all nodes come, from now on.
func (f *fakeSystem) times(t *testing.T, n int) (list []time.Duration) {
	t.Helper()
	start := time.Now()
	for len(list) < n {
		if _, p := waitRA(t, f.nd); p.To == link.AllNodes {
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
	_ = f.nd.Send(link.Packet{Peer: netip.AddrPortFrom(link.AllRouters, 0), Data: []byte{link.TypeRouterSolicitation, 7: 0}})
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
			if _, p := waitRA(t, f.nd); p.To == link.AllNodes {
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
		change func(*link.State)
		reason string // in the log
		quiet6 bool   // Router Advertisements cannot be sent
	}{
		"down":          {func(l *link.State) { l.Up = false }, "the interface is down", true},
		"no-carrier":    {func(l *link.State) { l.Carrier = false }, "no carrier", true},
		"renamed":       {func(l *link.State) { *l = link.State{Name: "lan0"} }, "no such interface", true},
		"no-link-local": {func(l *link.State) { l.LinkLocal = netip.Addr{} }, "no link-local address", true},
		"no-ipv4":       {func(l *link.State) { l.Addresses = l.Addresses[:1] }, "no IPv4 address", false},
	} {
		t.Run(name, func(t *testing.T) {
			runFake(t, nil, func(t *testing.T, f *fakeSystem, a *Announcer, log *lines, _ func()) {
				f.times(t, 1)
				f.set(test.change)
				f.set(func(*link.State) {}) // something unrelated
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
				f.set(func(l *link.State) { *l = readyLink(); l.Index++ })
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
		f, log := newFakeSystem(link.State{Name: "lan0"}), new(lines)
		_, stop := start(t, everything(zerolog.New(log)), f.system())
		defer stop()
		time.Sleep(time.Minute)
		if got := log.count("waiting to announce"); got != 3 {
			t.Errorf("got %d lines; want 3", got)
		}
		f.set(func(l *link.State) { *l = readyLink() })
		f.times(t, 1)
	})
}

// TestAnnouncerChanges changes what is announced, and where it is announced.
func TestAnnouncerChanges(t *testing.T) {
	var mu sync.Mutex
	an := announced()
	source := func(Link) Content { mu.Lock(); defer mu.Unlock(); return an }
	runFake(t, func(c *Config) { c.Source = source }, func(t *testing.T, f *fakeSystem, _ *Announcer, _ *lines, stop func()) {
		f.times(t, 4)
		mu.Lock()
		an = Content{Servers: []netip.Addr{netip.MustParseAddr("2001:db8:1::54")}} // the certificate has expired
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
		change func(*Config)
		part   string
		open   error
		want   string
	}{
		"good":         {},
		"no-interface": {change: func(c *Config) { c.Interface = "" }, want: "interface: missing"},
		"nothing":      {change: func(c *Config) { c.RA, c.DHCPv4, c.DHCPv6 = false, false, false }, want: "announces by no means"},
		"too-often":    {change: func(c *Config) { c.MaxInterval = time.Second }, want: "want 4s to 30m0s"},
		"too-seldom":   {change: func(c *Config) { c.MaxInterval = time.Hour }, want: "want 4s to 30m0s"},
		"no-rights":    {part: byRA, open: fs.ErrPermission, want: "announce on lan0: ra: permission denied"},
		"port-taken":   {part: byDHCPv4, open: link.ErrPortTaken, want: "dhcpv4: link: port in use"},
		"other-error":  {part: byDHCPv6, open: errors.New("bus on fire")},
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
		f.fail(byDHCPv4, link.ErrPortTaken)
		f.set(func(l *link.State) { l.Index++ })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := a.Stats().Announcing; got != 2 {
			t.Errorf("got %d parts at work; want 2", got)
		}
		if got := log.count("port in use"); got != 1 {
			t.Errorf("got %d lines about the port; want 1", got)
		}
		f.fail(byDHCPv4, nil)
		time.Sleep(retryAfter)
		synctest.Wait()
		if got := a.Stats().Announcing; got != 3 {
			t.Errorf("got %d parts at work; want 3", got)
		}
	})
}

// TestAnnouncerCannotWatch loses its connection to the operating system, which tells it of a change only later.
func TestAnnouncerCannotWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, log := newFakeSystem(link.State{Name: "lan0"}), new(lines)
		sys, failures := f.system(), 0
		watch := sys.watch
		sys.watch = func(ctx context.Context, name string, changed func(link.State)) error {
			if failures++; failures < 3 {
				return errors.New("out of memory")
			}
			return watch(ctx, name, changed)
		}
		_, stop := start(t, everything(zerolog.New(log)), sys)
		defer stop()
		f.set(func(l *link.State) { *l = readyLink() })
		if got, want := f.times(t, 1)[0], 2*retryAfter; got != want {
			t.Errorf("got a Router Advertisement after %s; want %s", got, want)
		}
		if got := log.count("out of memory"); got != 2 {
			t.Errorf("got %d lines about it; want 2", got)
		}
	})
}

// TestAnnouncerNothingToAnnounce has no IPv6 address to announce: no Router Advertisement is sent, also none at the end.
func TestAnnouncerNothingToAnnounce(t *testing.T) {
	change := func(c *Config) {
		c.Source = func(Link) Content { return Content{Servers: []netip.Addr{server4}} }
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
	router := link.RouterAdvertisement{Managed: true, Lifetime: 1800}
	router.Options = []link.NDOption{{dnr.OptionRA, 1, 0, 0, 0, 0, 0, 0}}
	router.Options = append(router.Options, link.RDNSS([]netip.Addr{netip.MustParseAddr("2001:db8::bad")}, time.Hour)...)
	rogue := router.Append(nil)
	many := append(link.RouterAdvertisement{}.Append(nil), bytes.Repeat([]byte{200, 1, 0, 0, 0, 0, 0, 0}, 8000)...)
	long := append(link.RouterAdvertisement{}.Append(nil), append([]byte{dnr.OptionRA, 255}, make([]byte, 2038)...)...)
	runFake(t, nil, func(t *testing.T, f *fakeSystem, a *Announcer, log *lines, _ func()) {
		f.times(t, 1)
		bad := []link.Packet{
			{},
			{Data: []byte{link.TypeRouterSolicitation}},
			{Data: []byte{link.TypeRouterSolicitation, 1, 7: 0}},
			{Data: []byte{link.TypeRouterSolicitation, 7: 0}, Hops: 64},
			{Data: []byte{link.TypeRouterSolicitation, 7: 0, 8: 1, 9: 0}},
			{Data: rogue[:12]},
			{Data: rogue[:20]},
			{Data: rogue, Hops: 254},
			{Data: append(bytes.Clone(rogue), 1, 2)},
		}
		f.nd.from = netip.AddrPortFrom(host6, 0)
		for _, p := range bad {
			_ = f.nd.Send(p)
		}
		for range 3 {
			for _, data := range [][]byte{rogue, many, long} {
				_ = f.nd.Send(link.Packet{Data: data})
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
		if dnr, servers := lifetimes(t, ra); len(dnr) != 2 || len(servers) != 1 || ra.Managed {
			t.Errorf("got %v and %v; want what was announced before", dnr, servers)
		}
	})
}

// TestAnnouncerOnRouter has a host that is the link's router, because it forwards, or because another program says so.
// What we advertise must not come from its address: a router lifetime of 0 would take the default route away.
func TestAnnouncerOnRouter(t *testing.T) {
	runFake(t, nil, func(t *testing.T, f *fakeSystem, _ *Announcer, _ *lines, _ func()) {
		own := readyLink().LinkLocal
		if _, p := waitRA(t, f.nd); p.Peer.Addr() != own {
			t.Errorf("got %s; want %s", p.Peer.Addr(), own)
		}
		f.nd.from = netip.AddrPortFrom(own, 0)
		_ = f.nd.Send(link.Packet{Data: link.RouterAdvertisement{Lifetime: 1800}.Append(nil)})
		_, first := waitRA(t, f.nd)
		if first.Peer.Addr() == own || !first.Peer.Addr().IsLinkLocalUnicast() {
			t.Errorf("got %s beside a router of this host; want another link-local address", first.Peer.Addr())
		}
		if _, p := waitRA(t, f.nd); p.Peer != first.Peer {
			t.Errorf("got %s and %s; want one address", first.Peer, p.Peer)
		}
	})
	r := advertiser{}
	l := readyLink()
	l.Forwards = true
	if got := r.source(l); got == l.LinkLocal || got != r.source(l) {
		t.Errorf("got %s on a host that forwards; want another address, always the same", got)
	}
}

// TestAnnouncerReplyRate asks more often than is answered.
func TestAnnouncerReplyRate(t *testing.T) {
	runFake(t, nil, func(t *testing.T, f *fakeSystem, a *Announcer, _ *lines, _ func()) {
		f.dhcp6.from = netip.AddrPortFrom(host6, link.DHCPv6ClientPort)
		request := link.Packet{
			Peer: netip.AddrPortFrom(link.AllDHCPServers, link.DHCPv6ServerPort), Data: informationRequest(dnr.OptionDHCPv6).Append(nil),
		}
		for range 10 {
			for range 100 {
				_ = f.dhcp6.Send(request)
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
