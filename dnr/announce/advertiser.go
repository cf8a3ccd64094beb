package announce

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// advertiser sends Router Advertisements. It outlives the sockets on which it sends, so that its schedule and what it
// has to withdraw survive changes of the link. Only the goroutine that serves the link uses it.
type advertiser struct {
	*Announcer
	log      zerolog.Logger
	schedule schedule
	content  raContent
	others   otherRouters
	problem  string // last problem that was logged
	routed   bool   // another program advertises this host as a router
}

func newAdvertiser(a *Announcer) *advertiser {
	log := a.cfg.Log.With().Str("interface", a.cfg.Interface).Str("by", byRA).Logger()
	return &advertiser{
		Announcer: a,
		log:       log,
		schedule:  schedule{shortest: minInterval(a.cfg.MaxInterval), longest: a.cfg.MaxInterval, random: a.sys.random},
		others:    otherRouters{log: log, logged: make(map[string]bool)},
	}
}

// serve is a serveFunc.
func (r *advertiser) serve(ctx context.Context, s *session) error {
	r.refresh(s.link)
	r.schedule.restart(time.Now())
	refresh := time.NewTicker(refreshAfter)
	defer refresh.Stop()
	for {
		select {
		case <-ctx.Done():
			return r.withdraw(s)
		case err := <-s.failed:
			return err
		case <-s.linkChanged:
			if err := s.checkLink(r.link.Load()); err != nil {
				return err
			}
			r.refresh(s.link)
		case <-refresh.C:
			r.refresh(s.link)
		case p := <-s.packets:
			r.handle(p)
		case <-time.After(time.Until(r.schedule.next())):
			if err := r.sendDue(s); err != nil {
				return err
			}
		}
	}
}

// refresh asks the Source what is to be announced. If that has changed, it is soon sent to all hosts.
func (r *advertiser) refresh(l link.State) {
	changed, err := r.content.update(r.current(), r.lifetime())
	if changed {
		r.schedule.restart(time.Now())
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != "" && problem != r.problem {
		r.log.Warn().Err(err).Msg("not announced")
	}
	r.problem = problem
}

// handle processes a message of Neighbor Discovery, and counts an invalid one.
func (r *advertiser) handle(p link.Packet) {
	err := link.ErrNDShort
	if len(p.Data) > 0 {
		switch p.Data[0] {
		case link.TypeRouterSolicitation:
			err = r.solicited(p)
		default:
			err = r.advertised(p)
		}
	}
	if err != nil {
		r.stats.invalid.Add(1)
		r.log.Debug().Err(err).Msg("ignored")
	}
}

// solicited schedules the answer to a Router Solicitation.
func (r *advertiser) solicited(p link.Packet) error {
	if err := link.CheckSolicitation(p); err != nil {
		return err
	}
	r.stats.solicitations.Add(1)
	r.schedule.solicit(time.Now(), p.Peer.Addr())
	return nil
}

// advertised compares the Router Advertisement of another router with ours.
func (r *advertiser) advertised(p link.Packet) error {
	if err := link.CheckAdvertisement(p); err != nil {
		return err
	}
	theirs, err := link.ParseAdvertisement(p.Data)
	if err != nil {
		return err
	}
	if p.Peer.Addr() == r.link.Load().LinkLocal {
		r.routed = true
	}
	r.others.logOnce(p.Peer.Addr(), differences(r.header(), r.content.current, theirs))
	return nil
}

// header returns our Router Advertisement without options. Its router lifetime of 0 says that we are no default
// router, and its other zeros leave those fields unspecified. See RFC 4861, Sections 4.2 and 6.2.3.
func (r *advertiser) header() link.RouterAdvertisement {
	return link.RouterAdvertisement{Managed: r.cfg.Managed, Other: r.cfg.Other}
}

// sendDue sends what is due by the schedule.
func (r *advertiser) sendDue(s *session) error {
	for _, to := range r.schedule.take(time.Now()) {
		if err := r.send(s, to, r.lifetime()); err != nil {
			return err
		}
	}
	return nil
}

// send sends the content in as many Router Advertisements as it needs, mostly one, and none if it is empty. A lifetime
// of 0 withdraws the content.
func (r *advertiser) send(s *session, to netip.Addr, lifetime time.Duration) error {
	options, err := r.content.options(lifetime)
	if err != nil || len(options) == 0 {
		return err
	}
	common, err := r.common(s.link)
	if err != nil {
		return err
	}
	for _, ra := range split(r.header(), common, options, s.link.MTU) {
		p := link.Packet{Peer: netip.AddrPortFrom(to, 0), From: r.source(s.link), Data: ra.Append(nil)}
		if err := s.conn.Send(p); err != nil {
			return fmt.Errorf("send Router Advertisement to %s: %w", to, err)
		}
		r.stats.advertisements.Add(1)
	}
	if to == link.AllNodes {
		r.content.sent()
	}
	return nil
}

// source returns the address to advertise from. On a router it is not the link-local address from which another program
// advertises the router: hosts would take our router lifetime of 0 for that of the router, and drop their default
// route. The address that is used instead need not be assigned, because nothing is ever sent to it.
func (r *advertiser) source(l link.State) netip.Addr {
	if !l.Forwards && !r.routed {
		return l.LinkLocal
	}
	sum := sha256.Sum256(append([]byte("cfrd"), l.LinkLocal.AsSlice()...))
	b := [16]byte{0: 0xfe, 1: 0x80}
	copy(b[8:], sum[:8])
	return netip.AddrFrom16(b)
}

// common returns the options that each Router Advertisement has.
func (r *advertiser) common(l link.State) (options []link.NDOption, err error) {
	if o := link.SourceLinkLayer(l.MAC); o != nil {
		options = append(options, o)
	}
	if r.content.current.PvD.ID != "" {
		o, err := r.content.current.PvD.option()
		if err != nil {
			return nil, err
		}
		options = append(options, o)
	}
	return options, nil
}

// withdraw withdraws what was announced, several times because hosts may miss one. See RFC 4861, Section 6.2.5.
func (r *advertiser) withdraw(s *session) error {
	if len(r.content.current.Resolvers)+len(r.content.current.Servers) == 0 || r.schedule.lastSent.IsZero() {
		return nil
	}
	for range maxFinal {
		time.Sleep(time.Until(r.schedule.earliest(time.Now())))
		r.schedule.noteSent(time.Now())
		if err := r.send(s, link.AllNodes, 0); err != nil {
			return err
		}
	}
	return nil
}

// split distributes options over Router Advertisements that fit into one packet each, because hosts accept no
// fragments. See RFC 4861, Section 6.2.3; RFC 6980, Section 5.
func split(header link.RouterAdvertisement, common, options []link.NDOption, mtu int) (ras []link.RouterAdvertisement) {
	const ipv6Header, minMTU = 40, 1280
	empty := ipv6Header + link.AdvertisementLength
	for _, o := range common {
		empty += len(o)
	}
	size := 0
	for _, o := range options {
		if len(ras) == 0 || size+len(o) > max(mtu, minMTU) {
			ra := header
			ra.Options = append([]link.NDOption(nil), common...)
			ras, size = append(ras, ra), empty
		}
		last := &ras[len(ras)-1]
		last.Options = append(last.Options, o)
		size += len(o)
	}
	return ras
}
