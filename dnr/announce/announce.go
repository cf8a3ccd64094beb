// Package announce sends the Encrypted DNS options of RFC 9463 to the hosts of a link, for networks whose routers and DHCP
// servers cannot: in Router Advertisements with a router lifetime of 0, in replies to the Information-request of DHCPv6,
// and in replies to the DHCPINFORM of DHCPv4. Beside designated resolvers it announces those without encryption and the
// provisioning domain (RFC 8106, RFC 8801).
//
// It never leases an address, never becomes a default router, and adopts nothing of what other routers advertise. What is
// announced comes from Config.Source; package dnr makes options of it, and package link has the sockets.
//
// The command makes one Announcer for each link, calls Run in a goroutine of its own, and Stats from any. Run has one
// goroutine for the state of the interface and, for each of the three means, one that serves and one that receives. They
// share the state of the link and the counters, which are atomic; everything else belongs to one of them.
package announce

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// Config is what NewAnnouncer needs.
type Config struct {
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
	Source func(Link) Content
	// Log gets to know what the link's other routers advertise, and at the level of debugging who sends nonsense.
	Log zerolog.Logger
}

// Link is what a Source may depend on.
type Link struct {
	Interface string
	Addresses []netip.Addr // of this host on the link that can be used, without those of the link alone
}

// Content is what hosts on a link are told. If it is empty, what they were told before is withdrawn.
type Content struct {
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

// Stats counts since the start.
type Stats struct {
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
	cfg   Config
	sys   system
	parts []*part

	link  atomic.Pointer[link.State]
	stats struct{ solicitations, advertisements, dhcpv6, dhcpv4, invalid, limited atomic.Uint64 }
}

// errNothing is what an AnnounceConfig without means gets.
var errNothing = errors.New("announce: none of RA, DHCPv6 and DHCPv4 is to be announced by")

// New checks cfg, and that this process has the rights for it and no other the ports.
func New(cfg Config) (*Announcer, error) {
	return newAnnouncer(cfg, thisSystem())
}

func newAnnouncer(cfg Config, sys system) (*Announcer, error) {
	if cfg.MaxInterval == 0 {
		cfg.MaxInterval = defaultMaxInterval
	}
	switch {
	case cfg.Interface == "":
		return nil, errors.New("announce: no interface to announce on")
	case !cfg.RA && !cfg.DHCPv6 && !cfg.DHCPv4:
		return nil, errNothing
	case cfg.MaxInterval < shortestMaxInterval || cfg.MaxInterval > longestMaxInterval:
		return nil, fmt.Errorf("announce: Router Advertisements at least every %s; want %s to %s", cfg.MaxInterval,
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
		a.addPart(partRA, link.State.NotReady6, a.sys.openND, r.serve)
	}
	if a.cfg.DHCPv6 {
		a.addPart(partDHCPv6, link.State.NotReady6, a.sys.openDHCPv6, newDHCPServer(a, a.answerDHCPv6).serve)
	}
	if a.cfg.DHCPv4 {
		a.addPart(partDHCPv4, link.State.NotReady4, a.sys.openDHCPv4, newDHCPServer(a, a.answerDHCPv4).serve)
	}
}

// Names of the parts, as the configuration has them.
const (
	partRA     = "ra"
	partDHCPv6 = "dhcpv6"
	partDHCPv4 = "dhcpv4"
)

func (a *Announcer) addPart(name string, notReady func(link.State) string, open openFunc, serve serveFunc) {
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
		case errors.Is(err, fs.ErrPermission), errors.Is(err, link.ErrPortTaken):
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
		err := a.sys.watch(ctx, a.cfg.Interface, func(l link.State) {
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
func (a *Announcer) current() Content {
	l := a.link.Load()
	return a.cfg.Source(Link{Interface: l.Name, Addresses: l.Usable()})
}

// lifetime is how long what was announced holds. See RFC 9463, Section 6.1.
func (a *Announcer) lifetime() time.Duration { return 3 * a.cfg.MaxInterval }

// Stats returns a snapshot.
func (a *Announcer) Stats() Stats {
	s := Stats{
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

// system is what the announcer needs of the operating system.
type system struct {
	// look returns the state of an interface now.
	look func(name string) (link.State, error)
	// watch tells changed the state of an interface at the beginning and after each change, until ctx is done.
	watch func(ctx context.Context, name string, changed func(link.State)) error

	openND, openDHCPv6, openDHCPv4 openFunc

	// random returns a duration between 0 and d.
	random func(d time.Duration) time.Duration
}

// openFunc opens a socket of one part on a link.
type openFunc func(link.State) (link.Conn, error)

// serveFunc serves a link until ctx is done or something happens to conn or the link. See part.
type serveFunc func(ctx context.Context, s *session) error
