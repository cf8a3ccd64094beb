package relay

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

// splicer is the state of a half that copies by splice(2): bytes go from socket to socket through a pipe in the
// kernel, which the half holds only while they are on their way. They are taken from src only when dst has room, so
// that they wait in the sockets, which have limits of their own, and not in a pipe.
type splicer struct {
	src, dst syscall.RawConn
	pipes    *pipes
	pipe     *pipe // or nil
	left     int   // bytes in pipe
	room     int   // bytes that dst takes for sure
	stalled  bool  // waits for dst to take bytes
	end      outcome

	// The methods of half that package net calls, each allocated once.
	drain, await func(dst uintptr) bool
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
	h.drain, h.await = h.drainTo, h.hasRoom
	if err := h.src.Read(h.pump); err != nil {
		return fromReset
	}
	return h.end
}

// turn is what one attempt to move bytes from src to dst came to.
type turn int

const (
	turnMoved turn = iota // there may be more
	turnWaits             // nothing is there at the moment
	turnEnds              // half.end says how
)

// pump moves all that src has to dst. It returns false when src has nothing at the moment. Every turn that moves nothing
// ends the loop: a peer that finds a state of its socket in which the kernel has neither bytes nor an end must not keep
// a processor busy.
func (h *half) pump(fd uintptr) (done bool) {
	t := turnMoved
	for t == turnMoved {
		if t = h.makeRoom(int(fd)); t == turnMoved {
			t = h.move(int(fd))
		}
	}
	return t == turnEnds
}

// enoughRoom is with how much room dst is not asked again. What is acknowledged adds to it, but is not counted.
const enoughRoom = 8192

// makeRoom waits until dst has room for what src has, if it has anything.
func (h *half) makeRoom(src int) turn {
	switch {
	case h.room >= enoughRoom:
		return turnMoved
	case !readable(src):
		return turnWaits
	}
	err := h.dst.Write(h.await)
	h.wake()
	if err != nil {
		return h.ends(toReset)
	}
	return turnMoved
}

// move moves what one call of splice takes from src.
func (h *half) move(src int) turn {
	if !h.hold(src) {
		return turnWaits
	}
	defer h.letGo()
	n, err := splice(src, h.pipe.w, min(h.room, pipeSize))
	switch {
	case n > 0:
		h.left = n
		h.room -= n + segmentOverhead
		if !h.flush() {
			return h.ends(toReset)
		}
		return turnMoved
	case err != nil && err != unix.EAGAIN:
		return h.ends(fromReset)
	case atMark(src):
		return h.urgent(src)
	case err != nil:
		return turnWaits
	default:
		return h.ends(halfEnded)
	}
}

func (h *half) ends(how outcome) turn {
	h.end = how
	return turnEnds
}

// hasRoom looks for room in dst. It returns false if there is none at the moment: the kernel then says when there is.
func (h *half) hasRoom(dst uintptr) bool {
	h.room = sendRoom(int(dst))
	if h.room > 0 {
		return true
	}
	if writable(int(dst)) { // something was acknowledged in between
		h.room = max(leastRoom, sendRoom(int(dst)))
		return true
	}
	h.stall()
	return false
}

// leastRoom is how much is tried when the kernel says that a socket takes bytes, whatever its memory.
const leastRoom = 256

// stall notes that h waits for dst to take bytes, and wake that it does not any more.
func (h *half) stall() {
	if !h.stalled {
		h.stalled = true
		h.flow.stalled.Add(1)
	}
}

func (h *half) wake() {
	if h.stalled {
		h.stalled = false
		h.flow.stalled.Add(-1)
	}
}

// flush moves what the pipe holds to dst, and returns false if dst fails. dst has had room for it; that it takes less
// is rare, and due to a system that is short of memory.
func (h *half) flush() bool {
	err := h.dst.Write(h.drain)
	h.wake()
	return err == nil && h.left == 0
}

// drainTo moves what dst takes of what the pipe holds. It returns false when dst takes no more at the moment; then the
// pipe is made as small as the bytes in it allow.
func (h *half) drainTo(dst uintptr) (done bool) {
	for h.left > 0 {
		n, err := splice(h.pipe.r, int(dst), h.left)
		switch {
		case n > 0:
			h.left -= n
			h.moved(int64(n))
		case err != unix.EAGAIN:
			return true
		default:
			h.room = 0
			h.pipes.shrink(h.pipe)
			h.stall()
			return false
		}
	}
	return true
}

// atMark reports whether the next byte of a socket is urgent. splice neither takes nor passes it: it returns as if
// there were no more bytes, or, after the last one, as if there never were.
func atMark(fd int) bool {
	mark, err := unix.IoctlGetInt(fd, unix.SIOCATMARK)
	return err == nil && mark == 1
}

// urgent passes on the urgent byte that is next at src. It is the only byte of a flow that enters the process. A segment
// may announce one that never comes. See RFC 6093, Section 3.
func (h *half) urgent(src int) turn {
	var b [1]byte
	switch n, err := readUrgent(src, b[:]); {
	case err == unix.EAGAIN:
		return turnWaits
	case err != nil:
		return h.ends(fromReset)
	case n == 0:
		return h.ends(halfEnded)
	}
	var sendErr error
	err := h.dst.Write(func(fd uintptr) bool {
		sendErr = unix.Send(int(fd), b[:], unix.MSG_OOB|unix.MSG_NOSIGNAL)
		return sendErr != unix.EAGAIN
	})
	if err != nil || sendErr != nil {
		return h.ends(toReset)
	}
	h.moved(1)
	return turnMoved
}

// urgentReads is how many times a byte that is there is asked for. The kernel refuses it while a signal is pending,
// as if it were not there; the runtime's own signals come in between a few times at most.
const urgentReads = 8

// readUrgent reads the urgent byte, or returns EAGAIN if it is not there.
func readUrgent(fd int, b []byte) (n int, err error) {
	for range urgentReads {
		n, err = unix.Read(fd, b)
		if err != unix.EAGAIN && err != unix.EINTR {
			return n, err
		}
		if there, err := unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil || there == 0 {
			break
		}
	}
	return 0, unix.EAGAIN
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

// hold takes a pipe, and returns false if there is no need for one yet, or the flow is to end: it does not wait for one
// before src has something to send.
func (h *half) hold(src int) bool {
	h.pipe = h.pipes.take()
	if h.pipe == nil && readable(src) {
		h.pipe = h.pipes.wait(&h.flow.broken)
	}
	if h.pipe == nil {
		return false
	}
	h.flow.holding.Add(1)
	return true
}

// wakeHolder ends a wait for a pipe of a flow that is to end.
func (h *half) wakeHolder() {
	if h.pipes != nil {
		h.pipes.retry()
	}
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
