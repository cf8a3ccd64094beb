package host

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/gaissmai/bart"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settle is how long changes are collected before the addresses are read again: one address means several messages,
// and an interface may have hundreds.
const settle = 20 * time.Millisecond

// watch calls changed when the addresses or local routes of this host may have changed, at once after it has begun, and
// whenever the kernel had more to say than it could keep. An error means that it no longer knows of changes.
func watch(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addrs, routes := make(chan netlink.AddrUpdate), make(chan netlink.RouteUpdate)
	defer func() { // the senders end when the sockets are closed, which cancel does
		cancel()
		drain(addrs)
		drain(routes)
	}()
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		close(addrs)
		close(routes)
		return fmt.Errorf("watch the addresses of this host: %w", err)
	}
	if err := netlink.RouteSubscribe(routes, ctx.Done()); err != nil {
		close(routes)
		return fmt.Errorf("watch the routes of this host: %w", err)
	}
	changed()
	var pending <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-addrs:
			if !ok {
				return errOverrun
			}
			pending = soon(pending)
		case u, ok := <-routes:
			if !ok {
				return errOverrun
			}
			if u.Route.Type == unix.RTN_LOCAL {
				pending = soon(pending)
			}
		case <-pending:
			pending = nil
			changed()
		}
	}
}

// soon returns pending, or a new timer if it is nil.
func soon(pending <-chan time.Time) <-chan time.Time {
	if pending == nil {
		return time.After(settle)
	}
	return pending
}

func drain[T any](ch <-chan T) {
	for range ch {
	}
}

// readAddresses returns the addresses of this host: those of its interfaces, and what its local routes are for.
func readAddresses() (*bart.Lite, error) {
	own := new(bart.Lite)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addr = addr.Unmap()
				own.Insert(netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
	}
	local := &netlink.Route{Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_UNSPEC}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		err := dumpRoutes(family, local, netlink.RT_FILTER_TYPE|netlink.RT_FILTER_TABLE, func(r netlink.Route) {
			if p := prefixOf(r.Dst); p.IsValid() {
				own.Insert(p)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("local routes of this host: %w", err)
		}
	}
	return own, nil
}
