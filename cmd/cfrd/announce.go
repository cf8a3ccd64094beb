package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr/announce"
)

// announcer announces the resolver on one link.
type announcer struct {
	*announce.Announcer
	link string
}

// newAnnouncers makes what dnr.announce asks for.
func (n *node) newAnnouncers() error {
	for i, c := range n.values.DNR.Announce {
		cfg := c.Config()
		cfg.Source = func(link announce.Link) announce.Content { return n.announcement(link, c.PvD) }
		cfg.Log = component(n.log, "announce")
		a, err := announce.New(cfg)
		if err != nil {
			return fmt.Errorf("dnr.announce[%d]: %w", i, err)
		}
		n.announcers = append(n.announcers, announcer{a, c.Interface})
	}
	return nil
}

// runAnnouncers announces until ctx is done, and then takes that back.
func (n *node) runAnnouncers(ctx context.Context) error {
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { <-running.Done(); return nil }) // also if there are none
	for _, a := range n.announcers {
		g.Go(func() error { return a.Run(running) })
	}
	return named("announce", g.Wait())
}

// announcement returns what is announced to the hosts of a link at this moment: what is bound, and encryption only as
// long as the certificate that is being served is good for the name.
func (n *node) announcement(link announce.Link, pvd bool) announce.Content {
	v := n.current()
	running := n.dns.Addrs()
	cfg := certified(v.discovery(running, n.certs, false), time.Now())
	return describeTo(link, cfg, running.Do53, pvd)
}

// certified returns cfg, or cfg without encrypted services if clients would refuse their certificate now.
func certified(cfg ddr.Config, now time.Time) ddr.Config {
	if leaf := cfg.Certificate(); leaf == nil || certs.CheckLeaf(leaf, cfg.Name, now) != nil {
		cfg.Services = nil
	}
	return cfg
}

// describeTo returns the announcement of the resolver cfg with the listeners do53 on a link. Listeners on unspecified
// addresses are announced at this host's addresses on the link.
func describeTo(link announce.Link, cfg ddr.Config, do53 []netip.AddrPort, pvd bool) announce.Content {
	if len(cfg.Addresses) == 0 {
		cfg.Addresses = link.Addresses
	}
	// The others are of no use to hosts, some of which ignore an announcement with one of them as a whole.
	cfg.Addresses = slices.DeleteFunc(slices.Clone(cfg.Addresses), func(a netip.Addr) bool {
		return a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast()
	})
	a := announce.Content{Servers: unencrypted(do53, cfg.Addresses)}
	if zone, err := ddr.New(cfg); err == nil && len(cfg.Addresses) > 0 {
		a.Resolvers = zone.Designations()
	}
	if pvd {
		a.PvD = announce.PvD{ID: cfg.Name, Sequence: fingerprint(a.Resolvers), Info: cfg.PvD && servesWeb(cfg.Services)}
	}
	return a
}

// unencrypted returns those of addrs at which there is DNS without encryption, on the only port that can be announced.
func unencrypted(do53 []netip.AddrPort, addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		return !slices.ContainsFunc(do53, func(l netip.AddrPort) bool {
			own := l.Addr()
			at := own == a || own == netip.IPv6Unspecified() || own == netip.IPv4Unspecified() && a.Is4()
			return at && l.Port() == 53
		})
	})
}

// servesWeb reports whether https://NAME/ is ours.
func servesWeb(services []ddr.Service) bool {
	return slices.ContainsFunc(services, func(s ddr.Service) bool { return s.Protocol == ddr.DoH && s.Addr.Port() == 443 })
}

// fingerprint returns a number that is another one when what the provisioning domain says of the resolver changes.
func fingerprint(resolvers []svcb.Resolver) uint16 {
	h := fnv.New32a()
	fmt.Fprint(h, resolvers)
	return binary.BigEndian.Uint16(h.Sum(nil)[2:])
}
