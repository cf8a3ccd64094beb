package relay

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// longAgo is a deadline that ends every wait at once.
var longAgo = time.Unix(1, 0)

// tcpFlow is a client's connection and the one to its destination.
//
// An end (FIN) of one side is passed on to the other and the other direction goes on, for a bounded time without
// progress. A reset of either side, at any time, resets the other: a cut stream never looks complete.
type tcpFlow struct {
	// Set once by newTCPFlow.
	client, server *net.TCPConn
	out, back      half

	idle    atomic.Uint32 // sweeps since bytes last moved
	ended   atomic.Int32  // directions that have ended
	broken  atomic.Bool   // closes with a reset
	holding atomic.Int32  // pipes held
}

// half is one direction of a flow.
type half struct {
	flow     *tcpFlow
	from, to *net.TCPConn
	bytes    *atomic.Uint64
	splicer
}

// outcome is how a half ended.
type outcome int

const (
	halfEnded outcome = iota // all that the source ever sent is on its way to the destination
	fromReset                // or it timed out, or the relay stops
	toReset
)

func newTCPFlow(r *Relay, client, server *net.TCPConn) (*tcpFlow, error) {
	f := &tcpFlow{client: client, server: server}
	if err := f.out.init(f, client, server, &r.stats.bytesOut[TCP], r.pipes); err != nil {
		return nil, err
	}
	return f, f.back.init(f, server, client, &r.stats.bytesBack[TCP], r.pipes)
}

func (h *half) init(f *tcpFlow, from, to *net.TCPConn, bytes *atomic.Uint64, pipes *pipes) (err error) {
	h.flow, h.from, h.to, h.bytes = f, from, to, bytes
	h.splicer, err = newSplicer(from, to, pipes)
	return err
}

// run relays until both directions have ended, and closes both connections.
func (f *tcpFlow) run(live context.Context) {
	var wg sync.WaitGroup
	wg.Go(f.back.run)
	f.out.run()
	wg.Wait()
	f.close(live)
}

// run copies one direction to its end. It then stays, to notice a reset of its source, until the other one has ended.
func (h *half) run() {
	f, end := h.flow, h.copy()
	switch end {
	case fromReset:
		f.abort()
		return
	case toReset:
		// The other direction first delivers what was sent before the reset.
		f.broken.Store(true)
	}
	if f.ended.Add(1) == 2 {
		f.wake() // closing both will tell them of their ends
		return
	}
	if end == halfEnded {
		h.to.CloseWrite()
	}
	if h.watch() {
		f.abort()
	}
}

// abort ends the flow with a reset of both connections.
func (f *tcpFlow) abort() {
	f.broken.Store(true)
	f.wake()
}

// wake ends every wait of the flow. A Close would itself wait for the calls that use the connection.
func (f *tcpFlow) wake() {
	f.client.SetDeadline(longAgo)
	f.server.SetDeadline(longAgo)
}

// settleTime is how long a reset waits for what was sent before it to arrive.
const settleTime = 2 * time.Second

// close closes both connections. A reset discards what its receiver has not acknowledged, and would overtake what a
// server sent before its own reset; so it waits a little.
func (f *tcpFlow) close(live context.Context) {
	if !f.broken.Load() {
		f.client.Close()
		f.server.Close()
		return
	}
	ctx, cancel := context.WithTimeout(live, settleTime)
	defer cancel()
	for _, c := range []*net.TCPConn{f.client, f.server} {
		settle(ctx, c)
		reset(c)
	}
}

// settle waits until the peer of c has acknowledged everything, or ctx is done.
func settle(ctx context.Context, c *net.TCPConn) {
	for wait := time.Millisecond; ctx.Err() == nil && unacknowledged(c); wait = min(2*wait, 100*time.Millisecond) {
		pause(ctx, wait)
	}
}

// moved notes that n bytes have gone from one side to the other.
func (h *half) moved(n int64) {
	h.bytes.Add(uint64(n))
	if h.flow.idle.Load() != 0 {
		h.flow.idle.Store(0)
	}
}

// tcpFlows are the flows under way.
type tcpFlows struct {
	wg sync.WaitGroup // a goroutine per flow, from its admission

	mu     sync.Mutex
	all    map[*tcpFlow]struct{} // from its connection to the destination
	killed bool
}

// add adds f, unless flows are no longer to live.
func (t *tcpFlows) add(f *tcpFlow) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.killed {
		return false
	}
	t.all[f] = struct{}{}
	return true
}

func (t *tcpFlows) remove(f *tcpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, f)
}

// each calls fn for every flow.
func (t *tcpFlows) each(fn func(*tcpFlow)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f := range t.all {
		fn(f)
	}
}

// drain waits for all flows to end. After timeout it calls kill, which ends dialing, and resets those that are left.
// No flow may be started any more.
func (t *tcpFlows) drain(timeout time.Duration, kill context.CancelFunc) {
	timer := time.AfterFunc(timeout, func() {
		kill()
		t.mu.Lock()
		t.killed = true
		t.mu.Unlock()
		t.each((*tcpFlow).abort)
	})
	defer timer.Stop()
	t.wg.Wait()
}

// Idle times are counted in sweeps: a sweep adds one to each flow's count, and a byte that moves sets it to zero,
// which costs the copy loop neither a clock nor a timer.
const (
	sweepsPerLimit = 16               // at least, of the smallest limit
	longestSweep   = 15 * time.Second // at most between two sweeps
)

// sweepInterval returns the time between two sweeps.
func (l Limits) sweepInterval() time.Duration {
	return max(time.Millisecond, min(longestSweep, l.TCPIdle/sweepsPerLimit, l.TCPHalfClosed/sweepsPerLimit))
}

// sweeps returns how many sweeps are sure to take at least d. The first may come right after the last byte.
func sweeps(d, interval time.Duration) uint32 {
	return uint32((d+interval-1)/interval) + 1
}

// sweep ends flows that are idle for too long, until ended is closed.
func (r *Relay) sweep(ended <-chan struct{}) {
	s := newSweeper(r.cfg.Limits, r.pipes)
	ticker := time.NewTicker(s.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ticker.C:
			r.flows.each(s.visit)
			r.pipes.retry()
		}
	}
}

// sweeper knows after how many sweeps without progress a flow ends.
type sweeper struct {
	interval         time.Duration
	idle, halfClosed uint32
	pipes            *pipes
}

func newSweeper(l Limits, pipes *pipes) *sweeper {
	interval := l.sweepInterval()
	return &sweeper{
		interval:   interval,
		idle:       sweeps(l.TCPIdle, interval),
		halfClosed: sweeps(l.TCPHalfClosed, interval),
		pipes:      pipes,
	}
}

// stalledSweeps is how long a flow may hold a pipe without progress while others wait for one, or after the side that
// its bytes come from was reset.
const stalledSweeps = 2

// visit ages f and ends it if it is too old.
func (s *sweeper) visit(f *tcpFlow) {
	if s.over(f, f.idle.Add(1)) {
		f.abort()
	}
}

func (s *sweeper) over(f *tcpFlow, age uint32) bool {
	switch {
	case age > s.idle:
		return true
	case age > s.halfClosed && f.ended.Load() > 0:
		return true
	case age <= stalledSweeps || f.holding.Load() == 0:
		return false
	}
	// Who waits for one side to take bytes does not see the other side's reset.
	return s.pipes.starved() || f.out.failed() || f.back.failed()
}
