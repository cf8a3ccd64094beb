package host

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// unreachableMetric is that of the unreachable routes: every route that another has put in place comes before them.
const unreachableMetric = math.MaxInt32

// routes are the routes of one relay: for each prefix a local one, and an unreachable one in the main table, which the
// kernel looks at after its local table. The unreachable one stays when the relay ends, so that what is still sent to
// the prefix is refused at once, and does not go back and forth between this host and the router that sends the prefix
// here. The next start takes it over.
type routes struct {
	number int // of the relay's slot; the metric of local routes
	local  []netip.Prefix
	// refusing are the prefixes whose unreachable route is not from a process before.
	refusing []netip.Prefix
}

// localRoute returns the route that makes p local, of the relay with the slot number.
func localRoute(p netip.Prefix, number int) (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst:       ipNet(p),
		Table:     unix.RT_TABLE_LOCAL,
		Type:      unix.RTN_LOCAL,
		Scope:     netlink.SCOPE_HOST,
		Protocol:  RouteProtocol,
		Priority:  number,
	}, nil
}

// unreachableRoute returns the route that refuses p while no relay has it.
func unreachableRoute(p netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst:      ipNet(p),
		Table:    unix.RT_TABLE_MAIN,
		Type:     unix.RTN_UNREACHABLE,
		Protocol: RouteProtocol,
		Priority: unreachableMetric,
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the reverse of ipNet. It is invalid for a default route.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr, bits)
}

// ensure makes every address of prefixes local to this host: by routes of ours if add, and else it is an error if they
// are not. It returns the prefixes that have routes of ours now and had none before, also with an error.
func (r *routes) ensure(prefixes []netip.Prefix, add bool) (added []netip.Prefix, err error) {
	others, err := relayed(func(number int) bool { return number != r.number && taken(number) })
	if err != nil {
		return nil, fmt.Errorf("list local routes: %w", err)
	}
	for _, p := range prefixes {
		switch {
		case slices.Contains(r.local, p):
		case isLocal(p) && !slices.Contains(others, p):
		case !add:
			return added, fmt.Errorf("%v is not local to this host; %s", p, remedy(p))
		default:
			added = append(added, p)
			if err := r.add(p); err != nil {
				return added, fmt.Errorf("local route for %v: %w; %s", p, err, remedy(p))
			}
		}
	}
	return added, nil
}

// add puts the routes of p in place, the one that stays first.
func (r *routes) add(p netip.Prefix) error {
	switch err := netlink.RouteAdd(unreachableRoute(p)); {
	case err == nil:
		r.refusing = append(r.refusing, p)
	case !errors.Is(err, unix.EEXIST):
		return err
	}
	route, err := localRoute(p, r.number)
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	r.local = append(r.local, p)
	return nil
}

// undo removes what add has put in place for prefixes.
func (r *routes) undo(prefixes []netip.Prefix) error {
	var errs []error
	for _, p := range prefixes {
		errs = append(errs, r.removeLocal(p))
		if i := slices.Index(r.refusing, p); i >= 0 {
			r.refusing = slices.Delete(r.refusing, i, i+1)
			errs = append(errs, deleteRoute(unreachableRoute(p)))
		}
	}
	return errors.Join(errs...)
}

// removeLocal removes the local route of p, if there is one of ours.
func (r *routes) removeLocal(p netip.Prefix) error {
	i := slices.Index(r.local, p)
	if i < 0 {
		return nil
	}
	r.local = slices.Delete(r.local, i, i+1)
	route, err := localRoute(p, r.number)
	if err != nil {
		return err
	}
	return deleteRoute(route)
}

// end removes the local routes. The unreachable routes of kept stay, unless another relay runs by now, which has put
// those of its prefixes in place and has no use for the rest.
func (r *routes) end(kept []netip.Prefix) error {
	var errs []error
	all := slices.Clone(r.local)
	for _, p := range all {
		errs = append(errs, r.removeLocal(p))
	}
	successors, err := relayed(taken)
	errs = append(errs, err)
	for _, p := range all {
		stays := slices.Contains(kept, p) && len(successors) == 0 || slices.Contains(successors, p)
		if !stays {
			errs = append(errs, deleteRoute(unreachableRoute(p)))
		}
	}
	return errors.Join(errs...)
}

// reclaim removes the routes of relays that have ended, but for the unreachable routes of wanted.
func reclaim(wanted []netip.Prefix) error {
	leftover, err := marked()
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var running []netip.Prefix
	var errs []error
	for _, route := range leftover {
		if route.Type != unix.RTN_LOCAL {
			continue
		}
		if taken(route.Priority) {
			running = append(running, prefixOf(route.Dst))
			continue
		}
		errs = append(errs, deleteRoute(&route))
	}
	for _, route := range leftover {
		p := prefixOf(route.Dst)
		if route.Type != unix.RTN_LOCAL && !slices.Contains(wanted, p) && !slices.Contains(running, p) {
			errs = append(errs, deleteRoute(&route))
		}
	}
	return errors.Join(errs...)
}

// relayed returns the prefixes that are local by routes of relays whose slots match.
func relayed(match func(number int) bool) (list []netip.Prefix, err error) {
	all, err := marked()
	for _, route := range all {
		if route.Type == unix.RTN_LOCAL && match(route.Priority) {
			list = append(list, prefixOf(route.Dst))
		}
	}
	return list, err
}

// marked returns every route of a relay, of this process or of others.
func marked() (list []netlink.Route, err error) {
	mark := &netlink.Route{Protocol: RouteProtocol, Table: unix.RT_TABLE_UNSPEC}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		err := dumpRoutes(family, mark, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE, func(r netlink.Route) {
			list = append(list, r)
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// dumpRoutes calls f with each route of a family that the filter lets through. A dump that changes of the table have
// interrupted has them all the same, but for those that were changed; these are looked at again when they are used.
func dumpRoutes(family int, filter *netlink.Route, mask uint64, f func(netlink.Route)) error {
	err := netlink.RouteListFilteredIter(family, filter, mask, func(r netlink.Route) bool {
		f(r)
		return true
	})
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	return err
}

// deleteRoute removes a route, which may be gone already.
func deleteRoute(route *netlink.Route) error {
	err := netlink.RouteDel(route)
	if err == nil || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("remove the route of %v: %w", route.Dst, err)
}

// isLocal reports whether the kernel takes what is sent to p for its own. It asks for the first address, the last and
// one between them: the first may be local by itself, as an address of an interface.
func isLocal(p netip.Prefix) bool {
	for _, addr := range samples(p) {
		found, err := netlink.RouteGet(addr.AsSlice())
		if err != nil || len(found) == 0 || found[0].Type != unix.RTN_LOCAL {
			return false
		}
	}
	return true
}

// samples returns the first address of p, one near the middle, and the last.
func samples(p netip.Prefix) []netip.Addr {
	first := p.Masked().Addr()
	middle, last := first.AsSlice(), first.AsSlice()
	for i := p.Bits(); i < first.BitLen(); i++ {
		bit := byte(0x80) >> (i % 8)
		last[i/8] |= bit
		if i > p.Bits() {
			middle[i/8] |= bit
		}
	}
	list := []netip.Addr{first}
	for _, b := range [][]byte{middle, last} {
		addr, _ := netip.AddrFromSlice(b)
		list = append(list, addr)
	}
	return list
}

// remedy names the command that makes p local.
func remedy(p netip.Prefix) string {
	if p.Addr().Is6() {
		return fmt.Sprintf("run: ip -6 route add local %v dev lo", p)
	}
	return fmt.Sprintf("run: ip route add local %v dev lo", p)
}
