// Package announce sends the Encrypted DNS options of RFC 9463 to the hosts of a link, for networks whose routers and
// DHCP servers cannot: in Router Advertisements with a router lifetime of 0, in replies to the Information-request of
// DHCPv6, and in replies to the DHCPINFORM of DHCPv4. Beside designated resolvers it announces those without encryption
// and the provisioning domain (RFC 8106, RFC 8801).
//
// It never leases an address, never becomes a default router, and adopts nothing of what other routers advertise. What
// is announced comes from Config.Source; package dnr makes options of it, and package link has the sockets.
//
// The command makes one Announcer for each link, calls Run in a goroutine of its own, and Stats from any. Run has one
// goroutine for the state of the interface and, for each of the three means, one that serves and one that receives.
// They share the state of the link and the counters, which are atomic; everything else belongs to one of them.
package announce

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// Config is what New needs.
type Config struct {
	// Interface is the name of the link's network interface, which need not exist yet.
	Interface string
	// RA, DHCPv6 and DHCPv4 say by which means to announce; at least one of them.
	RA, DHCPv6, DHCPv4 bool
	// MaxInterval is the longest time between Router Advertisements, 4 s to 30 min; 0 means 10 min. What
	// hosts receive expires after three times that. See RFC 4861, Section 6.2.1; RFC 9463, Section 6.1.
	MaxInterval time.Duration
	// Managed and Other are the flags M and O of Router Advertisements, which should be those of the link's other
	// routers. See RFC 4861, Section 6.2.7.
	Managed, Other bool
	// Source returns what is to be announced on a link at this moment. It is called every few seconds and for each
	// request, from several goroutines at the same time.
	Source func(Link) Content
	// Log receives changes of state and contradictions of other routers, and at debug level each malformed message.
	Log zerolog.Logger
}

// Link is what a Source may depend on.
type Link struct {
	Interface string
	Addresses []netip.Addr // usable ones of this host on the link, except link-local ones
}

// Content is what is announced on a link. Announcing an empty one withdraws what was announced before.
type Content struct {
	Resolvers []svcb.Resolver // designated resolvers, one for each transport
	Servers   []netip.Addr    // resolvers without encryption, at port 53
	PvD       PvD             // the provisioning domain; none if its ID is empty
}

// Stats counts since the start.
type Stats struct {
	Solicitations  uint64 // valid Router Solicitations
	Advertisements uint64 // Router Advertisements sent
	DHCPv6         uint64 // replies sent
	DHCPv4         uint64 // acknowledgements sent
	Invalid        uint64 // messages that were malformed or from beyond the link
	Limited        uint64 // DHCP requests dropped because there were too many
	Announcing     int    // how many of RA, DHCPv6 and DHCPv4 work at the moment
}

// Announcer announces designated resolvers to the hosts of one link: by Router Advertisements with a router lifetime of
// 0, so that it never becomes a default router; by replies to the Information-request of DHCPv6; and by replies to the
// DHCPINFORM of DHCPv4. It leases no addresses, and sends by DHCP only what was asked for. Whenever its interface does
// not exist, is down or has no address, it waits until that changes.
type Announcer struct {
	// set once by New
	cfg   Config
	sys   system
	means []*means

	link  atomic.Pointer[link.State]
	stats struct{ solicitations, advertisements, dhcpv6, dhcpv4, invalid, limited atomic.Uint64 }
}

// errNoMeans is the error of Validate if Config has none of RA, DHCPv6 and DHCPv4.
var errNoMeans = errors.New("announces by no means; choose ra, dhcpv6 or dhcpv4")

// longestName is how many octets the name of a network interface may have on Linux: IFNAMSIZ without the final zero.
const longestName = 15

// Validate returns everything that is wrong with cfg whatever the host, joined, or nil. Each error begins with the
// setting, such as "max_interval: ", but for the one about the means of announcing.
func (cfg *Config) Validate() error {
	var errs []error
	switch {
	case cfg.Interface == "":
		errs = append(errs, errors.New("interface: missing; want the network interface of the link, such as lan0"))
	case len(cfg.Interface) > longestName || strings.ContainsAny(cfg.Interface, "/ \t\n%:"):
		errs = append(errs, fmt.Errorf("interface: %q is not the name of a network interface; want one, such as lan0", cfg.Interface))
	}
	if !cfg.RA && !cfg.DHCPv6 && !cfg.DHCPv4 {
		errs = append(errs, errNoMeans)
	}
	if d := cfg.MaxInterval; d != 0 && (d < shortestMaxInterval || d > longestMaxInterval) {
		errs = append(errs, fmt.Errorf("max_interval: %s is out of range; want %s to %s", d, shortestMaxInterval, longestMaxInterval))
	}
	return errors.Join(errs...)
}

// New checks cfg, and opens every socket once: it fails if this process lacks the rights, or if another program has the
// port of a DHCP server.
func New(cfg Config) (*Announcer, error) {
	return newAnnouncer(cfg, thisSystem())
}

func newAnnouncer(cfg Config, sys system) (*Announcer, error) {
	if cfg.MaxInterval == 0 {
		cfg.MaxInterval = defaultMaxInterval
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("announce: %w", err)
	}
	a := &Announcer{cfg: cfg, sys: sys}
	a.addAllMeans()
	if err := a.try(); err != nil {
		return nil, fmt.Errorf("announce on %s: %w", cfg.Interface, err)
	}
	return a, nil
}

// jitter returns a random duration up to d.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

// addAllMeans adds the means that the configuration chooses.
func (a *Announcer) addAllMeans() {
	if a.cfg.RA {
		r := newAdvertiser(a)
		a.addMeans(byRA, link.State.NotReady6, a.sys.openND, r.serve)
	}
	if a.cfg.DHCPv6 {
		a.addMeans(byDHCPv6, link.State.NotReady6, a.sys.openDHCPv6, newDHCPServer(a, a.answerDHCPv6).serve)
	}
	if a.cfg.DHCPv4 {
		a.addMeans(byDHCPv4, link.State.NotReady4, a.sys.openDHCPv4, newDHCPServer(a, a.answerDHCPv4).serve)
	}
}

// Names of the means, as in the configuration.
const (
	byRA     = "ra"
	byDHCPv6 = "dhcpv6"
	byDHCPv4 = "dhcpv4"
)

// addMeans adds one.
func (a *Announcer) addMeans(name string, notReady func(link.State) string, open openFunc, serve serveFunc) {
	a.means = append(a.means, &means{
		name: name, notReady: notReady, open: open, serve: serve, changed: make(chan struct{}, 1),
		log: a.cfg.Log.With().Str("interface", a.cfg.Interface).Str("by", name).Logger(),
	})
}

// try opens and closes the sockets of Run, so that lack of rights and ports in use are found at the start. It ignores
// all other errors, such as a missing interface, because Run waits until their causes have ended.
func (a *Announcer) try() error {
	l, err := a.sys.look(a.cfg.Interface)
	if err != nil {
		return err
	}
	a.link.Store(&l)
	for _, p := range a.means {
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

// Run announces until ctx is done, and then withdraws what it announced by Router Advertisements, which takes up to 9
// s. It returns nil after everything it started has ended: errors in between are logged, and followed by another try.
func (a *Announcer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { a.watch(ctx) })
	for _, p := range a.means {
		wg.Go(func() { p.run(ctx, a) })
	}
	wg.Wait()
	return nil
}

// watch keeps the state of the interface up to date until ctx is done, and wakes all means when it changes.
func (a *Announcer) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.sys.watch(ctx, a.cfg.Interface, func(l link.State) {
			a.link.Store(&l)
			for _, p := range a.means {
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

// lifetime is for how long hosts may use what was announced. See RFC 9463, Section 6.1.
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
	for _, p := range a.means {
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
	// watch calls changed with the state of an interface at the beginning and after each change, until ctx is done.
	watch func(ctx context.Context, name string, changed func(link.State)) error

	openND, openDHCPv6, openDHCPv4 openFunc

	// random returns a duration between 0 and d.
	random func(d time.Duration) time.Duration
}

// openFunc opens a socket of one means on a link.
type openFunc func(link.State) (link.Conn, error)

// serveFunc serves a link until ctx is done, the socket fails, or the link changes so that it needs another socket.
type serveFunc func(ctx context.Context, s *session) error
