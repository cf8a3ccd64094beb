package relay

import (
	"context"
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// errDead is the refusal of a flow to a destination that did not answer a moment ago. It carries no address.
var errDead = errors.New("relay: the destination does not answer")

// Times of reach.
const (
	// firstDead is how long a destination that has failed once counts as dead. Each further failure doubles it, up to
	// longestDead: a site that comes back is found within a minute.
	firstDead   = 10 * time.Second
	longestDead = time.Minute
	// aliveTime is for how long an address at which one port has answered does not count as dead for another port.
	aliveTime = 10 * time.Minute
	// trialTimeout bounds dials in a family that counts as dead. They are made all the same, so that nobody can make
	// the family unusable for others with destinations that never answer; one answer shows that it is alive.
	trialTimeout = 300 * time.Millisecond
)

// Sizes of reach: reachSets*reachWays entries take 192 KiB.
const (
	reachSets = 1024
	reachWays = 4
	// deadFamily is how many destinations of a family must fail, without any answer in between, for it to count as
	// dead.
	deadFamily = 8
)

// reach remembers, in memory only and for minutes at most, how dials to destinations have ended. Clients are accepted
// before their destination has answered, and those with a choice of addresses (RFC 8305) cannot see that they should
// try the next one; so a destination that is silent is refused at once, and is taken out of answers.
//
// Of destinations it keeps hashes under a key of this process, so that a dump of it is no list of them.
type reach struct {
	seed maphash.Seed // set once by newReach

	mu       sync.Mutex
	sets     [reachSets][reachWays]reached
	families [2]familyReach // IPv4, IPv6
}

// reached is what is known of an address, or of one of its ports.
type reached struct {
	key    uint64 // 0 if unused
	until  time.Time
	wait   time.Duration // the time that until was set with; 0 if the destination answers
	atOnce bool          // refuse flows, and do not only take it out of answers
	port   uint16        // of an address that answers: the last that did
}

// familyReach is what is known of all destinations of an address family.
type familyReach struct {
	failed  []uint64  // at most deadFamily keys of destinations that failed since the last answer
	dead    time.Time // until when it counts as dead
	suspect bool      // it has been dead, and nothing has answered since
}

// Dead reports whether dst, or its whole address family, has not let the relay connect in the last minute, so that a
// client with other addresses is better off without this one. A name that has only such addresses should keep them: they
// may be well again. It is safe for concurrent use.
func (r *Relay) Dead(dst netip.Addr) bool {
	return r.reach.dead(dst.Unmap(), r.mainPort(), time.Now())
}

// mainPort is the port that says whether an address is of use: that of HTTPS, if it is served.
func (r *Relay) mainPort() uint16 {
	if slices.Contains(r.cfg.Ports, 443) {
		return 443
	}
	return r.cfg.Ports[0]
}

func newReach() *reach { return &reach{seed: maphash.MakeSeed()} }

// dialResult is how a dial has ended.
type dialResult int

const (
	dialUnknown     dialResult = iota // nothing was learnt about the destination
	dialAnswered                      // it is connected
	dialRefused                       // the host answers, the port does not
	dialSilent                        // nothing came back in time
	dialUnreachable                   // the network says that there is no way to the host
)

func dialResultOf(err error) dialResult {
	var timeout net.Error
	switch {
	case err == nil:
		return dialAnswered
	case errors.Is(err, context.Canceled):
		return dialUnknown
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return dialRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return dialUnreachable
	case errors.As(err, &timeout) && timeout.Timeout():
		return dialSilent
	}
	return dialUnknown
}

// begin returns how long a dial to dst may take at most, or errDead if it is not to be made. After its time as dead a
// destination is tried by one dial; others are refused until that has ended.
func (r *reach) begin(dst netip.AddrPort, timeout time.Duration, now time.Time) (time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, port := range []uint16{0, dst.Port()} {
		e := r.findLocked(r.key(dst.Addr(), port))
		switch {
		case e == nil || e.wait == 0 || !e.atOnce:
		case now.Before(e.until):
			return 0, errDead
		case now.Before(e.until.Add(longestDead)):
			e.until = now.Add(timeout)
		}
	}
	if f := r.familyLocked(dst.Addr()); now.Before(f.dead) {
		return min(timeout, trialTimeout), nil
	}
	return timeout, nil
}

// end notes how a dial to dst has ended, for which there was the time that begin returned.
func (r *reach) end(dst netip.AddrPort, err error, whole bool, now time.Time) {
	result := dialResultOf(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	f, host, port := r.familyLocked(dst.Addr()), r.key(dst.Addr(), 0), r.key(dst.Addr(), dst.Port())
	switch result {
	case dialAnswered:
		*f = familyReach{}
		r.forgetLocked(port)
		r.aliveLocked(host, dst.Port(), now)
	case dialRefused:
		*f = familyReach{}
		r.portFailedLocked(dst, false, now)
	case dialSilent:
		f.fail(host, now)
		if whole {
			r.portFailedLocked(dst, true, now)
		}
	case dialUnreachable:
		f.fail(host, now)
		r.failLocked(host, true, now)
	}
}

// dead reports whether addr, or its family, has failed of late. port is the one that matters of addr; that another
// one has answered means that the address is of use.
func (r *reach) dead(addr netip.Addr, port uint16, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.familyLocked(addr).dead) {
		return true
	}
	if host := r.findLocked(r.key(addr, 0)); host != nil && now.Before(host.until) {
		return host.wait > 0
	}
	e := r.findLocked(r.key(addr, port))
	return e != nil && e.wait > 0 && now.Before(e.until)
}

func (r *reach) familyLocked(addr netip.Addr) *familyReach {
	if addr.Is4() {
		return &r.families[0]
	}
	return &r.families[1]
}

// fail notes that a destination has not answered.
func (f *familyReach) fail(key uint64, now time.Time) {
	if !f.suspect && !slices.Contains(f.failed, key) {
		f.failed = append(f.failed, key)
	}
	if f.suspect || len(f.failed) >= deadFamily {
		*f = familyReach{dead: now.Add(longestDead), suspect: true}
	}
}

// key returns what stands for a port of an address, or with port 0 for the whole address.
func (r *reach) key(addr netip.Addr, port uint16) uint64 {
	return max(1, maphash.Comparable(r.seed, netip.AddrPortFrom(addr, port)))
}

func (r *reach) setOf(key uint64) []reached { return r.sets[key%reachSets][:] }

func (r *reach) findLocked(key uint64) *reached {
	for i, e := range r.setOf(key) {
		if e.key == key {
			return &r.setOf(key)[i]
		}
	}
	return nil
}

func (r *reach) forgetLocked(key uint64) {
	if e := r.findLocked(key); e != nil {
		*e = reached{}
	}
}

// slotLocked returns where key is, or else the place of what is worth least in its set.
func (r *reach) slotLocked(key uint64, now time.Time) *reached {
	if e := r.findLocked(key); e != nil {
		return e
	}
	set := r.setOf(key)
	least := &set[0]
	for i := range set {
		a, b := set[i].worth(now), least.worth(now)
		if a < b || a == b && set[i].until.Before(least.until) {
			least = &set[i]
		}
	}
	return least
}

// worth orders entries: what is over, what answers, what is dead.
func (e *reached) worth(now time.Time) int {
	switch {
	case !now.Before(e.until):
		return 0
	case e.wait == 0:
		return 1
	}
	return 2
}

// aliveLocked notes that the host with that key answers at port, if there is a place for it.
func (r *reach) aliveLocked(key uint64, port uint16, now time.Time) {
	if e := r.slotLocked(key, now); e.key == key || e.worth(now) < 2 {
		*e = reached{key: key, until: now.Add(aliveTime), port: port}
	}
}

// portFailedLocked notes that a port has failed. If the host has last answered there, that is over.
func (r *reach) portFailedLocked(dst netip.AddrPort, atOnce bool, now time.Time) {
	if host := r.findLocked(r.key(dst.Addr(), 0)); host != nil && host.wait == 0 && host.port == dst.Port() {
		*host = reached{}
	}
	r.failLocked(r.key(dst.Addr(), dst.Port()), atOnce, now)
}

// failLocked notes that what key stands for has failed.
func (r *reach) failLocked(key uint64, atOnce bool, now time.Time) {
	e := r.slotLocked(key, now)
	wait := firstDead
	if e.key == key && e.wait > 0 && now.Before(e.until.Add(longestDead)) {
		wait = min(2*e.wait, longestDead)
	}
	*e = reached{key: key, until: now.Add(wait), wait: wait, atOnce: atOnce}
}
