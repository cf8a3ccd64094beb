package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// udpServer serves UDP at every relay address. Which port a flow is to is a property of the flow.
//
// Each of its workers has a listening socket per port and address family, among which the kernel spreads the clients,
// and the upstream sockets of the flows that began there. Flows are found in the same tables all the same, for the
// kernel may send a client's datagrams to another worker when the set of sockets changes.
type udpServer struct {
	// Set once by newUDP.
	relay   *Relay
	start   time.Time
	tables  [2]*flowTable // of flows to well-known ports, and to others
	tuples  tuples
	icmp    *icmpSender
	workers []*udpWorker

	gso     atomic.Bool  // whether datagrams are sent in groups
	live    atomic.Int64 // flows with a socket
	drained chan struct{}
}

// sweepInterval is how often flows are looked at whose time may be over.
const sweepInterval = time.Second

// newUDP binds the ports of r.
func newUDP(r *Relay) (*udpServer, error) {
	idle := r.cfg.Limits.UDPIdle
	u := &udpServer{
		relay:   r,
		start:   time.Now(),
		tables:  [2]*flowTable{newFlowTable(wellKnownPorts-1, idle), newFlowTable(wellKnownPorts, idle)},
		tuples:  tuples{taken: make(map[tuple]struct{})},
		icmp:    newICMPSender(),
		drained: make(chan struct{}, 1),
	}
	u.gso.Store(!r.cfg.DisableGSO && kernelHasGSO())
	if err := u.listen(); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// listen gives each worker a listening socket per port and address family.
func (u *udpServer) listen() error {
	addrs, err := u.wildcards()
	if err != nil {
		return err
	}
	for range runtime.GOMAXPROCS(0) {
		w, err := newUDPWorker(u)
		if err != nil {
			return fmt.Errorf("UDP: %w", err)
		}
		u.workers = append(u.workers, w)
		for _, addr := range addrs {
			if err := w.listen(addr); err != nil {
				return fmt.Errorf("UDP port %d at the wildcard address: %w", addr.Port(), err)
			}
		}
	}
	return nil
}

// wildcards returns where to listen. It is an error if a socket of someone else is there already.
func (u *udpServer) wildcards() (addrs []netip.AddrPort, err error) {
	v4, v6 := u.relay.families()
	for _, port := range u.relay.cfg.Ports {
		if v4 {
			addrs = append(addrs, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
		}
		if v6 {
			addrs = append(addrs, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
		}
	}
	for _, addr := range addrs {
		if shared, err := sharedPort(UDP, addr.Addr().Is6(), addr.Port()); err != nil || shared {
			return nil, cmp.Or(err, fmt.Errorf("UDP port %d at the wildcard address: %w", addr.Port(), unix.EADDRINUSE))
		}
	}
	return addrs, nil
}

// table returns the table of flows to a port.
func (u *udpServer) table(port uint16) *flowTable {
	if port < wellKnownPorts {
		return u.tables[0]
	}
	return u.tables[1]
}

// kernelHasGSO reports whether the kernel knows UDP_SEGMENT, which Linux has since 4.18.
func kernelHasGSO() bool {
	fd, err := udpSocket(false)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	return err == nil
}

// now is the time of the flow tables.
func (u *udpServer) now() time.Duration { return time.Since(u.start) }

// run relays until ctx is done and the flows have ended or the time to drain is over.
func (u *udpServer) run(ctx context.Context) error {
	defer u.close()
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range u.workers {
		g.Go(w.run)
	}
	g.Go(func() error {
		u.sweep(ctx)
		for _, w := range u.workers {
			w.stop()
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("relay: UDP: %w", err)
	}
	return nil
}

// sweep ends flows whose time is over, until there are none left after ctx is done.
func (u *udpServer) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	done, deadline := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case <-tick.C:
			for _, t := range u.tables {
				u.end(t.expire(u.now(), nil))
			}
		case <-done:
			done, deadline = nil, time.After(u.relay.cfg.Limits.DrainTimeout)
		case <-u.drained:
		case <-deadline:
			return
		}
		if ctx.Err() != nil && u.live.Load() == 0 {
			return
		}
	}
}

// end closes flows that are in no table any more.
func (u *udpServer) end(flows []*flow) {
	for _, f := range flows {
		u.endFlow(f)
	}
}

func (u *udpServer) endFlow(f *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd >= 0 {
		f.worker.forget(f.fd)
		unix.Close(f.fd)
		f.fd = -1
		u.release(f)
	}
}

// release gives back what f held apart from its socket.
func (u *udpServer) release(f *flow) {
	u.tuples.free(tuple{f.src, f.grant.dst})
	f.grant.Release()
	if u.live.Add(-1) == 0 {
		select {
		case u.drained <- struct{}{}:
		default:
		}
	}
}

// close closes everything. Workers must not be running.
func (u *udpServer) close() {
	for _, t := range u.tables {
		u.end(t.clear())
	}
	for _, w := range u.workers {
		w.close()
	}
	u.workers = nil
	u.icmp.close()
}

// admit asks the relay to let a flow in, at the cost of one that is not confirmed if there are too many in all, and of
// another if there are too many of this client.
func (u *udpServer) admit(key flowKey) (Grant, error) {
	for range 2 {
		g, err := u.relay.admit(UDP, key.client.Addr(), key.local)
		if !errors.Is(err, errOverLimit) || !u.evict(key.client.Addr()) {
			return g, err
		}
	}
	return u.relay.admit(UDP, key.client.Addr(), key.local)
}

// evict ends a flow that is not confirmed to make room for one of client: the oldest of all if the relay is full,
// and else the client's own. It reports whether there was one.
func (u *udpServer) evict(client netip.Addr) bool {
	var f *flow
	if u.relay.limiter.full(UDP) {
		f = evict(u.tables[:])
	} else {
		f = evictOf(u.tables[:], client)
	}
	if f == nil {
		return false
	}
	u.endFlow(f)
	return true
}

// begin makes a flow for what m is the first datagram of, or tells the client why not and returns nil.
func (u *udpServer) begin(key flowKey, m *message, w *udpWorker, now time.Duration) *flow {
	g, err := u.admit(key)
	if err != nil {
		u.icmp.send(key, unreachable{reason: refusal(err)}, m.size, now)
		return nil
	}
	f := u.newFlow(key, w, g)
	if f.fd, f.src, err = u.dial(g.dst); err != nil {
		f.grant.Release()
		u.relay.stats.dialFailed[UDP].Add(1)
		u.icmp.send(key, unreachable{reason: hostUnreachable}, m.size, now)
		return nil
	}
	u.live.Add(1)
	table := u.table(key.local.Port())
	if other := table.add(f, len(m.payload), now); other != f { // another worker was faster
		unix.Close(f.fd)
		u.release(f)
		return other
	}
	if err := w.watch(f); err != nil && table.remove(f) {
		u.endFlow(f)
		return nil
	}
	return f
}

// refusal returns the reason in the ICMP message to a client whose flow Relay.admit refused with err.
func refusal(err error) reason {
	switch {
	case errors.Is(err, errNoMapping), errors.Is(err, errDraining):
		return portUnreachable
	case errors.Is(err, errOverLimit): // See RFC 6888, REQ-11.
		return hostUnreachable
	default:
		return prohibited
	}
}

// udpListener is a listening socket of one address family, and what is to be sent from it.
type udpListener struct {
	fd   int
	addr netip.AddrPort // the wildcard address of the family
	out  sender
}

func (u *udpServer) newListener(addr netip.AddrPort) (*udpListener, error) {
	fd, err := udpSocket(addr.Addr().Is6())
	if err != nil {
		return nil, err
	}
	if err = u.setListen(fd, addr.Addr().Is6()); err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, sockaddr(addr)))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &udpListener{fd: fd, addr: addr, out: sender{gso: &u.gso, reply: true}}, nil
}
