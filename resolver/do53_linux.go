package resolver

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

const (
	// batchSize is how many datagrams one system call moves. From 32 on its cost is spread thin; more than 64 only adds
	// to the time the first of a batch waits.
	batchSize = 64
	// datagramSize is the longest query that is read whole. A query has one name and, at most, an OPT record.
	datagramSize = 2048
	// controlSize has room for the packet information of either family.
	controlSize = 40
	// replySize is what one reply takes of the buffer for the replies of a batch before the buffer grows.
	replySize = 512
)

// udpSystem is the part of a udpSocket that depends on the system.
type udpSystem struct {
	raw syscall.RawConn
}

// returnPath is the way back to a client: its address, and on wildcard sockets the address that it asked.
type returnPath struct {
	name       unix.RawSockaddrInet6 // or RawSockaddrInet4
	nameLen    uint32
	control    control
	controlLen int
}

// control is a control message, aligned as the kernel wants it.
type control [controlSize / 8]uint64

func (c *control) bytes() *[controlSize]byte { return (*[controlSize]byte)(unsafe.Pointer(c)) }

func newUDPSocket(f *frontend, pc *net.UDPConn, addr netip.AddrPort) (*udpSocket, error) {
	if err := tuneUDP(pc, addr); err != nil {
		return nil, err
	}
	raw, err := pc.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &udpSocket{frontend: f, pc: pc, local: addr, udpSystem: udpSystem{raw}}, nil
}

// read answers batches until the read deadline passes. What waits for upstreams does so until ctx is done.
func (s *udpSocket) read(ctx context.Context) error {
	b := newBatch(s.local)
	later := func(i int) { s.later(ctx, &b.q, b.returnPath(i)) }
	return s.raw.Read(func(fd uintptr) bool {
		for {
			n := b.receive(fd)
			b.send(fd, b.answer(s.h, n, later))
			if n < batchSize {
				// The queue was empty: wait. A datagram that came since has already made the socket readable again.
				return false
			}
			runtime.Gosched() // let what waits for upstreams go on under full load
		}
	})
}

// send sends the reply of j. A datagram that the kernel does not take now is lost, as any other may be.
func (s *udpSocket) send(j *job) {
	iov := unix.Iovec{Base: &j.reply[0]}
	iov.SetLen(len(j.reply))
	m := j.back.header(&iov)
	_ = s.raw.Control(func(fd uintptr) { _, _ = sendmmsg(fd, []unix.Mmsghdr{m}) })
}

func (p *returnPath) header(iov *unix.Iovec) unix.Mmsghdr {
	m := unix.Mmsghdr{Hdr: unix.Msghdr{Name: (*byte)(unsafe.Pointer(&p.name)), Namelen: p.nameLen, Iov: iov}}
	m.Hdr.SetIovlen(1)
	if p.controlLen > 0 {
		m.Hdr.Control = &p.control.bytes()[0]
		m.Hdr.SetControllen(p.controlLen)
	}
	return m
}

// batch is what one recvmmsg takes in and one sendmmsg sends. All that the kernel needs points into it, and it lives
// as long as its socket: answering from the cache allocates nothing.
type batch struct {
	q        query
	wildcard bool
	local    netip.AddrPort

	in, out       [batchSize]unix.Mmsghdr
	inVec, outVec [batchSize]unix.Iovec
	names         [batchSize]unix.RawSockaddrInet6
	controls      [batchSize]control
	bufs          [batchSize][datagramSize]byte

	replies []byte         // one after the other
	ends    [batchSize]int // where each of replies ends
}

// newBatch returns a batch for a socket bound to addr.
func newBatch(addr netip.AddrPort) *batch {
	b := &batch{
		q:        query{transport: UDP},
		wildcard: addr.Addr().IsUnspecified(),
		local:    bareAddrPort(addr),
		replies:  make([]byte, 0, batchSize*replySize),
	}
	for i := range b.in {
		b.inVec[i] = unix.Iovec{Base: &b.bufs[i][0]}
		b.inVec[i].SetLen(datagramSize)
		b.in[i].Hdr.Iov = &b.inVec[i]
		b.in[i].Hdr.SetIovlen(1)
		b.out[i].Hdr.Iov = &b.outVec[i]
		b.out[i].Hdr.SetIovlen(1)
	}
	b.reset(batchSize)
	return b
}

// reset makes the first n headers ready to receive: the kernel overwrites the lengths.
func (b *batch) reset(n int) {
	for i := range n {
		h := &b.in[i].Hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.names[i])), unix.SizeofSockaddrInet6
		if b.wildcard {
			h.Control = &b.controls[i].bytes()[0]
			h.SetControllen(controlSize)
		}
	}
}

// receive takes in what is there, without waiting, and returns the number of datagrams.
func (b *batch) receive(fd uintptr) int {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize,
			unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n)
		case unix.EINTR:
		default:
			// EAGAIN, or a pending error of the socket, which reading it has cleared.
			return 0
		}
	}
}

// answer answers the first n datagrams that were received, calls later for those that have to wait, with b.q set, and
// returns how many replies are to be sent.
func (b *batch) answer(h handler, n int, later func(i int)) int {
	b.replies = b.replies[:0]
	out := 0
	for i := range n {
		if !b.load(i) {
			continue
		}
		var did outcome
		start := len(b.replies)
		b.replies, did = h.answerNow(&b.q, b.replies)
		switch {
		case did == pending:
			later(i)
		case did == answered && len(b.replies) > start:
			b.reply(out, i)
			out++
		}
	}
	// Only now the buffer of the replies has stopped growing, and moving.
	start := 0
	for i := range out {
		b.outVec[i].Base = &b.replies[start]
		b.outVec[i].SetLen(b.ends[i] - start)
		start = b.ends[i]
	}
	b.reset(n)
	return out
}

// load sets b.q to datagram i and reports whether it can be answered at all.
func (b *batch) load(i int) bool {
	var ok bool
	if b.q.client, ok = sockaddr(&b.names[i]); !ok {
		return false
	}
	b.q.local = b.local
	if b.wildcard {
		addr, ok := asked(b.controls[i].bytes(), int(b.in[i].Hdr.Controllen))
		if !ok {
			return false
		}
		b.q.local = netip.AddrPortFrom(addr, b.local.Port())
	}
	length := min(int(b.in[i].Len), datagramSize)
	if b.in[i].Hdr.Flags&unix.MSG_TRUNC != 0 {
		// Far too long for a query. Its header alone is malformed as well, and gets the answer for that.
		length = wire.HeaderLen
	}
	b.q.msg, b.q.ttl = b.bufs[i][:length], 0
	return true
}

// reply makes the last of b.replies the answer number out, to datagram i.
func (b *batch) reply(out, i int) {
	b.ends[out] = len(b.replies)
	from, to := &b.in[i].Hdr, &b.out[out].Hdr
	to.Name, to.Namelen = from.Name, from.Namelen
	if b.wildcard {
		to.Control, to.Controllen = from.Control, from.Controllen
	}
}

// returnPath returns the way back to the client of datagram i.
func (b *batch) returnPath(i int) returnPath {
	p := returnPath{name: b.names[i], nameLen: b.in[i].Hdr.Namelen}
	if b.wildcard {
		p.control, p.controlLen = b.controls[i], int(b.in[i].Hdr.Controllen)
	}
	return p
}

// send sends the first n replies. One that the kernel refuses is skipped; if its queues are full, the rest is lost,
// as on any other link.
func (b *batch) send(fd uintptr, n int) {
	for out := b.out[:n]; len(out) > 0; {
		sent, errno := sendmmsg(fd, out)
		switch errno {
		case 0:
			out = out[sent:]
		case unix.EINTR:
		case unix.EAGAIN, unix.ENOBUFS:
			return
		default:
			out = out[1:]
		}
	}
}

func sendmmsg(fd uintptr, out []unix.Mmsghdr) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// sockaddr returns the address in sa, bare.
func sockaddr(sa *unix.RawSockaddrInet6) (netip.AddrPort, bool) {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	switch sa.Family {
	case unix.AF_INET:
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), port), true
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), port), true
	}
	return netip.AddrPort{}, false
}

// asked returns the local address in the packet information that came with a datagram, and makes that information fit
// to be sent back: without the interface, which would overrule the routing table.
func asked(c *[controlSize]byte, length int) (netip.Addr, bool) {
	if length < unix.SizeofCmsghdr {
		return netip.Addr{}, false
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(c))
	info := c[unix.CmsgLen(0):]
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && length >= unix.CmsgLen(unix.SizeofInet4Pktinfo):
		p := (*unix.Inet4Pktinfo)(unsafe.Pointer(&info[0]))
		p.Ifindex = 0
		return netip.AddrFrom4(p.Spec_dst), true
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && length >= unix.CmsgLen(unix.SizeofInet6Pktinfo):
		p := (*unix.Inet6Pktinfo)(unsafe.Pointer(&info[0]))
		p.Ifindex = 0
		return netip.AddrFrom16(p.Addr).Unmap(), true
	}
	return netip.Addr{}, false
}
