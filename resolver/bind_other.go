//go:build !linux

package resolver

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// share does nothing: what SO_REUSEPORT means differs too much between systems, and one socket an address is enough.
func share(syscall.Conn) error { return nil }

func shareFirst(_, _ string, _ syscall.RawConn) error { return nil }

// FreeBind lets a socket, before it is bound, take an address that this host does not have yet. It does nothing here:
// binding such an address fails, and is tried again until it is there.
func FreeBind(_, _ string, _ syscall.RawConn) error { return nil }

func tuneUDP(_ *net.UDPConn, addr netip.AddrPort) error {
	if addr.Addr().IsUnspecified() {
		return errors.New("a wildcard address for Do53 needs Linux; list the addresses")
	}
	return nil
}
