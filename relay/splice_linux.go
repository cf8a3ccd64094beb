package relay

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

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
	_ = h.src.Control(func(fd uintptr) { failed = socketError(int(fd)) })
	return failed
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
