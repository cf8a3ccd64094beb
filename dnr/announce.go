package dnr

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// AnnounceConfig is what NewAnnouncer needs.
type AnnounceConfig struct {
	// Interface is the name of the link's network interface, which need not exist yet.
	Interface string
	// RA, DHCPv6 and DHCPv4 say by which means the link is told; at least one of them.
	RA, DHCPv6, DHCPv4 bool
	// MaxInterval is the longest time between Router Advertisements, 4 s to 30 min; 0 means 10 min. Hosts are told to
	// forget after three times that. See RFC 4861, Section 6.2.1; RFC 9463, Section 6.1.
	MaxInterval time.Duration
	// Managed and Other are the flags M and O of Router Advertisements, which should be those of the link's other
	// routers. See RFC 4861, Section 6.2.7.
	Managed, Other bool
	// Source returns what is to be announced on a link at this moment. It is asked often, also from several goroutines
	// at the same time.
	Source func(Link) Announcement
	// Log gets to know what the link's other routers advertise, and at the level of debugging who sends nonsense.
	Log zerolog.Logger
}

// Link is what a Source may depend on.
type Link struct {
	Interface string
	Addresses []netip.Addr // of this host on the link that can be used, without those of the link alone
}

// Announcement is what hosts on a link are told. If it is empty, what they were told before is withdrawn.
type Announcement struct {
	Resolvers []svcb.Resolver // designated resolvers, one for each transport
	Servers   []netip.Addr    // resolvers without encryption, at port 53
	PvD       PvD             // the provisioning domain; without an ID there is none
}

// PvD is a provisioning domain. See RFC 8801, Section 3.1.
type PvD struct {
	ID       string // a domain name
	Sequence uint16 // changes whenever the additional information does
	Info     bool   // whether there is additional information at https://ID/.well-known/pvd
}

// AnnounceStats counts since the start.
type AnnounceStats struct {
	Solicitations  uint64 // valid Router Solicitations
	Advertisements uint64 // Router Advertisements sent
	DHCPv6         uint64 // replies sent
	DHCPv4         uint64 // acknowledgements sent
	Invalid        uint64 // messages that were malformed or from beyond the link
	Limited        uint64 // requests without an answer because there were too many
	Announcing     int    // how many of RA, DHCPv6 and DHCPv4 work at the moment
}

// Announcer tells the hosts of one link of designated resolvers: by Router Advertisements with a router lifetime of 0,
// so that it never becomes a default router; by replies to the Information-request of DHCPv6; and by replies to the
// DHCPINFORM of DHCPv4. It leases no addresses, and says in DHCP only what was asked for. It waits for its interface to
// exist, to be up and to have an address, as often as that takes.
type Announcer struct {
	// set once by NewAnnouncer
	cfg   AnnounceConfig
	sys   system
	parts []*part

	link  atomic.Pointer[linkState]
	stats struct{ solicitations, advertisements, dhcpv6, dhcpv4, invalid, limited atomic.Uint64 }
}

// errNothing is what an AnnounceConfig without means gets.
var errNothing = errors.New("dnr: none of RA, DHCPv6 and DHCPv4 is to be announced by")

// errPortTaken is what another DHCP server on this host leaves us.
var errPortTaken = errors.New("dnr: port in use")

// NewAnnouncer checks cfg, and that this process has the rights for it and no other the ports.
func NewAnnouncer(cfg AnnounceConfig) (*Announcer, error) {
	return newAnnouncer(cfg, thisSystem())
}

func newAnnouncer(cfg AnnounceConfig, sys system) (*Announcer, error) {
	if cfg.MaxInterval == 0 {
		cfg.MaxInterval = defaultMaxInterval
	}
	switch {
	case cfg.Interface == "":
		return nil, errors.New("dnr: no interface to announce on")
	case !cfg.RA && !cfg.DHCPv6 && !cfg.DHCPv4:
		return nil, errNothing
	case cfg.MaxInterval < shortestMaxInterval || cfg.MaxInterval > longestMaxInterval:
		return nil, fmt.Errorf("dnr: Router Advertisements at least every %s; want %s to %s", cfg.MaxInterval,
			shortestMaxInterval, longestMaxInterval)
	}
	a := &Announcer{cfg: cfg, sys: sys}
	a.addParts()
	if err := a.try(); err != nil {
		return nil, fmt.Errorf("announce on %s: %w", cfg.Interface, err)
	}
	return a, nil
}

// jitter returns a random duration up to d.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

func (a *Announcer) addParts() {
	if a.cfg.RA {
		r := newAdvertiser(a)
		a.addPart(partRA, linkState.notReady6, a.sys.openND, r.serve)
	}
	if a.cfg.DHCPv6 {
		a.addPart(partDHCPv6, linkState.notReady6, a.sys.openDHCPv6, (&dhcpServer{Announcer: a, answer: a.answerDHCPv6}).serve)
	}
	if a.cfg.DHCPv4 {
		a.addPart(partDHCPv4, linkState.notReady4, a.sys.openDHCPv4, (&dhcpServer{Announcer: a, answer: a.answerDHCPv4}).serve)
	}
}

// Names of the parts, as the configuration has them.
const (
	partRA     = "ra"
	partDHCPv6 = "dhcpv6"
	partDHCPv4 = "dhcpv4"
)

func (a *Announcer) addPart(name string, notReady func(linkState) string, open openFunc, serve serveFunc) {
	a.parts = append(a.parts, &part{
		name: name, notReady: notReady, open: open, serve: serve, kick: make(chan struct{}, 1),
		log: a.cfg.Log.With().Str("interface", a.cfg.Interface).Str("by", name).Logger(),
	})
}

// try opens what Run will, so that lack of rights and ports that are in use are found at the start. What else may fail,
// such as that there is no such interface yet, is a matter of waiting.
func (a *Announcer) try() error {
	l, err := a.sys.look(a.cfg.Interface)
	if err != nil {
		return err
	}
	a.link.Store(&l)
	for _, p := range a.parts {
		conn, err := p.open(l)
		switch {
		case err == nil:
			if err := conn.Close(); err != nil {
				return err
			}
		case isPermission(err), errors.Is(err, errPortTaken):
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// Run announces until ctx is done, and then withdraws what was announced by Router Advertisements, which takes up to
// 9 s. It returns nil: what goes wrong meanwhile is logged, and tried again.
func (a *Announcer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { a.watch(ctx) })
	for _, p := range a.parts {
		wg.Go(func() { p.keep(ctx, a) })
	}
	wg.Wait()
	return nil
}

// watch follows the interface until ctx is done.
func (a *Announcer) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.sys.watch(ctx, a.cfg.Interface, func(l linkState) {
			a.link.Store(&l)
			for _, p := range a.parts {
				p.wake()
			}
		})
		if err == nil || ctx.Err() != nil {
			return
		}
		a.cfg.Log.Warn().Err(err).Str("interface", a.cfg.Interface).Msg("cannot follow the interface; trying again")
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
}

// current returns what is to be announced now.
func (a *Announcer) current() Announcement {
	l := a.link.Load()
	return a.cfg.Source(Link{Interface: l.name, Addresses: l.usable()})
}

// lifetime is how long what was announced holds. See RFC 9463, Section 6.1.
func (a *Announcer) lifetime() time.Duration { return 3 * a.cfg.MaxInterval }

// Stats returns a snapshot.
func (a *Announcer) Stats() AnnounceStats {
	s := AnnounceStats{
		Solicitations:  a.stats.solicitations.Load(),
		Advertisements: a.stats.advertisements.Load(),
		DHCPv6:         a.stats.dhcpv6.Load(),
		DHCPv4:         a.stats.dhcpv4.Load(),
		Invalid:        a.stats.invalid.Load(),
		Limited:        a.stats.limited.Load(),
	}
	for _, p := range a.parts {
		if p.working.Load() {
			s.Announcing++
		}
	}
	return s
}

// Multicast addresses of one link. See RFC 4291, Section 2.7.1; RFC 8415, Section 7.1.
var (
	allNodes       = netip.MustParseAddr("ff02::1")
	allRouters     = netip.MustParseAddr("ff02::2")
	allDHCPServers = netip.MustParseAddr("ff02::1:2")
)

// system is what the announcer needs of the operating system.
type system struct {
	// look returns the state of an interface now.
	look func(name string) (linkState, error)
	// watch tells changed the state of an interface at the beginning and after each change, until ctx is done.
	watch func(ctx context.Context, name string, changed func(linkState)) error

	openND, openDHCPv6, openDHCPv4 openFunc

	// random returns a duration between 0 and d.
	random func(d time.Duration) time.Duration
}

// openFunc opens a socket of one part on a link.
type openFunc func(linkState) (packetConn, error)

// serveFunc serves a link until ctx is done or something happens to conn or the link. See part.
type serveFunc func(ctx context.Context, s *session) error

// packetConn is a socket on one link.
type packetConn interface {
	// receive waits for a packet, whose data may share memory with buf.
	receive(buf []byte) (packet, error)
	send(packet) error
	// Close makes receive return an error.
	Close() error
}

// packet is a message, received or to be sent.
type packet struct {
	peer netip.AddrPort // who sent it, or is to get it; without zone
	to   netip.Addr     // where a received one was sent to
	from netip.Addr     // source of a Router Advertisement to be sent
	hops int            // hop limit of a received one; 0 if unknown
	data []byte
}

// linkState is what is known of an interface. Without an index there is no interface of that name.
type linkState struct {
	name      string
	index     int
	up        bool // by its administrator
	carrier   bool
	forwards  bool // IPv6, as routers do
	mtu       int
	mac       net.HardwareAddr
	linkLocal netip.Addr     // that passed Duplicate Address Detection; zero if there is none
	addresses []netip.Prefix // the others that did, with the prefixes of the link
}

func (l linkState) exists() bool { return l.index != 0 }

// notReady says why nothing can be sent on the link, or "".
func (l linkState) notReady() string {
	switch {
	case !l.exists():
		return "there is no such interface"
	case !l.up:
		return "the interface is down"
	case !l.carrier:
		return "the interface has no carrier"
	}
	return ""
}

func (l linkState) notReady6() string {
	if why := l.notReady(); why != "" {
		return why
	}
	if !l.linkLocal.IsValid() {
		return "the interface has no link-local address yet"
	}
	return ""
}

func (l linkState) notReady4() string {
	if why := l.notReady(); why != "" {
		return why
	}
	if !l.ipv4().IsValid() {
		return "the interface has no IPv4 address"
	}
	return ""
}

// ipv4 returns the first IPv4 address, or the zero Addr.
func (l linkState) ipv4() netip.Addr {
	for _, p := range l.addresses {
		if p.Addr().Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// usable returns the addresses without their prefixes.
func (l linkState) usable() (addrs []netip.Addr) {
	for _, p := range l.addresses {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// onLink reports whether addr is a neighbour's.
func (l linkState) onLink(addr netip.Addr) bool {
	for _, p := range l.addresses {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// sameSocket reports whether a socket that was opened for l is right for m.
func (l linkState) sameSocket(m linkState) bool {
	return l.index == m.index && l.name == m.name && l.up == m.up && l.carrier == m.carrier && l.forwards == m.forwards &&
		l.linkLocal == m.linkLocal && l.ipv4() == m.ipv4() && l.mac.String() == m.mac.String()
}
