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

// refreshAfter is how often a Source is asked although nothing has changed here, to notice certificates that expire.
const refreshAfter = 5 * time.Second

// errLinkChanged ends serving a link whose socket must be opened again.
var errLinkChanged = errors.New("announce: the link has changed")

// means is one of the three means of announcing. Each has a socket and goroutines of its own, so that none waits for
// another.
type means struct {
	// set once
	name     string
	notReady func(link.State) string // returns why the means cannot work on a link, or ""
	open     openFunc
	serve    serveFunc
	changed  chan struct{} // of capacity 1; written to when the state of the link has changed
	log      zerolog.Logger

	working     atomic.Bool
	loggedState string // last state that was logged; belongs to run
}

// wake makes the means read the state of the link again.
func (p *means) wake() {
	select {
	case p.changed <- struct{}{}:
	default: // an earlier wake is still unread
	}
}

// run serves the link whenever it is ready, until ctx is done.
func (p *means) run(ctx context.Context, a *Announcer) {
	for ctx.Err() == nil {
		l := *a.link.Load()
		if why := p.notReady(l); why != "" {
			p.wait(ctx, why, nil)
			continue
		}
		if err := p.serveLink(ctx, l); err != nil && ctx.Err() == nil && !errors.Is(err, errLinkChanged) {
			p.wait(ctx, err.Error(), time.After(retryAfter))
		}
	}
}

// serveLink serves the link on one socket, as long as the link stays as l says.
func (p *means) serveLink(ctx context.Context, l link.State) error {
	conn, err := p.open(l)
	if err != nil {
		return err
	}
	s := &session{
		link: l, conn: conn, linkChanged: p.changed, packets: make(chan link.Packet), failed: make(chan error, 1),
		done: make(chan struct{}),
	}
	var wg sync.WaitGroup
	wg.Go(s.read)
	p.logState("")
	p.working.Store(true)
	err = p.serve(ctx, s)
	p.working.Store(false)
	close(s.done)
	err = errors.Join(err, conn.Close())
	wg.Wait()
	return err
}

// wait logs why and waits for a change of the link, or for retry.
func (p *means) wait(ctx context.Context, why string, retry <-chan time.Time) {
	p.logState(why)
	select {
	case <-ctx.Done():
	case <-p.changed:
	case <-retry:
	}
}

// logState logs why the means waits, or if that is "" that it works, unless it has just logged the same.
func (p *means) logState(why string) {
	if why == "" {
		why = "announcing"
	}
	if why == p.loggedState {
		return
	}
	p.loggedState = why
	if why == "announcing" {
		p.log.Info().Msg(why)
		return
	}
	p.log.Warn().Str("reason", why).Msg("waiting to announce")
}

// session is one socket of a means, for as long as the link stays as it is.
type session struct {
	link        link.State
	conn        link.Conn
	linkChanged <-chan struct{}  // see means.changed
	packets     chan link.Packet // from read
	failed      chan error       // from read, of capacity 1
	done        chan struct{}    // closed when packets are no longer received from packets
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

// checkLink returns errLinkChanged if the socket is not right for l.
func (s *session) checkLink(l *link.State) error {
	if s.link.SameSocket(*l) {
		return nil
	}
	return errLinkChanged
}
