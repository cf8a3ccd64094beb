package relay

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// pipeSize is how many bytes a pipe is asked to hold. It is a matter of slots more than of bytes: a pipe has one for
// each 4096, and each takes one buffer of a packet, whether large or small.
const pipeSize = 1 << 18

// pipe is an empty pipe, or one whose holder keeps count.
type pipe struct{ r, w int }

func newPipe() (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	// The limit for an unprivileged user may be reached: then the default has to do.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
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
