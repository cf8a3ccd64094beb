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

// advertiser sends Router Advertisements. It outlives the sockets that it does that on, so that hosts are not sent more
// than they may be, and learn of what changes meanwhile.
type advertiser struct {
	*Announcer
	log      zerolog.Logger
	schedule schedule
	content  raContent
	others   others
	problem  string // last one that was logged
	routed   bool   // another program of this host advertises it as a router
}

func newAdvertiser(a *Announcer) *advertiser {
	log := a.cfg.Log.With().Str("interface", a.cfg.Interface).Str("by", partRA).Logger()
	return &advertiser{
		Announcer: a,
		log:       log,
		schedule:  schedule{shortest: minInterval(a.cfg.MaxInterval), longest: a.cfg.MaxInterval, random: a.sys.random},
		others:    others{log: log, told: make(map[string]bool)},
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
			return r.farewell(s)
		case err := <-s.failed:
			return err
		case <-s.kick:
			if err := s.changed(r.link.Load()); err != nil {
				return err
			}
			r.refresh(s.link)
		case <-refresh.C:
			r.refresh(s.link)
		case p := <-s.packets:
			r.handle(p)
		case <-time.After(time.Until(r.schedule.next())):
			if err := r.due(s); err != nil {
				return err
			}
		}
	}
}

// refresh asks what is to be announced, and tells the hosts of news soon.
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

// handle takes a message of Neighbor Discovery. One that is invalid is counted.
func (r *advertiser) handle(p link.Packet) {
	err := link.ErrNDShort
	if len(p.Data) > 0 {
		switch p.Data[0] {
		case link.TypeRouterSolicitation:
			err = r.solicited(p)
		default:
			err = r.heard(p)
		}
	}
	if err != nil {
		r.stats.invalid.Add(1)
		r.log.Debug().Err(err).Msg("ignored")
	}
}

func (r *advertiser) solicited(p link.Packet) error {
	if err := link.CheckSolicitation(p); err != nil {
		return err
	}
	r.stats.solicitations.Add(1)
	r.schedule.solicit(time.Now(), p.Peer.Addr())
	return nil
}

// heard compares what another router advertises with what we do.
func (r *advertiser) heard(p link.Packet) error {
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
	r.others.heard(p.Peer.Addr(), differences(r.header(), r.content.said, theirs))
	return nil
}

// header returns our Router Advertisement without options. Its router lifetime of 0 says that we are no default
// router, and what else is 0 says nothing. See RFC 4861, Sections 4.2 and 6.2.3.
func (r *advertiser) header() link.RouterAdvertisement {
	return link.RouterAdvertisement{Managed: r.cfg.Managed, Other: r.cfg.Other}
}

// due sends what the schedule has for now.
func (r *advertiser) due(s *session) error {
	for _, to := range r.schedule.take(time.Now()) {
		if err := r.Send(s, to, r.lifetime()); err != nil {
			return err
		}
	}
	return nil
}

// Send sends Router Advertisements, mostly one, unless there is nothing to tell. The lifetime is 0 at the end.
func (r *advertiser) Send(s *session, to netip.Addr, lifetime time.Duration) error {
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
		r.content.told()
	}
	return nil
}

// source returns the address to advertise from. If this host is a router, it is not the one that the program advertises
// from which makes it one: from there our router lifetime of 0 would take the default route away from all hosts. As
// nobody ever sends anything to the other address, it need not be assigned.
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
	if r.content.said.PvD.ID != "" {
		o, err := r.content.said.PvD.option()
		if err != nil {
			return nil, err
		}
		options = append(options, o)
	}
	return options, nil
}

// farewell withdraws what was announced, several times because hosts may miss one. See RFC 4861, Section 6.2.5.
func (r *advertiser) farewell(s *session) error {
	if len(r.content.said.Resolvers)+len(r.content.said.Servers) == 0 || r.schedule.last.IsZero() {
		return nil
	}
	for range maxFinal {
		time.Sleep(time.Until(r.schedule.earliest(time.Now())))
		r.schedule.sent(time.Now())
		if err := r.Send(s, link.AllNodes, 0); err != nil {
			return err
		}
	}
	return nil
}

// split distributes options over Router Advertisements that fit into one packet each, because hosts take no fragments.
// See RFC 4861, Section 6.2.3; RFC 6980, Section 5.
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
