package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// keepAliveIdle is after how long without a packet a peer is probed for having vanished, rarely enough not to wake
// mobile clients for nothing. The kernel gives it up after some more minutes.
const keepAliveIdle = 10 * time.Minute

// acceptPause is how long no connection is accepted after the system had no resources for one.
const acceptPause = 100 * time.Millisecond

// listenTCP binds port at all addresses of the families that relay addresses have. Each listener is on the wildcard
// address: the local address of a connection tells which relay address it is for.
func (r *Relay) listenTCP(port uint16) error {
	v4, v6 := r.families()
	if v4 {
		if err := r.listenTCPOn("tcp4", "0.0.0.0", port); err != nil {
			return err
		}
	}
	if v6 {
		return r.listenTCPOn("tcp6", "::", port)
	}
	return nil
}

func (r *Relay) listenTCPOn(network, host string, port uint16) error {
	if shared, err := sharedPort(TCP, network == "tcp6", port); err != nil || shared {
		return cmp.Or(err, fmt.Errorf("TCP port %d at the wildcard address: %w", port, syscall.EADDRINUSE))
	}
	// Connections inherit what is set on their listener, so that accepting one needs no further system calls.
	lc := net.ListenConfig{KeepAlive: -1, Control: control(listenerOptions)}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), network, net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("TCP port %d at the wildcard address: %w", port, err)
	}
	r.listeners = append(r.listeners, ln.(*net.TCPListener))
	return nil
}

// control turns a function on a socket into a Control of package net.
func control(set func(fd int, v6 bool) error) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = set(int(fd), network == "tcp6") }); cerr != nil {
			return cerr
		}
		return err
	}
}

// runTCP serves every TCP listener until ctx is done, and then drains.
func (r *Relay) runTCP(ctx context.Context) error {
	live, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	ended := make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	for _, ln := range r.listeners {
		g.Go(func() error { return r.serveTCP(ctx, live, ln) })
	}
	var sweeper errgroup.Group
	sweeper.Go(func() error { r.sweep(ended); return nil })
	err := g.Wait()
	r.flows.drain(r.cfg.Limits.DrainTimeout, kill)
	close(ended)
	return errors.Join(err, sweeper.Wait())
}

// serveTCP accepts connections until ctx is done. Flows live until they end or live is done.
func (r *Relay) serveTCP(ctx, live context.Context, ln *net.TCPListener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		c, err := ln.AcceptTCP()
		switch {
		case err == nil:
			r.accepted(live, c)
		case ctx.Err() != nil:
			return nil
		case transient(err):
			r.cfg.Log.Warn().Err(err).Msg("accepting no connection for a moment")
			pause(ctx, acceptPause)
		default:
			return fmt.Errorf("relay: accept on %v: %w", ln.Addr(), err)
		}
	}
}

// transient reports whether accepting may work again without anything being done about err: the connection is gone
// already, or the system is short of something.
func transient(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// accepted starts a flow for a connection, or resets it. It takes ownership of c.
func (r *Relay) accepted(live context.Context, c *net.TCPConn) {
	g, err := r.admit(TCP, addrPort(c.RemoteAddr()).Addr(), addrPort(c.LocalAddr()))
	if err != nil {
		reset(c)
		return
	}
	r.flows.wg.Go(func() {
		defer g.Release()
		r.relayTCP(live, c, &g)
	})
}

// relayTCP dials the destination of g and relays between it and client until the flow has ended. The kernel has completed the
// handshake with the client by now; a clean end would tell it that the destination was reached and sent nothing, so
// a destination that cannot be reached is a reset.
func (r *Relay) relayTCP(live context.Context, client *net.TCPConn, g *Grant) {
	server, err := g.DialTCP(live)
	if err != nil {
		r.stats.dialFailed[TCP].Add(1)
		reset(client)
		return
	}
	f, err := newTCPFlow(r, client, server)
	if err != nil || !r.flows.add(f) {
		reset(client)
		reset(server)
		return
	}
	defer r.flows.remove(f)
	f.run(live)
}

// DialTCP connects a TCP flow to its destination, from a source address and port of its own. The source is bound before it connects, because a kernel that is
// left to choose a port chooses from a smaller range, near the last one.
func (g *Grant) DialTCP(ctx context.Context) (*net.TCPConn, error) {
	r, dst := g.relay, g.dst
	d := net.Dialer{Timeout: r.cfg.Limits.DialTimeout, KeepAlive: -1, Control: control(dialerOptions)}
	e := r.egress()
	for range e.tries() {
		src, err := e.draw(dst.Addr().Is6())
		if err != nil {
			return nil, err
		}
		c, err := d.DialTCP(ctx, "tcp", src, dst)
		if !inUse(err) {
			return c, err
		}
	}
	return nil, errNoEgress
}

// inUse reports whether err means that another socket has the source: the address and port when binding, or all
// four when connecting.
func inUse(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// reset closes c with a reset. What its peer has not acknowledged is lost.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
