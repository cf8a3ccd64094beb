package relay

import (
	"context"
	"net"

	"golang.org/x/sync/errgroup"
)

// plane is how bytes get from socket to socket: TCP in splice(2), UDP in batches. It is a part of Relay.
type plane struct {
	// Set once by Relay.listen.
	pipes     *pipes // or nil before
	listeners []*net.TCPListener
	udp       *udpServer // or nil before
	sources   sources

	flows tcpFlows
}

// listen binds every port.
func (r *Relay) listen() (err error) {
	r.sources = newSources()
	r.pipes = newPipes(r.cfg.Limits.pipes())
	r.flows.all = make(map[*tcpFlow]struct{})
	for _, port := range r.cfg.Ports {
		if err := r.listenTCP(port); err != nil {
			return err
		}
	}
	r.udp, err = newUDP(r)
	return err
}

// runPlane relays until ctx is done and the flows have ended or the time to drain is over.
func (r *Relay) runPlane(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.runTCP(ctx) })
	g.Go(func() error { return r.udp.run(ctx) })
	return g.Wait()
}

// closePlane closes every socket.
func (r *Relay) closePlane() {
	if r.udp != nil {
		r.udp.close()
	}
	for _, ln := range r.listeners {
		ln.Close()
	}
	if r.pipes != nil {
		r.pipes.close()
	}
}
