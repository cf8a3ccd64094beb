package announce

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// raContent is what Router Advertisements say, and what they said before and must take back.
type raContent struct {
	said Content // as far as Router Advertisements can carry it

	gone        []svcb.Resolver // whose names are not in said any more
	goneServers []netip.Addr
	repeat      int // how often hosts are still to be told of what is gone
}

// update replaces what is said, and reports whether that makes a difference. The error is about what cannot be said.
func (c *raContent) update(an Content, lifetime time.Duration) (changed bool, err error) {
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
func sayable(an Content, lifetime time.Duration) (Content, error) {
	var next Content
	var errs []error
	for _, r := range an.Resolvers {
		if _, err := dnr.EncodeRA(r, lifetime); err != nil {
			errs = append(errs, err)
			continue
		}
		next.Resolvers = append(next.Resolvers, r)
	}
	for _, a := range an.Servers {
		if a.Is6() && dnr.Unusable(a) == "" && !slices.Contains(next.Servers, a) {
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

var errNothingToSay = errors.New("announce: there is no resolver with an IPv6 address to announce")

// options returns what all Router Advertisements together say. A lifetime of 0 takes everything back.
func (c *raContent) options(lifetime time.Duration) (options []link.NDOption, err error) {
	for _, r := range c.gone {
		if options, err = appendResolver(options, r, 0); err != nil {
			return nil, err
		}
	}
	options = append(options, link.RDNSS(c.goneServers, 0)...)
	for _, r := range c.said.Resolvers {
		if options, err = appendResolver(options, r, lifetime); err != nil {
			return nil, err
		}
	}
	return append(options, link.RDNSS(c.said.Servers, lifetime)...), nil
}

func appendResolver(options []link.NDOption, r svcb.Resolver, lifetime time.Duration) ([]link.NDOption, error) {
	o, err := dnr.EncodeRA(r, lifetime)
	if err != nil {
		return nil, fmt.Errorf("resolver %s: %w", r.Name, err)
	}
	return append(options, link.NDOption(o)), nil
}

// told notes that all hosts were told once.
func (c *raContent) told() {
	if c.repeat--; c.repeat <= 0 {
		c.gone, c.goneServers, c.repeat = nil, nil, 0
	}
}
