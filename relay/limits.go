package relay

import (
	"fmt"
	"net/netip"
	"time"
)

// Limits bound what clients can make the relay hold. A zero field means its default; the defaults of flows are
// worked out from Config.Descriptors, per protocol, so that a flood of one never stops the other.
type Limits struct {
	TCPFlows          int           // connected ones; default a fifth of Config.Descriptors
	UDPFlows          int           // default a quarter of Config.Descriptors
	TCPDials          int           // TCP flows that wait for their destination; default 4096, at most a 32nd of Config.Descriptors
	TCPFlowsPerClient int           // of one client: an IPv4 address or IPv6 /64; default 1000
	UDPFlowsPerClient int           // default 1000
	TCPDialsPerClient int           // default 200; the oldest gives way to the next
	DialTimeout       time.Duration // default 3 s: a client that can choose must not wait much longer. See RFC 8305.
	TCPIdle           time.Duration // default 2 h 4 min. See RFC 5382, Section 5.
	TCPHalfClosed     time.Duration // default 4 min
	UDPIdle           time.Duration // default 5 min, at least 2 min. See RFC 4787, Section 4.3.
	DrainTimeout      time.Duration // how long flows may go on when the relay stops; default 30 s
	// NewFlowsPerSecond is how many flows a client may begin, after a burst of NewFlowsBurst; default 500 and 2000. Those
	// count that are refused, so that nobody finds out quickly what stands behind which relay address.
	NewFlowsPerSecond int
	NewFlowsBurst     int
	// Prefixes are those around a client that flows count for too, the narrowest first; default an IPv6 /56, and an IPv4
	// /24 or IPv6 /48. When all flows are taken, the prefix that holds most gives way first.
	Prefixes []ClientPrefix
	// UDPStrictFactor holds back what exceeds three times what a client has sent, in whole packets, until the client has
	// shown to be at its address. Without it, one datagram of up to 1500 bytes with its headers may always come back for
	// each that was sent, or short requests such as those of STUN need several retransmissions.
	UDPStrictFactor bool
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
func (l Limits) mostFlows() int { return max(l.TCPFlows+l.TCPDials, l.UDPFlows) }

// descriptors returns how many descriptors the flows need at most, with those that are about to end because another
// has their place.
func (l Limits) descriptors() int {
	tcp := l.TCPFlows + reserveOf(l.TCPFlows) + l.TCPDials
	return tcp*tcpDescriptors + l.pipes()*pipeDescriptors + l.UDPFlows
}

// complete returns l with defaults for its zero fields, for a process that may have fds descriptors. Half of these go
// to TCP and a quarter to UDP; the rest is left to listeners, the resolver and files.
func (l Limits) complete(fds int) (Limits, error) {
	setDefault(&l.TCPFlows, fds/6)
	setDefault(&l.UDPFlows, fds/4)
	setDefault(&l.TCPDials, max(1, min(4096, fds/32)))
	setDefault(&l.TCPFlowsPerClient, 1000)
	setDefault(&l.UDPFlowsPerClient, 1000)
	setDefault(&l.TCPDialsPerClient, 200)
	setDefault(&l.DialTimeout, 3*time.Second)
	setDefault(&l.TCPIdle, 2*time.Hour+4*time.Minute)
	setDefault(&l.TCPHalfClosed, 4*time.Minute)
	setDefault(&l.UDPIdle, 5*time.Minute)
	setDefault(&l.DrainTimeout, 30*time.Second)
	setDefault(&l.NewFlowsPerSecond, 500)
	setDefault(&l.NewFlowsBurst, 2000)
	if len(l.Prefixes) == 0 {
		l.Prefixes = []ClientPrefix{{IPv6: 56}, {IPv4: 24, IPv6: 48}}
	}
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
	return checkPrefixes(l.Prefixes)
}

// check returns what is wrong with complete limits of a process that may have fds descriptors.
func (l Limits) check(fds int) error {
	for _, n := range []int{
		l.TCPFlows, l.UDPFlows, l.TCPDials, l.TCPFlowsPerClient, l.UDPFlowsPerClient, l.TCPDialsPerClient,
		l.NewFlowsPerSecond, l.NewFlowsBurst,
	} {
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
		return fmt.Errorf("relay: %d TCP flows, %d dials and %d UDP flows need %d descriptors; RLIMIT_NOFILE allows %d",
			l.TCPFlows, l.TCPDials, l.UDPFlows, need, fds)
	}
	return nil
}

// limiter has the rate at which flows begin, and the places of all flows. Those of a protocol are apart, and so are dials, which cost more time than flows
// and say nothing about what their client is going to hold.
type limiter struct {
	// Set once by newLimiter.
	start time.Time
	rate  *flowRate
	flows [2]*shares
	dials *shares // of TCP
}

func newLimiter(l Limits) *limiter {
	w := newWidths(l.Prefixes)
	return &limiter{
		start: time.Now(),
		rate:  newFlowRate(l.NewFlowsPerSecond, l.NewFlowsBurst, w),
		flows: [2]*shares{
			TCP: newShares(l.TCPFlows, l.TCPFlowsPerClient, w),
			UDP: newShares(l.UDPFlows, l.UDPFlowsPerClient, w),
		},
		dials: newShares(l.TCPDials, l.TCPDialsPerClient, w),
	}
}

// allow reports whether client may begin a flow now, before anything else is spent on it.
func (l *limiter) allow(client netip.Addr) bool { return l.rate.allow(client, time.Since(l.start)) }

// take takes a place for a flow that begins: for one of TCP that of a dial, if one for the flow would be found now.
func (l *limiter) take(p Proto, client netip.Addr) (holding, bool) {
	of := l.flows[p]
	if p == TCP {
		if !of.free(client) {
			return holding{}, false
		}
		of = l.dials
	}
	place, ok := of.take(client)
	return holding{of, place}, ok
}

// holding is a place and where it is one.
type holding struct {
	of    *shares // or nil
	place *place
}

// attach makes it a place that gives way to another by end. It must be called once at most.
func (h holding) attach(end func()) { h.of.attach(h.place, end) }

// move notes the stage of the flow.
func (h holding) move(to stage) {
	if h.of != nil { // nil in tests of the table alone
		h.of.move(h.place, to)
	}
}

func (h holding) release() { h.of.release(h.place) }

// full reports whether no flow of p is left.
func (l *limiter) full(p Proto) bool { return l.flows[p].full() }
