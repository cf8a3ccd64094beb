package relay

import (
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// icmpSender tells clients about what cannot reach its destination. It needs CAP_NET_RAW; without that they are left
// to their own timeouts.
type icmpSender struct {
	fd4, fd6 int // -1 if there is none
	rate     bucket
}

func newICMPSender() *icmpSender {
	return &icmpSender{
		fd4:  rawSocket4(),
		fd6:  rawSocket6(),
		rate: bucket{per: time.Second / icmpRate, credit: icmpBurst * time.Second / icmpRate},
	}
}

// rawSocket4 returns a socket that takes nothing in, or -1.
func rawSocket4() int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return -1
	}
	const filter = 1 // ICMP_FILTER of linux/icmp.h
	_ = unix.SetsockoptInt(fd, unix.SOL_RAW, filter, -1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	return fd
}

func rawSocket6() int {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1
	}
	var none unix.ICMPv6Filter
	for i := range none.Data {
		none.Data[i] = 1<<32 - 1
	}
	_ = unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &none)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	return fd
}

func (s *icmpSender) close() {
	for _, fd := range []int{s.fd4, s.fd6} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	s.fd4, s.fd6 = -1, -1
}

// send tells the client of a flow about a datagram of n bytes, from the relay address it was sent to. Messages beyond
// the rate are not sent. What goes to a group or to nobody is neither. See RFC 1122, Section 3.2.2.
func (s *icmpSender) send(key flowKey, u unreachable, n int, now time.Duration) {
	client, local := key.client.Addr(), key.local.Addr()
	fd := s.fd6
	if client.Is4() {
		fd = s.fd4
	}
	if fd < 0 || client.IsMulticast() || client.IsUnspecified() || !s.rate.take(now) {
		return
	}
	b := appendUnreachable(nil, key, u, n)
	_, _ = unix.SendmsgN(fd, b, leaveFrom(local), sockaddr(netip.AddrPortFrom(client, 0)), 0)
}

// leaveFrom returns the control message that sets the source address.
func leaveFrom(local netip.Addr) []byte {
	if local.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.As16()})
}

// forClient returns u as it is for the client of f.
func (u unreachable) forClient(f *flow) unreachable {
	return u.forFamily(f.key.client.Addr(), f.grant.dst.Addr())
}

// tellDestination tells the destination of f that its datagram of n bytes does not get to the client for its size.
func (u *udpPort) tellDestination(f *flow, n int) {
	mtu, err := pathMTU(f.key.client)
	if err != nil {
		return
	}
	back := flowKey{client: f.grant.dst, local: f.src}
	u.icmp.send(back, unreachable{tooBig, mtu}.forFamily(f.grant.dst.Addr(), f.key.client.Addr()), n, u.now())
}

// pathMTU returns the MTU of the way to addr.
func pathMTU(addr netip.AddrPort) (int, error) {
	v6 := addr.Addr().Is6()
	fd, err := udpSocket(v6)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(addr)); err != nil {
		return 0, os.NewSyscallError("connect", err)
	}
	if v6 {
		return unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU)
	}
	return unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
}

// unreachableFrom returns what an entry of a socket's error queue is for a client. ok is false if it is nothing.
func unreachableFrom(control []byte) (u unreachable, ok bool) {
	msgs, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return unreachable{}, false
	}
	for _, m := range msgs {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (v4 || v6) && len(m.Data) >= int(unsafe.Sizeof(unix.SockExtendedErr{})) {
			return unreachableOf((*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0])))
		}
	}
	return unreachable{}, false
}

// unreachableOf translates an error. That a packet's time was exceeded on the way is left out: the client's own did
// not run out.
func unreachableOf(e *unix.SockExtendedErr) (u unreachable, ok bool) {
	if e.Errno == uint32(unix.EMSGSIZE) {
		return unreachable{tooBig, int(e.Info)}, true
	}
	const unreachableType4, unreachableType6 = 3, 1
	table := unreachable4
	switch {
	case e.Origin == unix.SO_EE_ORIGIN_ICMP && e.Type == unreachableType4:
		if e.Code == 9 || e.Code == 10 { // networks and hosts, where prohibited is any
			return unreachable{reason: prohibited}, true
		}
	case e.Origin == unix.SO_EE_ORIGIN_ICMP6 && e.Type == unreachableType6:
		table = unreachable6
	default:
		return unreachable{}, false
	}
	for _, r := range []reason{portUnreachable, prohibited} {
		if table[r][1] == e.Code {
			return unreachable{reason: r}, true
		}
	}
	return unreachable{reason: hostUnreachable}, true
}
