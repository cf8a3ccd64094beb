package relay

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// pipeSize is how many bytes a pipe is asked to hold. It is a matter of slots more than of bytes: a pipe has one for
// each 4096, and each takes one buffer of a packet, whether large or small.
const pipeSize = 1 << 18

// pipe is an empty pipe, or one whose holder keeps count.
type pipe struct {
	r, w  int
	large bool // holds pipeSize
}

func newPipe() (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return &pipe{r: fds[0], w: fds[1]}, nil
}

// resize reports whether p can have that size now: bytes in it may need more, and the system bounds what a user's
// pipes may have in all.
func (p *pipe) resize(size int) bool {
	_, err := unix.FcntlInt(uintptr(p.r), unix.F_SETPIPE_SZ, size)
	return err == nil
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// keptPipes is how many pipes are kept when nobody needs them, and how many are large at most: an eighth of what the
// system lets the pipes of an unprivileged user have in all. Others have the size that pipes are made with.
const keptPipes = 32

// pipes is a bounded pool of pipes.
type pipes struct {
	limit int // set once by newPipes

	mu      sync.Mutex
	free    []*pipe // empty; the last used is the last, and the first taken
	open    int     // pipes in all
	large   int     // of which are large
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

// wait waits for an empty pipe. It returns nil if givenUp is set, which retry has it look at.
func (p *pipes) wait(givenUp *atomic.Bool) *pipe {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting++
	defer func() { p.waiting-- }()
	for !givenUp.Load() {
		if pipe := p.takeLocked(); pipe != nil {
			return pipe
		}
		p.back.Wait()
	}
	return nil
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
	p.enlargeLocked(pipe)
	return pipe
}

// enlargeLocked makes pipe large if not too many are. The system's bound may be reached: then a small one has to do.
func (p *pipes) enlargeLocked(pipe *pipe) {
	if !pipe.large && p.large < keptPipes && pipe.resize(pipeSize) {
		pipe.large = true
		p.large++
	}
}

// shrink makes a pipe as small as the bytes in it allow.
func (p *pipes) shrink(pipe *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for size := unix.Getpagesize(); size < pipeSize; size *= 4 {
		if !pipe.resize(size) {
			continue
		}
		if pipe.large {
			pipe.large = false
			p.large--
		}
		return
	}
}

// put takes back an empty pipe.
func (p *pipes) put(pipe *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == 0 && len(p.free) >= keptPipes {
		p.closeLocked(pipe)
		return
	}
	p.enlargeLocked(pipe)
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
	if pipe.large {
		p.large--
	}
}

// starved reports whether somebody waits for a pipe.
func (p *pipes) starved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting > 0
}

// retry lets those who wait try again: the system may have descriptors for new pipes by now, or they have given up.
func (p *pipes) retry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.back.Broadcast()
}

// close closes the pipes that nobody holds.
func (p *pipes) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pipe := range p.free {
		p.closeLocked(pipe)
	}
	p.free = nil
}
