package resolver

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// share lets sockets of this user bind the address that c is bound to. Linux looks at the option when the others bind.
func share(c syscall.Conn) error {
	return setOption(c, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// shareFirst is share for a socket that is not bound yet.
func shareFirst(_, _ string, rc syscall.RawConn) error {
	return setRawOption(rc, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// FreeBind lets a socket, before it is bound, take an address that this host does not have yet. It is for
// net.ListenConfig.Control. See IP_FREEBIND in ip(7).
func FreeBind(network, _ string, rc syscall.RawConn) error {
	if strings.HasSuffix(network, "6") {
		return setRawOption(rc, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	}
	return setRawOption(rc, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
}

// socketBuffer holds about 20 ms of queries at the rate that one core answers, so that a pause of the process, such as
// a burst of slow queries, loses none.
const socketBuffer = 4 << 20

// tuneUDP prepares pc for Do53: large buffers, the asked address with each datagram on a wildcard, and no path MTU
// discovery, with which an off-path attacker can have answers cut into fragments, and then forge the later ones.
func tuneUDP(pc *net.UDPConn, addr netip.AddrPort) error {
	for _, o := range [...]struct{ plain, force int }{
		{unix.SO_RCVBUF, unix.SO_RCVBUFFORCE},
		{unix.SO_SNDBUF, unix.SO_SNDBUFFORCE},
	} {
		// Beyond net.core.rmem_max only with CAP_NET_ADMIN; the kernel cuts what is asked for otherwise.
		if setOption(pc, unix.SOL_SOCKET, o.force, socketBuffer) == nil {
			continue
		}
		if err := setOption(pc, unix.SOL_SOCKET, o.plain, socketBuffer); err != nil {
			return err
		}
	}
	level, info, discover := unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IP_MTU_DISCOVER
	if addr.Addr().Is6() {
		level, info, discover = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, unix.IPV6_MTU_DISCOVER
	}
	if err := setOption(pc, level, discover, unix.IP_PMTUDISC_OMIT); err != nil {
		return err
	}
	if !addr.Addr().IsUnspecified() {
		return nil
	}
	return setOption(pc, level, info, 1)
}

func setOption(c syscall.Conn, level, opt, value int) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return setRawOption(rc, level, opt, value)
}

func setRawOption(rc syscall.RawConn, level, opt, value int) error {
	var serr error
	if err := rc.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), level, opt, value) }); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", serr)
}
