package relay

import (
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipeSize is how many bytes a pipe is asked to hold. It is a matter of slots more than of bytes: a pipe has one for
// each 4096, and each takes one buffer of a packet, whether large or small.
const pipeSize = 1 << 18

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

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

// splicer is the state of a half that copies by splice(2): bytes go from socket to socket through a pipe in the
// kernel, which the half holds only while they are on their way.
type splicer struct {
	src, dst syscall.RawConn
	pipes    *pipes
	pipe     *pipe // or nil
	left     int   // bytes in pipe
	end      outcome
	drain    func(dst uintptr) bool // is half.drainTo, allocated once
}

func newSplicer(from, to *net.TCPConn, pipes *pipes) (splicer, error) {
	src, err := from.SyscallConn()
	if err != nil {
		return splicer{}, err
	}
	dst, err := to.SyscallConn()
	return splicer{src: src, dst: dst, pipes: pipes}, err
}

// copy copies from src to dst until one of them ends.
func (h *half) copy() outcome {
	h.drain = h.drainTo
	if err := h.src.Read(h.pump); err != nil {
		return fromReset
	}
	return h.end
}

// pump moves all that src has to dst. It returns false when src has nothing at the moment.
func (h *half) pump(fd uintptr) (done bool) {
	if !h.hold(int(fd)) {
		return false
	}
	defer h.letGo()
	for {
		n, err := splice(int(fd), h.pipe.w, pipeSize)
		switch {
		case n > 0:
			h.left = n
			done = !h.flush()
		case err != nil && err != unix.EAGAIN:
			h.end = fromReset
			return true
		case atMark(int(fd)):
			done = !h.urgent(int(fd))
		case err != nil:
			return false
		default:
			h.end = halfEnded
			return true
		}
		if done {
			h.end = toReset
			return true
		}
	}
}

// flush moves what the pipe holds to dst, and returns false if dst fails.
func (h *half) flush() bool {
	err := h.dst.Write(h.drain)
	return err == nil && h.left == 0
}

// drainTo moves what dst takes of what the pipe holds. It returns false when dst takes no more at the moment.
func (h *half) drainTo(fd uintptr) (done bool) {
	for h.left > 0 {
		n, err := splice(h.pipe.r, int(fd), h.left)
		if err != nil {
			return err != unix.EAGAIN
		}
		h.left -= n
		h.moved(int64(n))
	}
	return true
}

// atMark reports whether the next byte of a socket is urgent. splice neither takes nor passes it: it returns as if
// there were no more bytes, or, after the last one, as if there never were.
func atMark(fd int) bool {
	mark, err := unix.IoctlGetInt(fd, unix.SIOCATMARK)
	return err == nil && mark == 1
}

// urgent passes on the urgent byte that is next at src, and returns false if dst fails. It is the only byte of a flow
// that enters the process. See RFC 6093, Section 3.
func (h *half) urgent(fd int) bool {
	var b [1]byte
	n, err := unix.Read(fd, b[:])
	if n != 1 || err != nil {
		return err == unix.EAGAIN || err == unix.EINTR
	}
	var sendErr error
	err = h.dst.Write(func(fd uintptr) bool {
		sendErr = unix.Send(int(fd), b[:], unix.MSG_OOB|unix.MSG_NOSIGNAL)
		return sendErr != unix.EAGAIN && sendErr != unix.EINTR
	})
	if err != nil || sendErr != nil {
		return false
	}
	h.moved(1)
	return true
}

// watch waits, after src has ended, until the flow does. It returns true if src is reset before that.
func (h *half) watch() bool {
	return h.src.Read(func(fd uintptr) bool { return socketError(int(fd)) }) == nil
}

// failed reports whether src has been reset.
func (h *half) failed() (failed bool) {
	h.src.Control(func(fd uintptr) { failed = socketError(int(fd)) })
	return failed
}

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
	raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		if err != nil || info.State == unix.BPF_TCP_CLOSE {
			return
		}
		n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		yes = err == nil && n > 0
	})
	return yes
}

// splice is splice(2), begun anew when a signal interrupts it. It never blocks, so the scheduler is not told of it:
// that would have a processor taken away and given back for each call that moves many bytes.
func splice(from, to, n int) (int, error) {
	for {
		moved, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), spliceFlags)
		switch errno {
		case 0:
			return int(moved), nil
		case unix.EAGAIN:
			return 0, unix.EAGAIN // without an allocation
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// hold takes a pipe, and returns false if there is no need for one yet: it does not wait for one before src has
// something to send.
func (h *half) hold(src int) bool {
	h.pipe = h.pipes.take()
	if h.pipe == nil && !readable(src) {
		return false
	}
	if h.pipe == nil {
		h.pipe = h.pipes.wait()
	}
	h.flow.holding.Add(1)
	return true
}

// readable reports whether a socket has bytes, an end or an error.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil
}

// letGo gives the pipe back, or closes it if bytes are left that no one will take.
func (h *half) letGo() {
	if h.left > 0 {
		h.pipes.discard(h.pipe)
	} else {
		h.pipes.put(h.pipe)
	}
	h.pipe, h.left = nil, 0
	h.flow.holding.Add(-1)
}

// pipe is an empty pipe, or one whose holder keeps count.
type pipe struct{ r, w int }

func newPipe() (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	// The limit for an unprivileged user may be reached: then the default has to do.
	unix.FcntlInt(uintptr(fds[0]), syscall.F_SETPIPE_SZ, pipeSize)
	return &pipe{fds[0], fds[1]}, nil
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// keptPipes is how many pipes are kept when nobody needs them.
const keptPipes = 32

// pipes is a bounded pool of pipes.
type pipes struct {
	limit int // set once by newPipes

	mu      sync.Mutex
	free    []*pipe // empty; the last used is the last, and the first taken
	open    int     // pipes in all
	waiting int
	back    sync.Cond // signalled when a pipe comes back or a new one may be made
}

func newPipes(limit int) *pipes {
	p := &pipes{limit: limit}
	p.back.L = &p.mu
	return p
}

// take returns an empty pipe, or nil if none is left.
func (p *pipes) take() *pipe {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeLocked()
}

// wait waits for an empty pipe.
func (p *pipes) wait() *pipe {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting++
	defer func() { p.waiting-- }()
	for {
		if pipe := p.takeLocked(); pipe != nil {
			return pipe
		}
		p.back.Wait()
	}
}

func (p *pipes) takeLocked() *pipe {
	if n := len(p.free); n > 0 {
		pipe := p.free[n-1]
		p.free = p.free[:n-1]
		return pipe
	}
	if p.open == p.limit {
		return nil
	}
	pipe, err := newPipe()
	if err != nil {
		return nil
	}
	p.open++
	return pipe
}

// put takes back an empty pipe.
func (p *pipes) put(pipe *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == 0 && len(p.free) >= keptPipes {
		p.closeLocked(pipe)
		return
	}
	p.free = append(p.free, pipe)
	p.back.Signal()
}

// discard takes back a pipe that holds bytes.
func (p *pipes) discard(pipe *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeLocked(pipe)
	p.back.Signal()
}

func (p *pipes) closeLocked(pipe *pipe) {
	pipe.close()
	p.open--
}

// starved reports whether somebody waits for a pipe.
func (p *pipes) starved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting > 0
}

// retry lets those who wait try again: the system may have descriptors for new pipes by now.
func (p *pipes) retry() { p.back.Broadcast() }

// close closes the pipes that nobody holds.
func (p *pipes) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pipe := range p.free {
		p.closeLocked(pipe)
	}
	p.free = nil
}
