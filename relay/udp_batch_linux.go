package relay

import (
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many messages one system call takes in or gives out at most. Each may hold several datagrams.
	batchSize = 16
	// messageSize is what one message can hold: the largest datagram, or those that the kernel has put together.
	messageSize = 1 << 16
	// controlWords is the room for the control messages of one message, in units of their alignment.
	controlWords = 20
	// segmentsMax and groupMax bound what is sent as one group: what every kernel with UDP_SEGMENT takes.
	segmentsMax = 64
	groupMax    = 65000
)

// ecnMask is the part of the TOS or traffic class field that is passed on. The other part, DSCP, ends at the relay:
// marks of a client's programs are nothing the destination needs to know. See RFC 3168, Section 5.
const ecnMask = 3

// message is what was received: one datagram, or several of one sender that the kernel has put together.
type message struct {
	payload    []byte
	size       int            // of each datagram; the last may be shorter
	from       netip.AddrPort // who sent it
	to         netip.Addr     // whom it was sent to; the zero Addr unless that is one of our addresses
	ecn        byte           // ECN codepoint
	fragmented bool           // it came in fragments, thus without DF
}

// receiver takes in messages with as few system calls as can be. Its messages are valid until it receives into the
// same slots again.
type receiver struct {
	slab  []byte
	hdrs  [batchSize]unix.Mmsghdr
	iovs  [batchSize]unix.Iovec
	names [batchSize]unix.RawSockaddrInet6
	ctls  [batchSize][controlWords]uint64
}

func newReceiver() *receiver {
	r := &receiver{slab: make([]byte, batchSize*messageSize)}
	for i := range r.hdrs {
		r.iovs[i].Base = &r.slab[i*messageSize]
		r.iovs[i].SetLen(messageSize)
		h := &r.hdrs[i].Hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Control = (*byte)(unsafe.Pointer(&r.ctls[i]))
	}
	return r
}

// receive fills slots from the given one on and returns how many it has filled.
func (r *receiver) receive(fd, slot int) (int, unix.Errno) {
	for i := slot; i < batchSize; i++ {
		h := &r.hdrs[i].Hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(controlWords * 8)
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.hdrs[slot])),
		uintptr(batchSize-slot), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// message returns what is in a slot.
func (r *receiver) message(slot int) message {
	n := int(r.hdrs[slot].Len)
	m := message{
		payload: r.slab[slot*messageSize:][:n:n],
		size:    n,
		from:    addrPortOf(&r.names[slot]),
	}
	ctl := unsafe.Slice((*byte)(unsafe.Pointer(&r.ctls[slot])), int(r.hdrs[slot].Hdr.Controllen))
	for len(ctl) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl[0]))
		if int(h.Len) < unix.SizeofCmsghdr || int(h.Len) > len(ctl) {
			break
		}
		m.control(h, ctl[unix.CmsgLen(0):h.Len])
		ctl = ctl[min(len(ctl), unix.CmsgSpace(int(h.Len)-unix.CmsgLen(0))):]
	}
	return m
}

// control takes one control message into m.
func (m *message) control(h *unix.Cmsghdr, data []byte) {
	switch {
	case len(data) == 0:
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS,
		h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS:
		m.ecn = lowByte(data) & ecnMask
	case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
		if size := int(*(*int32)(unsafe.Pointer(&data[0]))); size > 0 {
			m.size = min(size, m.size)
		}
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
		if info.Addr == info.Spec_dst { // else it was sent to a group or a broadcast address
			m.to = netip.AddrFrom4(info.Addr)
		}
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		if to := netip.AddrFrom16((*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0])).Addr); !to.IsMulticast() {
			m.to = to
		}
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_RECVFRAGSIZE,
		h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_RECVFRAGSIZE:
		m.fragmented = true
	}
}

// lowByte returns the TOS of a control message, which is one byte for IPv4 and an int for IPv6.
func lowByte(data []byte) byte {
	if len(data) >= 4 {
		return byte(*(*int32)(unsafe.Pointer(&data[0])))
	}
	return data[0]
}

// sender gives out messages on one socket with as few system calls as can be. Consecutive datagrams of one flow and
// one size go as one message, which the kernel or the network card takes apart again. Nothing is ever held back to
// make up such a group.
type sender struct {
	gso   *atomic.Bool // whether the kernel takes datagrams apart for us
	reply bool         // whether messages go to clients, on a socket that is not connected

	n, iovn int
	hdrs    [batchSize]unix.Mmsghdr
	iovs    [batchSize]unix.Iovec
	ctls    [batchSize][controlWords]uint64
	out     [batchSize]outgoing
}

// outgoing describes one message of a sender.
type outgoing struct {
	flow       *flow
	bytes      int
	size       int // of each datagram; the last may be shorter
	count      int // of datagrams
	iov, iovs  int // the first and how many
	ecn        byte
	fragmented bool
}

// add adds payload, of the size and the marks of m, to what is given out. There must be room: a receiver's worth.
func (s *sender) add(f *flow, m *message, payload []byte) {
	iov := &s.iovs[s.iovn]
	s.iovn++
	iov.Base = unsafe.SliceData(payload)
	iov.SetLen(len(payload))
	count := max(1, (len(payload)+m.size-1)/max(1, m.size))
	if s.n > 0 && s.gso.Load() && s.out[s.n-1].join(f, m, len(payload), count) {
		return
	}
	s.out[s.n] = outgoing{
		flow: f, bytes: len(payload), size: m.size, count: count,
		iov: s.iovn - 1, iovs: 1, ecn: m.ecn, fragmented: m.fragmented,
	}
	s.n++
}

// join makes the n bytes of m, which are count datagrams, a part of o if all but the last of its datagrams would
// still be of one size.
func (o *outgoing) join(f *flow, m *message, n, count int) bool {
	switch {
	case o.flow != f || o.ecn != m.ecn || o.fragmented || m.fragmented,
		n == 0 || o.bytes == 0 || o.bytes != o.count*o.size,
		m.size > o.size || count > 1 && m.size != o.size,
		o.bytes+n > groupMax || o.count+count > segmentsMax:
		return false
	}
	o.bytes += n
	o.count += count
	o.iovs++
	return true
}

// flush gives everything out on fd and returns how many bytes of payload went. What cannot be sent is dropped, as by
// any router.
func (s *sender) flush(fd int) (sent int) {
	for i := range s.n {
		s.finish(i)
	}
	retried := -1
	for i := 0; i < s.n; {
		if s.special(i) {
			sent += s.sendSpecial(fd, i)
			i++
			continue
		}
		n, errno := s.sendSome(fd, i)
		switch o := &s.out[i]; {
		case errno == 0:
			for range n {
				sent += s.out[i].bytes
				i++
			}
		case errno == unix.EINTR:
		case errno == unix.EAGAIN: // the queue is full
			i = s.n
		case o.count > 1 && s.ungroup(errno):
			sent += s.sendSingly(fd, i)
			i++
		case errno == unix.EMSGSIZE:
			s.exceeded(o, o.bytes)
			i++
		case retried != i: // an error that came in for an earlier datagram
			retried = i
		default:
			i++
		}
	}
	s.reset()
	return sent
}

// special reports whether a message cannot go with others.
func (s *sender) special(i int) bool {
	return s.out[i].fragmented || s.out[i].count > 1 && !s.gso.Load()
}

func (s *sender) sendSpecial(fd, i int) (sent int) {
	if s.out[i].fragmented {
		return s.sendFragmented(fd, i)
	}
	return s.sendSingly(fd, i)
}

// sendSome sends messages from the given one on, as many as the kernel takes, up to a special one.
func (s *sender) sendSome(fd, from int) (int, unix.Errno) {
	to := from + 1
	for to < s.n && !s.special(to) {
		to++
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.hdrs[from])),
		uintptr(to-from), 0, 0, 0)
	return int(n), errno
}

// exceeded tells the destination that its datagram of n bytes exceeds the MTU on the client's side. What exceeds it
// on the other side, the kernel notes in the socket's error queue.
func (s *sender) exceeded(o *outgoing, n int) {
	if s.reply {
		o.flow.server.tellTooBig(o.flow, n)
	}
}

func (s *sender) reset() { s.n, s.iovn = 0, 0 }

// ecn returns the ECN codepoint of what was added last, or 0.
func (s *sender) ecn() byte {
	if s.n == 0 {
		return 0
	}
	return s.out[s.n-1].ecn
}

// ungroup reports whether errno says that a group cannot be sent as one, be it because the route has no checksum
// offload (EIO), which it does not get later, or that one of its datagrams exceeds the MTU.
func (s *sender) ungroup(errno unix.Errno) bool {
	if errno == unix.EIO {
		s.gso.Store(false)
	}
	return errno == unix.EIO || errno == unix.EMSGSIZE || errno == unix.EINVAL
}

// finish writes the header of a message.
func (s *sender) finish(i int) {
	o, h := &s.out[i], &s.hdrs[i].Hdr
	h.Iov = &s.iovs[o.iov]
	h.SetIovlen(o.iovs)
	n := s.marks(i)
	if o.count > 1 {
		n += putControl(&s.ctls[i], n, unix.IPPROTO_UDP, unix.UDP_SEGMENT, uint16(o.size))
	}
	s.setControl(h, i, n)
}

// marks writes what each datagram of a message needs by itself: where it goes to, where from, and its ECN codepoint.
func (s *sender) marks(i int) (n int) {
	if !s.reply {
		return 0
	}
	o, h := &s.out[i], &s.hdrs[i].Hdr
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.flow.peer)), o.flow.peerLen
	n = copy(s.ctls[i][:], o.flow.leave[:o.flow.leaveWords]) * 8
	if o.ecn == 0 {
		return n
	}
	opt := ipOptionsOf(o.flow.key.client.Addr().Is6())
	return n + putControl(&s.ctls[i], n, int32(opt.level), int32(opt.tos), int32(o.ecn))
}

func (s *sender) setControl(h *unix.Msghdr, i, n int) {
	h.Control = nil
	if n > 0 {
		h.Control = (*byte)(unsafe.Pointer(&s.ctls[i]))
	}
	h.SetControllen(n)
}

// sendSingly sends the datagrams of a message one by one and returns how many bytes went. What is as large as one that
// exceeded the MTU is not tried.
func (s *sender) sendSingly(fd, i int) (sent int) {
	o, h := &s.out[i], &s.hdrs[i].Hdr
	s.setControl(h, i, s.marks(i))
	var iov unix.Iovec
	h.Iov = &iov
	h.SetIovlen(1)
	tooLong := messageSize
	for _, all := range s.iovs[o.iov:][:o.iovs] {
		for rest := unsafe.Slice(all.Base, int(all.Len)); len(rest) > 0; {
			n := min(o.size, len(rest))
			iov.Base = &rest[0]
			iov.SetLen(n)
			rest = rest[n:]
			if n >= tooLong {
				continue
			}
			switch sendmsg(fd, h) {
			case 0:
				sent += n
			case unix.EMSGSIZE:
				s.exceeded(o, n)
				tooLong = n
			}
		}
	}
	return sent
}

// sendFragmented sends a datagram that came in fragments, so without DF, in such a way that it can be fragmented
// again.
func (s *sender) sendFragmented(fd, i int) (sent int) {
	o := &s.out[i]
	v6 := o.flow.key.client.Addr().Is6()
	if !s.reply {
		v6 = o.flow.grant.dst.Addr().Is6()
	}
	if setDiscover(fd, v6, discoverDont) != nil {
		return 0
	}
	if sendmsg(fd, &s.hdrs[i].Hdr) == 0 {
		sent = o.bytes
	}
	_ = setDiscover(fd, v6, discoverProbe) // what could be set one way can be set the other
	return sent
}

func sendmsg(fd int, h *unix.Msghdr) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(h)), 0)
	return errno
}

// putControl writes a control message at byte n and returns its length.
func putControl[T uint16 | int32 | unix.Inet4Pktinfo | unix.Inet6Pktinfo](ctl *[controlWords]uint64, n int, level, typ int32, v T) int {
	buf := unsafe.Slice((*byte)(unsafe.Pointer(ctl)), controlWords*8)[n:]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&buf[0]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(int(unsafe.Sizeof(v))))
	*(*T)(unsafe.Pointer(&buf[unix.CmsgLen(0)])) = v
	return unix.CmsgSpace(int(unsafe.Sizeof(v)))
}

// addrPortOf returns what a kernel's address says.
func addrPortOf(sa *unix.RawSockaddrInet6) netip.AddrPort {
	if sa.Family == unix.AF_INET {
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), ntohs(sa4.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), ntohs(sa.Port))
}

// putAddrPort writes ap as the kernel wants it and returns its length.
func putAddrPort(sa *unix.RawSockaddrInet6, ap netip.AddrPort) uint32 {
	if ap.Addr().Is4() {
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		sa4.Family, sa4.Port, sa4.Addr = unix.AF_INET, ntohs(ap.Port()), ap.Addr().As4()
		return unix.SizeofSockaddrInet4
	}
	sa.Family, sa.Port, sa.Addr = unix.AF_INET6, ntohs(ap.Port()), ap.Addr().As16()
	return unix.SizeofSockaddrInet6
}

// ntohs swaps between the order of the machine and that of the network.
func ntohs(p uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&p))
	return uint16(b[0])<<8 | uint16(b[1])
}
