package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Buffers of sockets, in bytes. The kernel's default of some 200 kB caps a flow near 100 Mbit/s over the internet.
// They are bounds, not reservations.
const (
	listenBuffer   = 4 << 20
	upstreamBuffer = 1 << 20
)

// upstream is the half of a flow that has to do with sockets.
type upstream struct {
	// Set once by udpPort.newFlow and dial.
	port       *udpPort
	worker     *udpWorker
	grant      grant
	src        netip.AddrPort
	peer       unix.RawSockaddrInet6 // the client
	peerLen    uint32
	leave      [controlWords]uint64 // the control message that makes a reply leave from the address that was asked
	leaveWords int

	mu  sync.Mutex
	fd  int  // -1 when closed
	ecn byte // what datagrams to the destination are marked with
}

// tuples are the source and destination pairs in use on a port. Two UDP sockets with SO_REUSEADDR could both take the
// same pair, and the kernel would give all replies to one of them.
type tuples struct {
	mu    sync.Mutex
	taken map[tuple]struct{}
}

type tuple struct{ src, dst netip.AddrPort }

// take reports whether it was free and takes it.
func (t *tuples) take(tp tuple) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.taken[tp]; taken {
		return false
	}
	t.taken[tp] = struct{}{}
	return true
}

func (t *tuples) free(tp tuple) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.taken, tp)
}

// newFlow returns a flow with everything but a socket.
func (u *udpPort) newFlow(key flowKey, w *udpWorker, g grant) *flow {
	f := &flow{key: key, upstream: upstream{port: u, worker: w, grant: g, fd: -1}}
	f.grant.dst = netip.AddrPortFrom(g.dst.Addr().Unmap(), g.dst.Port())
	f.peerLen = putAddrPort(&f.peer, key.client)
	local := key.local.Addr()
	n := 0
	if local.Is4() {
		n = putControl(&f.leave, 0, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.Inet4Pktinfo{Spec_dst: local.As4()})
	} else {
		n = putControl(&f.leave, 0, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.Inet6Pktinfo{Addr: local.As16()})
	}
	f.leaveWords = (n + 7) / 8
	return f
}

// dial gives f a socket from a source of its own that is connected to its destination.
func (u *udpPort) dial(f *flow) error {
	dst := f.grant.dst
	fd, err := udpSocket(dst.Addr().Is6())
	if err != nil {
		return err
	}
	if err = u.setUpstream(fd, dst.Addr().Is6()); err == nil {
		err = u.bindSource(fd, f)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	if err := unix.Connect(fd, sockaddr(dst)); err != nil {
		u.tuples.free(tuple{f.src, dst})
		unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	f.fd = fd
	return nil
}

// bindSource binds fd to a source drawn anew until one is free.
func (u *udpPort) bindSource(fd int, f *flow) error {
	e := u.relay.egress()
	for range e.tries() {
		src, err := e.draw(f.grant.dst.Addr().Is6())
		if err != nil {
			return err
		}
		tp := tuple{src, f.grant.dst}
		if !u.tuples.take(tp) {
			continue
		}
		if err = unix.Bind(fd, sockaddr(src)); err == nil {
			f.src = src
			return nil
		}
		u.tuples.free(tp)
		if !errors.Is(err, unix.EADDRINUSE) {
			return os.NewSyscallError("bind", err)
		}
	}
	return errors.New("relay: no free source")
}

func udpSocket(v6 bool) (int, error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	return fd, os.NewSyscallError("socket", err)
}

// sockopt is a socket option with its value.
type sockopt struct{ level, name, value int }

// Options of upstream sockets. SO_REUSEADDR lets flows to different destinations share a source; a socket that is
// not connected yet may thus get others' datagrams, see udpWorker.fromUpstream.
var (
	upstreamOptions4 = []sockopt{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
		{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE},
		{unix.IPPROTO_IP, unix.IP_RECVERR, 1},
		{unix.IPPROTO_IP, unix.IP_RECVTOS, 1},
		{unix.IPPROTO_IP, unix.IP_RECVFRAGSIZE, 1},
	}
	upstreamOptions6 = []sockopt{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVFRAGSIZE, 1},
	}
	listenOptions4 = []sockopt{
		{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		{unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
		{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE},
		{unix.IPPROTO_IP, unix.IP_RECVTOS, 1},
		{unix.IPPROTO_IP, unix.IP_RECVFRAGSIZE, 1},
	}
	listenOptions6 = []sockopt{
		{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1}, // else a reply from a relay address is EINVAL
		{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVFRAGSIZE, 1},
	}
)

func (u *udpPort) setUpstream(fd int, v6 bool) error {
	opts := upstreamOptions4
	if v6 {
		opts = upstreamOptions6
	}
	return u.setOptions(fd, opts, upstreamBuffer)
}

func (u *udpPort) setListen(fd int, v6 bool) error {
	opts := listenOptions4
	if v6 {
		opts = listenOptions6
	}
	return u.setOptions(fd, opts, listenBuffer)
}

func (u *udpPort) setOptions(fd int, opts []sockopt, buffer int) error {
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("setsockopt %d of level %d: %w", o.name, o.level, err)
		}
	}
	if u.gso.Load() { // put together only what can be taken apart again
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // Linux 5.0; without it, all goes singly
	}
	setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, buffer)
	setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, buffer)
	return nil
}

// setBuffer sets the size of a buffer, past the system's bound if we may, and else up to it.
func setBuffer(fd, force, option, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size)
	}
}

// setFragment lets the kernel fragment what fd sends, or not.
func setFragment(fd int, v6, on bool) error {
	o := sockopt{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE}
	if v6 {
		o = sockopt{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE}
	}
	if on {
		o.value = unix.IP_PMTUDISC_DONT // the same number in IPv6
	}
	return unix.SetsockoptInt(fd, o.level, o.name, o.value)
}

// mark makes what f sends to its destination carry the ECN codepoint. f.mu must be held. It is an option of the
// socket and not of each message because that would cost a look at the routing table each time, while flows hardly
// ever change theirs.
func (f *flow) mark(ecn byte) {
	if f.ecn == ecn {
		return
	}
	o := sockopt{unix.IPPROTO_IP, unix.IP_TOS, int(ecn)}
	if f.grant.dst.Addr().Is6() {
		o = sockopt{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(ecn)}
	}
	if unix.SetsockoptInt(f.fd, o.level, o.name, o.value) == nil {
		f.ecn = ecn
	}
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}
