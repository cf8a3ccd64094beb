package relay

import (
	"context"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// sources bind TCP flows to what is drawn for them, see egress.
//
// A kernel that is left to choose a port chooses from a smaller range, near the last one, so the port is ours to choose.
// But a port that a socket was bound to is one that it gives to no other program that leaves the choice to it, at any
// address, while the flow lives and in TIME_WAIT: some 30,000 flows would take all such ports from this host. Linux 6.3 has
// a way out: the range to choose from is set to the one port, and the choice put off until the socket connects, where it
// is taken for the pair of source and destination alone. Ports outside of the kernel's range are bound as they are.
type sources struct {
	first, last uint16 // the kernel's range; none if last is less
}

// newSources asks the kernel what it knows and has.
func newSources() sources {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return sources{first: 1}
	}
	defer unix.Close(fd)
	first, last := localPorts()
	if setLater(fd, first) != nil {
		return sources{first: 1}
	}
	return sources{first: first, last: last}
}

// setLater has the kernel give the port to a socket as it connects.
func setLater(fd int, port uint16) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_LOCAL_PORT_RANGE, int(port)<<16|int(port))
}

// dial connects with d from src. An error that inUse knows means that src is taken towards dst.
func (s sources) dial(ctx context.Context, d net.Dialer, src, dst netip.AddrPort) (*net.TCPConn, error) {
	port := src.Port()
	if port < s.first || s.last < port {
		return d.DialTCP(ctx, "tcp", src, dst)
	}
	d.Control = control(func(fd int, v6 bool) error {
		if err := setLater(fd, port); err != nil {
			return err
		}
		return dialerOptions(fd, v6)
	})
	return d.DialTCP(ctx, "tcp", netip.AddrPortFrom(src.Addr(), 0), dst)
}
