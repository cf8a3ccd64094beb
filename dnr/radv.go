package dnr

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"time"

	"github.com/rs/zerolog"
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
func (r *advertiser) refresh(l linkState) {
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
func (r *advertiser) handle(p packet) {
	err := errNDShort
	if len(p.data) > 0 {
		switch p.data[0] {
		case typeRouterSolicitation:
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

func (r *advertiser) solicited(p packet) error {
	if err := checkSolicitation(p); err != nil {
		return err
	}
	r.stats.solicitations.Add(1)
	r.schedule.solicit(time.Now(), p.peer.Addr())
	return nil
}

// heard compares what another router advertises with what we do.
func (r *advertiser) heard(p packet) error {
	if err := checkAdvertisement(p); err != nil {
		return err
	}
	theirs, err := parseAdvertisement(p.data)
	if err != nil {
		return err
	}
	if p.peer.Addr() == r.link.Load().linkLocal {
		r.routed = true
	}
	r.others.heard(p.peer.Addr(), differences(r.header(), r.content.said, theirs))
	return nil
}

// header returns our Router Advertisement without options. Its router lifetime of 0 says that we are no default
// router, and what else is 0 says nothing. See RFC 4861, Sections 4.2 and 6.2.3.
func (r *advertiser) header() routerAdvertisement {
	return routerAdvertisement{managed: r.cfg.Managed, other: r.cfg.Other}
}

// due sends what the schedule has for now.
func (r *advertiser) due(s *session) error {
	for _, to := range r.schedule.take(time.Now()) {
		if err := r.send(s, to, r.lifetime()); err != nil {
			return err
		}
	}
	return nil
}

// send sends Router Advertisements, mostly one, unless there is nothing to tell. The lifetime is 0 at the end.
func (r *advertiser) send(s *session, to netip.Addr, lifetime time.Duration) error {
	options, err := r.content.options(lifetime)
	if err != nil || len(options) == 0 {
		return err
	}
	common, err := r.common(s.link)
	if err != nil {
		return err
	}
	for _, ra := range split(r.header(), common, options, s.link.mtu) {
		p := packet{peer: netip.AddrPortFrom(to, 0), from: r.source(s.link), data: ra.append(nil)}
		if err := s.conn.send(p); err != nil {
			return fmt.Errorf("send Router Advertisement to %s: %w", to, err)
		}
		r.stats.advertisements.Add(1)
	}
	if to == allNodes {
		r.content.told()
	}
	return nil
}

// source returns the address to advertise from. If this host is a router, it is not the one that the program advertises
// from which makes it one: from there our router lifetime of 0 would take the default route away from all hosts. As
// nobody ever sends anything to the other address, it need not be assigned.
func (r *advertiser) source(l linkState) netip.Addr {
	if !l.forwards && !r.routed {
		return l.linkLocal
	}
	sum := sha256.Sum256(append([]byte("cfrd"), l.linkLocal.AsSlice()...))
	b := [16]byte{0: 0xfe, 1: 0x80}
	copy(b[8:], sum[:8])
	return netip.AddrFrom16(b)
}

// common returns the options that each Router Advertisement has.
func (r *advertiser) common(l linkState) (options []ndOption, err error) {
	if o := sourceLinkLayer(l.mac); o != nil {
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
		if err := r.send(s, allNodes, 0); err != nil {
			return err
		}
	}
	return nil
}

// split distributes options over Router Advertisements that fit into one packet each, because hosts take no fragments.
// See RFC 4861, Section 6.2.3; RFC 6980, Section 5.
func split(header routerAdvertisement, common, options []ndOption, mtu int) (ras []routerAdvertisement) {
	const ipv6Header, minMTU = 40, 1280
	empty := ipv6Header + advertisementLength
	for _, o := range common {
		empty += len(o)
	}
	size := 0
	for _, o := range options {
		if len(ras) == 0 || size+len(o) > max(mtu, minMTU) {
			ra := header
			ra.options = append([]ndOption(nil), common...)
			ras, size = append(ras, ra), empty
		}
		last := &ras[len(ras)-1]
		last.options = append(last.options, o)
		size += len(o)
	}
	return ras
}
