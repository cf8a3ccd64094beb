package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routes are the local routes that the relay has put in place.
type routes struct {
	mu    sync.Mutex
	added []*netlink.Route
}

// ensure makes every address of prefixes local to this host: by routes of ours if add, and else it is an error if
// they are not.
func (r *routes) ensure(prefixes []netip.Prefix, add bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range prefixes {
		if isLocal(p) {
			continue
		}
		if !add {
			return fmt.Errorf("%v is not local to this host; %s", p, remedy(p))
		}
		if err := r.addLocked(p); err != nil {
			return fmt.Errorf("local route for %v: %w; %s", p, err, remedy(p))
		}
	}
	return nil
}

// addLocked adds a route, and remembers it unless it exists already.
func (r *routes) addLocked(p netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	route := &netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst: &net.IPNet{
			IP:   p.Addr().AsSlice(),
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
		},
		Table: unix.RT_TABLE_LOCAL,
		Type:  unix.RTN_LOCAL,
		Scope: netlink.SCOPE_HOST,
	}
	switch err := netlink.RouteAdd(route); {
	case errors.Is(err, unix.EEXIST):
		return nil
	case err != nil:
		return err
	}
	r.added = append(r.added, route)
	return nil
}

// remove removes the routes that were added.
func (r *routes) remove() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, route := range r.added {
		errs = append(errs, netlink.RouteDel(route))
	}
	r.added = nil
	return errors.Join(errs...)
}

// isLocal reports whether the kernel takes what is sent to p for its own. It asks for the first address, the last and
// one between them: the first may be local by itself, as an address of an interface.
func isLocal(p netip.Prefix) bool {
	last := pow2(p.Addr().BitLen() - p.Bits()).sub(uint128{lo: 1})
	for _, n := range []uint128{{}, last.half(), last} {
		found, err := netlink.RouteGet(offset(p.Addr(), n).AsSlice())
		if err != nil || len(found) == 0 || found[0].Type != unix.RTN_LOCAL {
			return false
		}
	}
	return true
}

// remedy names the command that makes p local.
func remedy(p netip.Prefix) string {
	if p.Addr().Is6() {
		return fmt.Sprintf("run: ip -6 route add local %v dev lo", p)
	}
	return fmt.Sprintf("run: ip route add local %v dev lo", p)
}
