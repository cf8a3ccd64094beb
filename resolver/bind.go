package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// binder binds the sockets of one protocol. The first socket of an address is claimed for us alone, and only then
// opened to be shared: so a second server on the same address is an error even where SO_REUSEPORT would have let it in
// silently, while more sockets of ours, and wildcard listeners that this process binds later, may share the address.
type binder struct {
	name  string           // for errors
	addrs []netip.AddrPort // that the protocol listens on
}

// tcp binds addr for TCP.
func (b binder) tcp(addr netip.AddrPort) (*net.TCPListener, error) {
	// Keep-alive is off: idle connections are closed long before.
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), b.network("tcp", addr), addr.String())
	if err != nil {
		return nil, b.fail("TCP", addr, err)
	}
	if err := share(ln.(*net.TCPListener)); err != nil {
		return nil, errors.Join(b.fail("TCP", addr, err), ln.Close())
	}
	return ln.(*net.TCPListener), nil
}

// udp binds addr for UDP.
func (b binder) udp(addr netip.AddrPort) (*net.UDPConn, error) {
	pc, err := net.ListenUDP(b.network("udp", addr), net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, b.fail("UDP", addr, err)
	}
	if err := share(pc); err != nil {
		return nil, errors.Join(b.fail("UDP", addr, err), pc.Close())
	}
	return pc, nil
}

// more binds one more socket to addr, after udp has bound the first.
func (b binder) more(addr netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: shareFirst}
	pc, err := lc.ListenPacket(context.Background(), b.network("udp", addr), addr.String())
	if err != nil {
		return nil, b.fail("UDP", addr, err)
	}
	return pc.(*net.UDPConn), nil
}

// pairAttempts is how often a port is drawn that must be free for TCP and UDP.
const pairAttempts = 32

// both binds addr for TCP and UDP. Port 0 becomes the same free port for both.
func (b binder) both(addr netip.AddrPort) (*net.TCPListener, *net.UDPConn, error) {
	for attempt := 1; ; attempt++ {
		ln, err := b.tcp(addr)
		if err != nil {
			return nil, nil, err
		}
		port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
		pc, err := b.udp(netip.AddrPortFrom(addr.Addr(), port))
		if err == nil {
			return ln, pc, nil
		}
		ln.Close()
		if addr.Port() != 0 || attempt == pairAttempts || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, nil, err
		}
	}
}

// network narrows network to the family of addr. [::] takes IPv4 as well, unless 0.0.0.0 is listed as well.
func (b binder) network(network string, addr netip.AddrPort) string {
	switch {
	case addr.Addr().Is4():
		return network + "4"
	case addr.Addr() != netip.IPv6Unspecified():
		return network + "6"
	case slices.Contains(b.addrs, netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())):
		return network + "6"
	}
	return network
}

// fail names what was bound; of err only the cause is kept, because the net package names the address again.
func (b binder) fail(proto string, addr netip.AddrPort, err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		err = errno
	}
	return fmt.Errorf("bind %s for %s over %s: %w", addr, b.name, proto, err)
}
