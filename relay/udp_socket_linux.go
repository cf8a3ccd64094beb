package relay

import (
	"errors"
	"fmt"
	"net"
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
	// Set once by udpServer.newFlow and begin.
	server     *udpServer
	worker     *udpWorker
	reply      *udpListener // where what goes back to the client leaves from, of worker
	grant      Grant
	src        netip.AddrPort
	peer       unix.RawSockaddrInet6 // the client
	peerLen    uint32
	leave      [controlWords]uint64 // the control message that makes a reply leave from the address that was asked
	leaveWords int

	mu  sync.Mutex
	fd  int  // -1 when closed
	ecn byte // what datagrams to the destination are marked with
}

// tuples are the source and destination pairs in use. Two UDP sockets with SO_REUSEADDR could both take the
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
func (u *udpServer) newFlow(key flowKey, w *udpWorker, g Grant) *flow {
	f := &flow{key: key, upstream: upstream{server: u, worker: w, reply: w.listener(key), grant: g, fd: -1}}
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

// dial returns a socket that is connected to dst from src, a source of its own. On an error fd is -1.
func (u *udpServer) dial(dst netip.AddrPort) (fd int, src netip.AddrPort, err error) {
	fd, err = udpSocket(dst.Addr().Is6())
	if err != nil {
		return -1, src, err
	}
	if err = u.setUpstream(fd, dst.Addr().Is6()); err == nil {
		src, err = u.bindSource(fd, dst)
	}
	if err != nil {
		unix.Close(fd)
		return -1, src, err
	}
	if err := unix.Connect(fd, sockaddr(dst)); err != nil {
		u.tuples.free(tuple{src, dst})
		unix.Close(fd)
		return -1, src, os.NewSyscallError("connect", err)
	}
	return fd, src, nil
}

// DialUDP connects a UDP flow to its destination, from a source address and port of its own, for an entrance that moves
// the datagrams itself. Release gives the source back; the connection must be closed before.
func (g *Grant) DialUDP() (*net.UDPConn, error) {
	u := g.relay.udp
	fd, src, err := u.dial(g.dst)
	if err != nil {
		return nil, err
	}
	socket := os.NewFile(uintptr(fd), "udp")
	defer socket.Close()
	c, err := net.FileConn(socket)
	if err != nil {
		u.tuples.free(tuple{src, g.dst})
		return nil, fmt.Errorf("connect to %s: %w", g.dst, err)
	}
	unmap := g.unmap
	g.unmap = func() {
		u.tuples.free(tuple{src, g.dst})
		if unmap != nil {
			unmap()
		}
	}
	return c.(*net.UDPConn), nil
}

// bindSource binds fd to a source drawn anew until one is free towards dst.
func (u *udpServer) bindSource(fd int, dst netip.AddrPort) (netip.AddrPort, error) {
	e := u.relay.egress()
	for range e.tries() {
		src, err := e.draw(dst.Addr().Is6())
		if err != nil {
			return src, err
		}
		tp := tuple{src, dst}
		if !u.tuples.take(tp) {
			continue
		}
		if err = unix.Bind(fd, sockaddr(src)); err == nil {
			return src, nil
		}
		u.tuples.free(tp)
		if !errors.Is(err, unix.EADDRINUSE) {
			return src, os.NewSyscallError("bind", err)
		}
	}
	return netip.AddrPort{}, errors.New("relay: no free source")
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

// ipOptions are the numbers that the options have in one of the IP versions.
type ipOptions struct{ level, freebind, discover, errors, packetInfo, tos, receiveTOS, receiveFragments int }

// The values of the option to discover the path MTU, the same in both versions: always with DF, never with DF.
const (
	discoverProbe = unix.IP_PMTUDISC_PROBE
	discoverDont  = unix.IP_PMTUDISC_DONT
)

func ipOptionsOf(v6 bool) ipOptions {
	if v6 {
		return ipOptions{
			unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, unix.IPV6_MTU_DISCOVER, unix.IPV6_RECVERR,
			unix.IPV6_RECVPKTINFO, unix.IPV6_TCLASS, unix.IPV6_RECVTCLASS, unix.IPV6_RECVFRAGSIZE,
		}
	}
	return ipOptions{
		unix.IPPROTO_IP, unix.IP_FREEBIND, unix.IP_MTU_DISCOVER, unix.IP_RECVERR,
		unix.IP_PKTINFO, unix.IP_TOS, unix.IP_RECVTOS, unix.IP_RECVFRAGSIZE,
	}
}

// setUpstream sets the options of an upstream socket. SO_REUSEADDR lets flows to different destinations share a
// source; a socket that is not connected yet may thus get others' datagrams, see udpWorker.back.
func (u *udpServer) setUpstream(fd int, v6 bool) error {
	return u.setOptions(fd, v6, upstreamBuffer, sockopt{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
}

// setListen sets the options of a listening socket.
func (u *udpServer) setListen(fd int, v6 bool) error {
	o := ipOptionsOf(v6)
	return u.setOptions(fd, v6, listenBuffer, sockopt{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1}, sockopt{o.level, o.packetInfo, 1})
}

// setOptions sets some options and those that all sockets have. Without freebind, IPv6 refuses sources that are not
// an address of an interface, and on listening sockets replies from relay addresses.
func (u *udpServer) setOptions(fd int, v6 bool, buffer int, opts ...sockopt) error {
	o := ipOptionsOf(v6)
	opts = append(opts,
		sockopt{o.level, o.freebind, 1},
		sockopt{o.level, o.discover, discoverProbe},
		sockopt{o.level, o.errors, 1},
		sockopt{o.level, o.receiveTOS, 1},
		sockopt{o.level, o.receiveFragments, 1})
	if v6 {
		opts = append(opts, sockopt{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1})
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("setsockopt %d of level %d: %w", o.name, o.level, err)
		}
	}
	if u.gso.Load() { // put together only what can be taken apart again
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // Linux 5.0; without it, all comes singly
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

// setDiscover sets whether what fd sends has DF.
func setDiscover(fd int, v6 bool, value int) error {
	o := ipOptionsOf(v6)
	return unix.SetsockoptInt(fd, o.level, o.discover, value)
}

// mark makes what f sends to its destination carry the ECN codepoint. f.mu must be held. It is an option of the
// socket and not of each message because that would cost a look at the routing table each time, while flows hardly
// ever change theirs.
func (f *flow) mark(ecn byte) {
	if f.ecn == ecn {
		return
	}
	o := ipOptionsOf(f.grant.dst.Addr().Is6())
	if unix.SetsockoptInt(f.fd, o.level, o.tos, int(ecn)) == nil {
		f.ecn = ecn
	}
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}
