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

// udpPort serves one UDP port at every relay address.
//
// Each of its workers has a listening socket of the port per address family, among which the kernel spreads the
// clients, and the upstream sockets of the flows that began there. Flows are found in one table all the same, for
// the kernel may send a client's datagrams to another worker when the set of sockets changes.
type udpPort struct {
	// Set once by newUDP.
	relay   *Relay
	port    uint16
	start   time.Time
	table   *flowTable
	tuples  tuples
	icmp    *icmpSender
	workers []*udpWorker

	gso     atomic.Bool  // whether datagrams are sent in groups
	live    atomic.Int64 // flows with a socket
	drained chan struct{}
}

// sweepInterval is how often flows are looked at whose time may be over.
const sweepInterval = time.Second

// newUDP binds a port of r.
func newUDP(r *Relay, port uint16) (*udpPort, error) {
	u := &udpPort{
		relay:   r,
		port:    port,
		start:   time.Now(),
		table:   newFlowTable(port, r.cfg.Limits.UDPIdle),
		tuples:  tuples{taken: make(map[tuple]struct{})},
		icmp:    newICMPSender(),
		drained: make(chan struct{}, 1),
	}
	if len(r.udps) > 0 {
		u.start = r.udps[0].start // evict compares flows of all ports
	}
	if err := u.unshared(); err != nil {
		u.close()
		return nil, err
	}
	u.gso.Store(!r.cfg.DisableGSO && kernelHasGSO())
	for range runtime.GOMAXPROCS(0) {
		if err := u.addWorker(); err != nil {
			u.close()
			return nil, fmt.Errorf("UDP port %d at the wildcard address: %w", port, err)
		}
	}
	return u, nil
}

// unshared returns an error if the port is in use at the wildcard address.
func (u *udpPort) unshared() error {
	v4, v6 := u.relay.families()
	for _, is6 := range []bool{false, true} {
		if is6 && !v6 || !is6 && !v4 {
			continue
		}
		if shared, err := sharedPort(udp, is6, u.port); err != nil || shared {
			return cmp.Or(err, fmt.Errorf("UDP port %d at the wildcard address: %w", u.port, unix.EADDRINUSE))
		}
	}
	return nil
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

func (u *udpPort) addWorker() error {
	w, err := newUDPWorker(u)
	if err != nil {
		return err
	}
	u.workers = append(u.workers, w)
	v4, v6 := u.relay.families()
	if v4 {
		err = w.listen(netip.AddrPortFrom(netip.IPv4Unspecified(), u.port))
	}
	if v6 && err == nil {
		err = w.listen(netip.AddrPortFrom(netip.IPv6Unspecified(), u.port))
	}
	return err
}

// now is the time of the flow table.
func (u *udpPort) now() time.Duration { return time.Since(u.start) }

// run relays until ctx is done and the flows have ended or the time to drain is over.
func (u *udpPort) run(ctx context.Context) error {
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
		return fmt.Errorf("relay: UDP port %d: %w", u.port, err)
	}
	return nil
}

// sweep ends flows whose time is over, until there are none left after ctx is done.
func (u *udpPort) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	done, deadline := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case <-tick.C:
			u.end(u.table.expire(u.now(), nil))
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

// end closes flows that are not in the table any more.
func (u *udpPort) end(flows []*flow) {
	for _, f := range flows {
		u.endFlow(f)
	}
}

func (u *udpPort) endFlow(f *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd >= 0 {
		f.worker.forget(f.fd)
		unix.Close(f.fd)
		f.fd = -1
		u.release(f)
	}
}

// release gives back what f held beside its socket.
func (u *udpPort) release(f *flow) {
	u.tuples.free(tuple{f.src, f.grant.dst})
	f.grant.release()
	if u.live.Add(-1) == 0 {
		select {
		case u.drained <- struct{}{}:
		default:
		}
	}
}

// close closes everything. Workers must not be running.
func (u *udpPort) close() {
	u.end(u.table.clear())
	for _, w := range u.workers {
		w.close()
	}
	u.workers = nil
	u.icmp.close()
}

// admit asks the relay to let a flow in, at the cost of one that is not confirmed if there are too many in all, and of
// another if there are too many of this client.
func (u *udpPort) admit(key flowKey) (grant, error) {
	for range 2 {
		g, err := u.relay.admit(udp, key.client.Addr(), key.local)
		if !errors.Is(err, errOverLimit) || !u.relay.evictUDP(key.client.Addr()) {
			return g, err
		}
	}
	return u.relay.admit(udp, key.client.Addr(), key.local)
}

// evictUDP ends a flow that is not confirmed to make room for one of client: the oldest of all if the relay is full,
// and else the client's own. It reports whether there was one.
func (r *Relay) evictUDP(client netip.Addr) bool {
	tables := make([]*flowTable, len(r.udps))
	for i, u := range r.udps {
		tables[i] = u.table
	}
	var f *flow
	if r.limiter.full(udp) {
		f = evict(tables)
	} else {
		f = evictOf(tables, client)
	}
	if f == nil {
		return false
	}
	f.port.endFlow(f)
	return true
}

// begin makes a flow for what m is the first datagram of, or tells the client why not and returns nil.
func (u *udpPort) begin(key flowKey, m *message, w *udpWorker, now time.Duration) *flow {
	if u.relay.draining.Load() {
		u.icmp.send(key, unreachable{reason: portUnreachable}, m.size, now)
		return nil
	}
	g, err := u.admit(key)
	if err != nil {
		u.icmp.send(key, unreachable{reason: refusal(err)}, m.size, now)
		return nil
	}
	f := u.newFlow(key, w, g)
	if err := u.dial(f); err != nil {
		f.grant.release()
		u.relay.stats.dialFailed[udp].Add(1)
		u.icmp.send(key, unreachable{reason: hostUnreachable}, m.size, now)
		return nil
	}
	u.live.Add(1)
	if other := u.table.add(f, len(m.payload), now); other != f { // another worker was faster
		unix.Close(f.fd)
		u.release(f)
		return other
	}
	if err := w.watch(f); err != nil && u.table.remove(f) {
		u.endFlow(f)
		return nil
	}
	return f
}

// refusal returns what a client is told about an error of Relay.admit.
func refusal(err error) reason {
	switch {
	case errors.Is(err, errNoMapping):
		return portUnreachable
	case errors.Is(err, errOverLimit): // See RFC 6888, REQ-11.
		return hostUnreachable
	default:
		return prohibited
	}
}

// udpListener is a listening socket of one address family, and what is to be sent from it.
type udpListener struct {
	fd  int
	out sender
}

func (u *udpPort) newListener(addr netip.AddrPort) (*udpListener, error) {
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
	return &udpListener{fd: fd, out: sender{gso: &u.gso, reply: true}}, nil
}
