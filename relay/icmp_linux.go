package relay

import (
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// icmpSender tells clients about what cannot reach its destination. It needs CAP_NET_RAW; without that they are left
// to their own timeouts.
type icmpSender struct {
	fd4, fd6 int           // -1 if there is none
	rate     *rate.Limiter // of messages per second; its times are those of the flow tables
}

func newICMPSender() *icmpSender {
	return &icmpSender{
		fd4:  rawSocket4(),
		fd6:  rawSocket6(),
		rate: rate.NewLimiter(icmpRate, icmpBurst),
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
// the rate are not sent, nor are any to a multicast or unspecified address. See RFC 1122, Section 3.2.2.
func (s *icmpSender) send(key flowKey, u unreachable, n int, now time.Duration) {
	client, local := key.client.Addr(), key.local.Addr()
	fd := s.fd6
	if client.Is4() {
		fd = s.fd4
	}
	if fd < 0 || client.IsMulticast() || client.IsUnspecified() || !s.rate.AllowN(time.Time{}.Add(now), 1) {
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

// tellDestination tells the destination of f about a datagram of n bytes that does not get to the client.
func (u *udpServer) tellDestination(f *flow, what unreachable, n int, now time.Duration) {
	back := flowKey{client: f.grant.dst, local: f.src}
	u.icmp.send(back, what.forFamily(f.grant.dst.Addr(), f.key.client.Addr()), n, now)
}

// tellTooBig tells the destination of f that its datagram of n bytes exceeds the MTU of the way to the client.
func (u *udpServer) tellTooBig(f *flow, n int) {
	if mtu, err := pathMTU(f.key.client); err == nil {
		u.tellDestination(f, unreachable{tooBig, mtu}, n, u.now())
	}
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

// icmpError is an entry of a socket's error queue.
type icmpError struct {
	what  unreachable
	known bool           // whether what says anything
	n     int            // bytes of payload of the datagram, as far as they were quoted
	to    netip.AddrPort // where the datagram was sent to
	from  netip.Addr     // where from, if the socket has the option for it
}

// readError takes an entry out of the error queue. ok is false if there is none.
func readError(fd int) (e icmpError, ok bool) {
	var payload [2048]byte
	var control [512]byte
	n, controlLen, _, to, err := unix.Recvmsg(fd, payload[:], control[:], unix.MSG_ERRQUEUE)
	if err != nil {
		return icmpError{}, false
	}
	e.n = n
	switch to := to.(type) {
	case *unix.SockaddrInet4:
		e.to = netip.AddrPortFrom(netip.AddrFrom4(to.Addr), uint16(to.Port))
	case *unix.SockaddrInet6:
		e.to = netip.AddrPortFrom(netip.AddrFrom16(to.Addr), uint16(to.Port))
	}
	if msgs, err := unix.ParseSocketControlMessage(control[:controlLen]); err == nil {
		for _, m := range msgs {
			e.control(&m)
		}
	}
	return e, true
}

// control takes one control message into e. The packet information is that of the ICMP message, which came to where
// the datagram was sent from.
func (e *icmpError) control(m *unix.SocketControlMessage) {
	switch h := m.Header; {
	case (h.Level == unix.IPPROTO_IP && h.Type == unix.IP_RECVERR ||
		h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_RECVERR) &&
		len(m.Data) >= int(unsafe.Sizeof(unix.SockExtendedErr{})):
		e.what, e.known = unreachableOf((*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0])))
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
		e.from = netip.AddrFrom4((*unix.Inet4Pktinfo)(unsafe.Pointer(&m.Data[0])).Addr)
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
		e.from = netip.AddrFrom16((*unix.Inet6Pktinfo)(unsafe.Pointer(&m.Data[0])).Addr)
	}
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
