package relay

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"unsafe"

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

// localPorts returns the range from which the kernel draws the ports of programs that bind none.
func localPorts() (first, last uint16) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &first, &last)
	}
	if err != nil {
		return 32768, 60999 // what it is unless somebody changes it
	}
	return first, last
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
func readable(fd int) bool { return ready(fd, unix.POLLIN) }

// writable reports whether a socket takes bytes or has failed. If it does not, the kernel says when it does.
func writable(fd int) bool { return ready(fd, unix.POLLOUT) }

func ready(fd int, events int16) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil
}

// Fields of SO_MEMINFO, as linux/sock_diag.h numbers them.
const (
	memSendBuffer = 3
	memQueued     = 5
	memFields     = 9
)

// segmentOverhead is about what the kernel counts for a segment next to its bytes.
const segmentOverhead = 1024

// sendRoom returns how many bytes a socket is sure to take, or 0 if the kernel does not call it writable: that takes
// half as much free memory as is in use. Each segment costs memory of its own, and a peer may ask for small ones; an
// eighth is left for bytes that lie in many small pieces.
func sendRoom(fd int) int {
	var mem [memFields]uint32
	size := uint32(unsafe.Sizeof(mem))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&mem)), uintptr(unsafe.Pointer(&size)), 0)
	segment, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_MAXSEG)
	if errno != 0 || err != nil {
		return leastRoom // splice tells
	}
	free := int(mem[memSendBuffer]) - int(mem[memQueued])
	if free < int(mem[memQueued]/2) {
		return 0
	}
	return max(0, free-free/8) * segment / (segment + segmentOverhead)
}

// socketError reports whether a socket was reset or has failed otherwise.
func socketError(fd int) bool {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err != nil || errno != 0
}

// unacknowledged reports whether the peer of c may still acknowledge something.
func unacknowledged(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	closed := false
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		closed = err != nil || info.State == unix.BPF_TCP_CLOSE
	})
	return !closed && outstanding(c) > 0
}

// outstanding returns how many bytes, sent or not, the peer of c has not acknowledged.
func outstanding(c *net.TCPConn) (n int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return n
}
