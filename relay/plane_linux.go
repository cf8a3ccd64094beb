package relay

import (
	"context"
	"net"
	"net/netip"

	"golang.org/x/sync/errgroup"
)

// plane is how bytes get from socket to socket: TCP in splice(2), UDP in batches. It is a part of Relay.
type plane struct {
	// Set once by Relay.listen.
	pipes     *pipes // or nil before
	listeners []*net.TCPListener
	udp       *udpServer // or nil before

	routes routes
	flows  tcpFlows
}

// listen binds every port.
func (r *Relay) listen() (err error) {
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

// closePlane closes every socket and removes the routes. An error means that routes are left behind.
func (r *Relay) closePlane() error {
	if r.udp != nil {
		r.udp.close()
	}
	for _, ln := range r.listeners {
		ln.Close()
	}
	if r.pipes != nil {
		r.pipes.close()
	}
	return r.routes.remove()
}

// ensureLocal makes the addresses of prefixes local to this host.
func (r *Relay) ensureLocal(prefixes []netip.Prefix) error {
	return r.routes.ensure(prefixes, r.cfg.Routes)
}
