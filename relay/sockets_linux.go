package relay

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// listenerOptions sets up a listening socket. Sharing the port lets a DNS over HTTPS listener have one address of
// the host while the relay has the rest.
func listenerOptions(fd int, v6 bool) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	return flowOptions(fd)
}

// dialerOptions sets up a socket that connects to a destination. The source may be an address that no interface has.
// Reusing it lets flows to different destinations share a source. See RFC 7857, Section 3.
func dialerOptions(fd int, v6 bool) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := freebind(fd, v6); err != nil {
		return err
	}
	return flowOptions(fd)
}

func freebind(fd int, v6 bool) error {
	if v6 {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
}

// flowOptions sets what both connections of a flow have. Urgent data stay in the stream, where splice finds them. That
// nothing is delayed is set by package net.
func flowOptions(fd int) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.SOL_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle.Seconds())},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

// sharedPort reports whether a socket is at a port of the wildcard address already. With SO_REUSEPORT a second one
// could as well, of a relay that was left running, say, and each would get some of the connections and datagrams.
func sharedPort(p Proto, v6 bool, port uint16) (bool, error) {
	// The fields are: number, local address and port, remote address and port, state. Of TCP, 0A is TCP_LISTEN; of
	// UDP, 07 is a socket that is not connected.
	name, state := "/proc/self/net/tcp", "0A"
	if p == UDP {
		name, state = "/proc/self/net/udp", "07"
	}
	wildcard := "00000000"
	if v6 {
		name, wildcard = name+"6", strings.Repeat("0", 32)
	}
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	local := fmt.Sprintf("%s:%04X", wildcard, port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 3 && fields[1] == local && fields[3] == state {
			return true, nil
		}
	}
	return false, nil
}

// readable reports whether a socket has bytes, an end or an error.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil
}

// socketError reports whether a socket was reset or has failed otherwise.
func socketError(fd int) bool {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err != nil || errno != 0
}

// unacknowledged reports whether the peer of c may still acknowledge something.
func unacknowledged(c *net.TCPConn) (yes bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		if err != nil || info.State == unix.BPF_TCP_CLOSE {
			return
		}
		n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		yes = err == nil && n > 0
	})
	return yes
}
