package relay

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound what clients can make the relay hold. A zero field means its default; the defaults of flows are
// worked out from RLIMIT_NOFILE, per protocol, so that a flood of one never stops the other.
type Limits struct {
	TCPFlows          int           // default a fifth of RLIMIT_NOFILE
	UDPFlows          int           // default a quarter of RLIMIT_NOFILE
	TCPFlowsPerClient int           // of one client address (IPv6: /64); default 1000
	UDPFlowsPerClient int           // default 1000
	DialTimeout       time.Duration // default 10 s
	TCPIdle           time.Duration // default 2 h 4 min. See RFC 5382, Section 5.
	TCPHalfClosed     time.Duration // default 4 min
	UDPIdle           time.Duration // default 5 min, at least 2 min. See RFC 4787, Section 4.3.
	DrainTimeout      time.Duration // how long flows may go on when the relay stops; default 30 s
}

// leastIdle is the least that Limits.UDPIdle can be. See RFC 4787, Section 4.3.
const leastIdle = 2 * time.Minute

// A TCP flow has a descriptor for each side. Pipes have two, and a flow holds one per direction only while its bytes
// are on their way, which is so for few flows at a time.
const (
	tcpDescriptors  = 2
	pipeDescriptors = 2
	flowsPerPipe    = 4
	leastPipes      = 16
)

// pipes returns how many pipes TCP flows share.
func (l Limits) pipes() int { return max(leastPipes, l.TCPFlows/flowsPerPipe) }

// mostFlows returns how many flows of one protocol there may be: TCP and UDP have ports of their own.
func (l Limits) mostFlows() int { return max(l.TCPFlows, l.UDPFlows) }

// descriptors returns how many descriptors the flows need at most.
func (l Limits) descriptors() int {
	return l.TCPFlows*tcpDescriptors + l.pipes()*pipeDescriptors + l.UDPFlows
}

// complete returns l with defaults for its zero fields, for a process that may have fds descriptors. Half of these go
// to TCP and a quarter to UDP; the rest is left to listeners, the resolver and files.
func (l Limits) complete(fds int) (Limits, error) {
	setDefault(&l.TCPFlows, fds/5)
	setDefault(&l.UDPFlows, fds/4)
	setDefault(&l.TCPFlowsPerClient, 1000)
	setDefault(&l.UDPFlowsPerClient, 1000)
	setDefault(&l.DialTimeout, 10*time.Second)
	setDefault(&l.TCPIdle, 2*time.Hour+4*time.Minute)
	setDefault(&l.TCPHalfClosed, 4*time.Minute)
	setDefault(&l.UDPIdle, 5*time.Minute)
	setDefault(&l.DrainTimeout, 30*time.Second)
	return l, l.check(fds)
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Validate returns what is wrong with a limit whatever the host, or nil. The error begins with the limit in the form
// that configuration keys have, "udp_idle: ".
func (l Limits) Validate() error {
	if l.UDPIdle != 0 && l.UDPIdle < leastIdle {
		return fmt.Errorf("udp_idle: %v is too short; want %v or more, on which clients rely (RFC 4787)", l.UDPIdle, leastIdle)
	}
	return nil
}

// check returns what is wrong with complete limits of a process that may have fds descriptors.
func (l Limits) check(fds int) error {
	for _, n := range []int{l.TCPFlows, l.UDPFlows, l.TCPFlowsPerClient, l.UDPFlowsPerClient} {
		if n < 1 {
			return fmt.Errorf("relay: a limit of %d flows; it must be positive", n)
		}
	}
	for _, d := range []time.Duration{l.DialTimeout, l.TCPIdle, l.TCPHalfClosed, l.UDPIdle, l.DrainTimeout} {
		if d < 0 {
			return fmt.Errorf("relay: a limit of %v; it must be positive", d)
		}
	}
	if err := l.Validate(); err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	if need := l.descriptors(); need > fds {
		return fmt.Errorf("relay: %d TCP and %d UDP flows need %d descriptors; RLIMIT_NOFILE allows %d",
			l.TCPFlows, l.UDPFlows, need, fds)
	}
	return nil
}

// limiter counts flows, in all and per client.
type limiter struct {
	// Set once by newLimiter.
	limit     [2]int
	perClient [2]int

	active [2]atomic.Int64

	mu      sync.Mutex
	clients [2]map[netip.Addr]int // only of clients that have flows
}

func newLimiter(l Limits) *limiter {
	return &limiter{
		limit:     [2]int{TCP: l.TCPFlows, UDP: l.UDPFlows},
		perClient: [2]int{TCP: l.TCPFlowsPerClient, UDP: l.UDPFlowsPerClient},
		clients:   [2]map[netip.Addr]int{{}, {}},
	}
}

// acquire takes one of the flows of p that client may have, if any is left.
func (l *limiter) acquire(p Proto, client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full(p) || l.clients[p][client] >= l.perClient[p] {
		return false
	}
	l.active[p].Add(1)
	l.clients[p][client]++
	return true
}

// release gives back what acquire took.
func (l *limiter) release(p Proto, client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active[p].Add(-1)
	if l.clients[p][client]--; l.clients[p][client] == 0 {
		delete(l.clients[p], client)
	}
}

// full reports whether no flow of p is left.
func (l *limiter) full(p Proto) bool { return int(l.active[p].Load()) >= l.limit[p] }

// limitKey returns what stands for a client in limits: an IPv4 address, or the /64 that an IPv6 host has to itself.
func limitKey(client netip.Addr) netip.Addr {
	if client.Is4() {
		return client
	}
	p, err := client.Prefix(64)
	if err != nil {
		return client
	}
	return p.Addr()
}
