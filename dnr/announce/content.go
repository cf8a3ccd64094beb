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

// raContent is what Router Advertisements announce now, and what they announced before and have to withdraw. It belongs
// to the goroutine that serves the link.
type raContent struct {
	current Content // without what Router Advertisements cannot carry

	withdrawn        []svcb.Resolver // whose names are no longer in current
	withdrawnServers []netip.Addr
	repeats          int // how many more times all hosts are sent the withdrawals
}

// update replaces the current content, and reports whether it changed. The error is about what Router Advertisements
// cannot carry of it.
func (c *raContent) update(an Content, lifetime time.Duration) (changed bool, err error) {
	next, err := encodable(an, lifetime)
	if reflect.DeepEqual(next, c.current) {
		return false, err
	}
	// A lifetime of 0 ends the use of the name as a whole, so that one of several transports cannot be withdrawn alone.
	// See RFC 9463, Section 6.1.
	c.withdrawn = slices.DeleteFunc(append(c.withdrawn, c.current.Resolvers...), func(r svcb.Resolver) bool {
		return slices.ContainsFunc(next.Resolvers, func(n svcb.Resolver) bool { return n.Name == r.Name })
	})
	c.withdrawnServers = slices.DeleteFunc(append(c.withdrawnServers, c.current.Servers...), func(a netip.Addr) bool {
		return slices.Contains(next.Servers, a)
	})
	c.current, c.repeats = next, maxInitial
	return true, err
}

// encodable returns what Router Advertisements can carry of an, and why they cannot carry the rest.
func encodable(an Content, lifetime time.Duration) (Content, error) {
	var next Content
	var errs []error
	for _, r := range an.Resolvers {
		if _, err := dnr.EncodeRA(r, lifetime); err != nil {
			errs = append(errs, err)
			continue
		}
		next.Resolvers = append(next.Resolvers, r)
	}
	next.Servers = serversOf(an.Servers, false)
	if an.PvD.ID != "" {
		if _, err := an.PvD.option(); err != nil {
			errs = append(errs, err)
		} else {
			next.PvD = an.PvD
		}
	}
	if len(next.Resolvers)+len(next.Servers) == 0 && len(errs) == 0 {
		errs = append(errs, errNoIPv6Resolver)
	}
	return next, errors.Join(errs...)
}

// errNoIPv6Resolver says that Router Advertisements have nothing to carry.
var errNoIPv6Resolver = errors.New("announce: there is no resolver with an IPv6 address to announce")

// options returns the options of all Router Advertisements together. A lifetime of 0 withdraws everything.
func (c *raContent) options(lifetime time.Duration) (options []link.NDOption, err error) {
	for _, r := range c.withdrawn {
		if options, err = appendResolver(options, r, 0); err != nil {
			return nil, err
		}
	}
	options = append(options, link.RDNSS(c.withdrawnServers, 0)...)
	for _, r := range c.current.Resolvers {
		if options, err = appendResolver(options, r, lifetime); err != nil {
			return nil, err
		}
	}
	return append(options, link.RDNSS(c.current.Servers, lifetime)...), nil
}

// appendResolver appends the Encrypted DNS option of r.
func appendResolver(options []link.NDOption, r svcb.Resolver, lifetime time.Duration) ([]link.NDOption, error) {
	o, err := dnr.EncodeRA(r, lifetime)
	if err != nil {
		return nil, fmt.Errorf("resolver %s: %w", r.Name, err)
	}
	return append(options, link.NDOption(o)), nil
}

// sent notes that the options were sent to all hosts once more.
func (c *raContent) sent() {
	if c.repeats--; c.repeats <= 0 {
		c.withdrawn, c.withdrawnServers, c.repeats = nil, nil, 0
	}
}
