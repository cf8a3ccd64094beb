package relay

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// udpWorker relays what arrives on some of the sockets. It waits on an epoll instance of its own, which is
// in turn a file that the Go runtime waits on: one wake-up brings all sockets that have something, and no flow costs
// a goroutine.
type udpWorker struct {
	// Set once by newUDPWorker and listen.
	server    *udpServer
	epoll     *os.File
	conn      syscall.RawConn
	poll      func(fd uintptr) (done bool)
	listeners []*udpListener

	// Of the goroutine in run.
	in     *receiver
	used   int // slots of in whose messages are not sent yet
	out    sender
	events [64]unix.EpollEvent
	ready  [64]*flow // nil for a listener
	n      int       // of events
	err    error

	mu    sync.Mutex
	flows map[int32]*flow // by descriptor; those that epoll watches
}

func newUDPWorker(u *udpServer) (*udpWorker, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // makes os.NewFile hand it to the runtime
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	w := &udpWorker{
		server: u,
		epoll:  os.NewFile(uintptr(fd), "epoll"),
		in:     newReceiver(),
		out:    sender{gso: &u.gso},
		flows:  make(map[int32]*flow),
	}
	w.poll = w.pollEvents
	if w.conn, err = w.epoll.SyscallConn(); err != nil {
		w.epoll.Close()
		return nil, err
	}
	return w, nil
}

// listen adds a listening socket.
func (w *udpWorker) listen(addr netip.AddrPort) error {
	l, err := w.server.newListener(addr)
	if err != nil {
		return err
	}
	w.listeners = append(w.listeners, l)
	return w.control(unix.EPOLL_CTL_ADD, l.fd)
}

func (w *udpWorker) control(op, fd int) (err error) {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if cerr := w.conn.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, &ev) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// watch has epoll watch the socket of f, unless f has ended already.
func (w *udpWorker) watch(f *flow) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return nil
	}
	w.mu.Lock()
	w.flows[int32(f.fd)] = f
	w.mu.Unlock()
	return w.control(unix.EPOLL_CTL_ADD, f.fd)
}

// forget is called before fd is closed, which ends that epoll watches it.
func (w *udpWorker) forget(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.flows, int32(fd))
}

// stop makes run return.
func (w *udpWorker) stop() { _ = w.epoll.SetReadDeadline(time.Unix(1, 0)) }

func (w *udpWorker) close() {
	for _, l := range w.listeners {
		unix.Close(l.fd)
	}
	w.epoll.Close()
}

// run relays until stop.
func (w *udpWorker) run() error {
	for {
		if err := w.step(); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// step waits until sockets are ready, and relays what there is.
func (w *udpWorker) step() error {
	if err := w.conn.Read(w.poll); err != nil {
		return err
	}
	if w.err != nil {
		return os.NewSyscallError("epoll_wait", w.err)
	}
	w.find()
	now := w.server.now()
	for i := range w.n {
		w.handle(&w.events[i], w.ready[i], now)
	}
	w.flushBack()
	return nil
}

// pollEvents takes in what sockets are ready and reports whether any is.
func (w *udpWorker) pollEvents(epoll uintptr) bool {
	w.n, w.err = unix.EpollWait(int(epoll), w.events[:], 0)
	if w.err == unix.EINTR {
		w.n, w.err = 0, nil
	}
	return w.n > 0 || w.err != nil
}

// find puts the flows of the events into ready.
func (w *udpWorker) find() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.n {
		w.ready[i] = w.flows[w.events[i].Fd]
	}
}

func (w *udpWorker) handle(ev *unix.EpollEvent, f *flow, now time.Duration) {
	if f != nil {
		if ev.Events&unix.EPOLLERR != 0 {
			w.upstreamErrors(f, now)
		}
		w.fromUpstream(f, now)
		return
	}
	for _, l := range w.listeners {
		if int(ev.Fd) == l.fd {
			w.handleListener(ev, l, now)
		}
	}
}

func (w *udpWorker) handleListener(ev *unix.EpollEvent, l *udpListener, now time.Duration) {
	if ev.Events&unix.EPOLLERR != 0 {
		w.clientErrors(l, now)
	}
	w.fromClients(l, now)
}

// fromClients relays a batch of messages from clients to their destinations.
func (w *udpWorker) fromClients(l *udpListener, now time.Duration) {
	w.flushBack()
	n, _ := w.in.receive(l.fd, 0)
	var last *flow
	for i := range n {
		m := w.in.message(i)
		f := w.flowOf(&m, l.addr.Port(), now)
		if f == nil {
			continue
		}
		if last != nil && (f != last || m.ecn != w.out.ecn()) {
			w.flushOut(last)
		}
		w.out.add(f, &m, m.payload)
		last = f
	}
	if last != nil {
		w.flushOut(last)
	}
}

// flowOf returns the flow that m, from a client to a port, belongs to, or nil if it may not have one.
func (w *udpWorker) flowOf(m *message, port uint16, now time.Duration) *flow {
	if !m.to.IsValid() || m.from.Port() == 0 {
		return nil
	}
	key := flowKey{client: m.from, local: netip.AddrPortFrom(m.to, port)}
	if f := w.server.table(port).outbound(key, len(m.payload), now); f != nil {
		return f
	}
	return w.server.begin(key, m, w, now)
}

// flushOut sends what there is for the destination of f.
func (w *udpWorker) flushOut(f *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		w.out.reset()
		return
	}
	f.mark(w.out.ecn())
	sent := w.out.flush(f.fd)
	w.server.relay.stats.bytesOut[UDP].Add(uint64(sent))
}

// fromUpstream takes in a batch of messages from the destination of f. They go out with those of other flows, when
// there are no more or the slots are used up.
func (w *udpWorker) fromUpstream(f *flow, now time.Duration) {
	if w.used > batchSize/2 {
		w.flushBack()
	}
	f.mu.Lock()
	n := 0
	if f.fd >= 0 {
		n, _ = w.in.receive(f.fd, w.used)
	}
	f.mu.Unlock()
	for range n {
		w.back(f, w.used, now)
		w.used++
	}
}

// back prepares what is in a slot for sending to the client of f. What is not from the destination is dropped: it
// came in before the socket was connected.
func (w *udpWorker) back(f *flow, slot int, now time.Duration) {
	m := w.in.message(slot)
	if m.from != f.grant.dst {
		return
	}
	allowed, ok := w.server.table(f.key.local.Port()).inbound(f, len(m.payload), m.size, now)
	if !ok || allowed < len(m.payload) {
		dropped := max(1, (len(m.payload)-allowed+m.size-1)/max(1, m.size))
		w.server.relay.stats.unconfirmed.Add(uint64(dropped))
	}
	if ok {
		f.reply.out.add(f, &m, m.payload[:allowed])
	}
}

// listener returns where what goes back to the client of a flow leaves from. It is there because the flow's first
// datagram came in by a socket of its port and family.
func (w *udpWorker) listener(key flowKey) *udpListener {
	for _, l := range w.listeners {
		if l.addr.Port() == key.local.Port() && l.addr.Addr().Is4() == key.client.Addr().Is4() {
			return l
		}
	}
	panic("relay: a flow to a port without a socket")
}

// flushBack sends what there is for clients.
func (w *udpWorker) flushBack() {
	w.used = 0
	for _, l := range w.listeners {
		if l.out.n > 0 {
			sent := l.out.flush(l.fd)
			w.server.relay.stats.bytesBack[UDP].Add(uint64(sent))
		}
	}
}

// errorsAtOnce bounds how many errors of a socket are taken in before it is the others' turn.
const errorsAtOnce = 16

// upstreamErrors takes in what ICMP says about datagrams to the destination of f and tells the client. The flow goes
// on. See RFC 4787, REQ-12.
func (w *udpWorker) upstreamErrors(f *flow, now time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return
	}
	for range errorsAtOnce {
		e, ok := readError(f.fd)
		if !ok {
			return
		}
		if e.known {
			w.server.icmp.send(f.key, e.what.forFamily(f.key.client.Addr(), f.grant.dst.Addr()), e.n, now)
		}
	}
}

// clientErrors takes in what ICMP says about datagrams to clients and tells their destinations.
func (w *udpWorker) clientErrors(l *udpListener, now time.Duration) {
	for range errorsAtOnce {
		e, ok := readError(l.fd)
		if !ok {
			return
		}
		if !e.known || !e.from.IsValid() {
			continue
		}
		if f := w.server.table(l.addr.Port()).declined(flowKey{client: e.to, local: netip.AddrPortFrom(e.from, l.addr.Port())}); f != nil {
			w.server.tellDestination(f, e.what, e.n, now)
		}
	}
}
