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

func tuneUDP(_ *net.UDPConn, addr netip.AddrPort) error {
	if addr.Addr().IsUnspecified() {
		return errors.New("a wildcard address for Do53 needs Linux; list the addresses")
	}
	return nil
}
