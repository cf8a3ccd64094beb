package dnr

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// raContent is what Router Advertisements say, and what they said before and must take back.
type raContent struct {
	said Announcement // as far as Router Advertisements can carry it

	gone        []svcb.Resolver // whose names are not in said any more
	goneServers []netip.Addr
	repeat      int // how often hosts are still to be told of what is gone
}

// update replaces what is said, and reports whether that makes a difference. The error is about what cannot be said.
func (c *raContent) update(an Announcement, lifetime time.Duration) (changed bool, err error) {
	next, err := sayable(an, lifetime)
	if reflect.DeepEqual(next, c.said) {
		return false, err
	}
	// A lifetime of 0 ends the use of the name as a whole, so that one way of several to reach it cannot be taken back.
	// See RFC 9463, Section 6.1.
	c.gone = slices.DeleteFunc(append(c.gone, c.said.Resolvers...), func(r svcb.Resolver) bool {
		return slices.ContainsFunc(next.Resolvers, func(n svcb.Resolver) bool { return n.Name == r.Name })
	})
	c.goneServers = slices.DeleteFunc(append(c.goneServers, c.said.Servers...), func(a netip.Addr) bool {
		return slices.Contains(next.Servers, a)
	})
	c.said, c.repeat = next, maxInitial
	return true, err
}

// sayable returns what Router Advertisements can carry of an, and why they cannot carry the rest.
func sayable(an Announcement, lifetime time.Duration) (Announcement, error) {
	var next Announcement
	var errs []error
	for _, r := range an.Resolvers {
		if _, err := EncodeRA(r, lifetime); err != nil {
			errs = append(errs, err)
			continue
		}
		next.Resolvers = append(next.Resolvers, r)
	}
	for _, a := range an.Servers {
		if a.Is6() && unusable(a) == "" && !slices.Contains(next.Servers, a) {
			next.Servers = append(next.Servers, a)
		}
	}
	if an.PvD.ID != "" {
		if _, err := an.PvD.option(); err != nil {
			errs = append(errs, err)
		} else {
			next.PvD = an.PvD
		}
	}
	if len(next.Resolvers)+len(next.Servers) == 0 && len(errs) == 0 {
		errs = append(errs, errNothingToSay)
	}
	return next, errors.Join(errs...)
}

var errNothingToSay = errors.New("dnr: there is no resolver with an IPv6 address to announce")

// options returns what all Router Advertisements together say. A lifetime of 0 takes everything back.
func (c *raContent) options(lifetime time.Duration) (options []ndOption, err error) {
	for _, r := range c.gone {
		if options, err = appendResolver(options, r, 0); err != nil {
			return nil, err
		}
	}
	options = append(options, rdnss(c.goneServers, 0)...)
	for _, r := range c.said.Resolvers {
		if options, err = appendResolver(options, r, lifetime); err != nil {
			return nil, err
		}
	}
	return append(options, rdnss(c.said.Servers, lifetime)...), nil
}

func appendResolver(options []ndOption, r svcb.Resolver, lifetime time.Duration) ([]ndOption, error) {
	o, err := EncodeRA(r, lifetime)
	if err != nil {
		return nil, fmt.Errorf("resolver %s: %w", r.Name, err)
	}
	return append(options, ndOption(o)), nil
}

// told notes that all hosts were told once.
func (c *raContent) told() {
	if c.repeat--; c.repeat <= 0 {
		c.gone, c.goneServers, c.repeat = nil, nil, 0
	}
}
