package announce

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// retryAfter is how long to wait after a socket could not be opened, or failed without a change of the link.
const retryAfter = 10 * time.Second

// refreshAfter is how often a Source is asked without a reason, to notice certificates that expire.
const refreshAfter = 5 * time.Second

// errLinkChanged ends serving a link whose socket must be opened again.
var errLinkChanged = errors.New("announce: the link has changed")

// part is one of the means of announcing, on its own socket: none waits for another.
type part struct {
	// set once
	name     string
	notReady func(link.State) string // says why the part cannot work on a link, or ""
	open     openFunc
	serve    serveFunc
	kick     chan struct{} // of capacity 1: something about the link has changed
	log      zerolog.Logger

	working atomic.Bool
	said    string // last state that was logged; owned by keep
}

// wake makes the part look at the link again.
func (p *part) wake() {
	select {
	case p.kick <- struct{}{}:
	default: // it will look anyway
	}
}

// keep serves the link whenever it is ready, until ctx is done.
func (p *part) keep(ctx context.Context, a *Announcer) {
	for ctx.Err() == nil {
		l := *a.link.Load()
		if why := p.notReady(l); why != "" {
			p.wait(ctx, why, nil)
			continue
		}
		if err := p.once(ctx, l); err != nil && ctx.Err() == nil && !errors.Is(err, errLinkChanged) {
			p.wait(ctx, err.Error(), time.After(retryAfter))
		}
	}
}

// once serves the link l on one socket.
func (p *part) once(ctx context.Context, l link.State) error {
	conn, err := p.open(l)
	if err != nil {
		return err
	}
	s := &session{
		link: l, conn: conn, kick: p.kick, packets: make(chan link.Packet), failed: make(chan error, 1),
		done: make(chan struct{}),
	}
	var wg sync.WaitGroup
	wg.Go(s.read)
	p.say("")
	p.working.Store(true)
	err = p.serve(ctx, s)
	p.working.Store(false)
	close(s.done)
	err = errors.Join(err, conn.Close())
	wg.Wait()
	return err
}

// wait says why and waits for a change of the link, or for retry.
func (p *part) wait(ctx context.Context, why string, retry <-chan time.Time) {
	p.say(why)
	select {
	case <-ctx.Done():
	case <-p.kick:
	case <-retry:
	}
}

// say logs a state once: why the part waits, or that it works.
func (p *part) say(why string) {
	if why == "" {
		why = "announcing"
	}
	if why == p.said {
		return
	}
	p.said = why
	if why == "announcing" {
		p.log.Info().Msg(why)
		return
	}
	p.log.Warn().Str("reason", why).Msg("waiting to announce")
}

// session is one socket of a part, while the link stays as it is.
type session struct {
	link    link.State
	conn    link.Conn
	kick    <-chan struct{}  // see part
	packets chan link.Packet // from read
	failed  chan error       // from read, of capacity 1
	done    chan struct{}    // closed when nobody takes packets any more
}

// read hands over what arrives, until conn is closed or fails.
func (s *session) read() {
	buf := make([]byte, link.MaxPacket)
	for {
		p, err := s.conn.Receive(buf)
		if err != nil {
			s.failed <- err
			return
		}
		p.Data = bytes.Clone(p.Data)
		select {
		case s.packets <- p:
		case <-s.done:
			return
		}
	}
}

// changed returns errLinkChanged if the socket is not right for l.
func (s *session) changed(l *link.State) error {
	if s.link.SameSocket(*l) {
		return nil
	}
	return errLinkChanged
}
