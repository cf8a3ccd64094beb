package host

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Conflicts returns those of prefixes that contain an address of an interface of this host or the gateway of one of its
// routes. With a local route for such a prefix the host would take its gateway for itself. An error means that the state
// of the host cannot be read.
func Conflicts(prefixes []netip.Prefix) (list []Conflict, err error) {
	prefixes = withoutLoopback(prefixes)
	slices.SortFunc(prefixes, netip.Prefix.Compare) // so that the list has the same order each time
	if len(prefixes) == 0 {
		return nil, nil
	}
	seen := make(map[Conflict]bool)
	found := func(ip net.IP, what string) {
		addr, ok := netip.AddrFromSlice(ip)
		addr = addr.Unmap()
		for _, p := range prefixes {
			c := Conflict{p, fmt.Sprintf(what, addr)}
			if ok && p.Contains(addr) && !seen[c] {
				seen[c] = true
				list = append(list, c)
			}
		}
	}
	if err := eachAddress(found); err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	if err := eachGateway(found); err != nil {
		return nil, fmt.Errorf("routes of this host: %w", err)
	}
	return list, nil
}

// eachAddress calls found with each address of an interface.
func eachAddress(found func(ip net.IP, what string)) error {
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				found(n.IP, "%v, an address of this host's interface "+link.Name)
			}
		}
	}
	return nil
}

// eachGateway calls found with the gateways of each route, in any table.
func eachGateway(found func(ip net.IP, what string)) error {
	const what = "%v, the gateway of a route of this host"
	hop := func(gw net.IP, via netlink.Destination) {
		found(gw, what)
		if v, ok := via.(*netlink.Via); ok {
			found(v.Addr, what)
		}
	}
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		err := dumpRoutes(family, every, netlink.RT_FILTER_TABLE, func(r netlink.Route) {
			hop(r.Gw, r.Via)
			for _, n := range r.MultiPath {
				hop(n.Gw, n.Via)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
