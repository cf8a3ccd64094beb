package resolver

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// connTable has all connections, and decides which one ends when there is no room for another. It bounds them in all, by
// those that need a descriptor, by transport, and by each of the nested prefixes that a client is in.
//
// Where a bound is met, the connection that has been idle for longest makes room, of those that the bound is about: a
// client that comes can always be served, and a client that only holds connections loses them. A connection with a query
// under way never ends for another one. Outsiders, whose queries are refused, never make anybody give way, and have a
// small share of all connections.
type connTable struct {
	// set once
	max, maxSockets int
	levels          []PrefixLimit
	shared          sharing
	shares          [NumTransports]int // of max, which the other transports leave to each

	total atomic.Int64 // changed with mu held

	mu          sync.Mutex
	sockets     int // of total
	outsiders   int // of total
	leaving     int // not of total: asked to end, and not closed yet
	byTransport [NumTransports]connGroup
	byPrefix    map[netip.Prefix]*connGroup // never empty ones
}

const (
	// outsidersShare is the part of all connections that outsiders may have: a 16th.
	outsidersShare = 16
	// transportShare is the part of all connections that is left to each transport with a listener: a 16th.
	transportShare = 16
	// leavingShare is the part that may be ending in addition, so that clients learn that they are to connect again.
	leavingShare = 16
	// leaveTime is how long a connection that gave way may take to end in good order.
	leaveTime = 250 * time.Millisecond
)

func newConnTable(l *Limits) *connTable {
	return &connTable{
		max: l.Connections, maxSockets: min(l.Sockets, l.Connections),
		levels: l.completePrefixes(), shared: newSharing(l),
		byPrefix: make(map[netip.Prefix]*connGroup),
	}
}

// serve gives t a share that no other transport takes. It is called before anything is accepted.
func (l *connTable) serve(t Transport) { l.shares[t] = l.max / transportShare }

// usesSocket reports whether each connection of t has a descriptor.
func usesSocket(t Transport) bool { return t == TCP || t == DoT || t == DoH }

// maxOutsiders returns how many connections outsiders may have: at least one, over which they learn that they are refused.
func (l *connTable) maxOutsiders() int { return max(1, l.maxSockets/outsidersShare) }

// take takes a connection of client into account. It returns nil if there is no room and nobody who makes some.
func (l *connTable) take(t Transport, client netip.Addr, outsider bool) *connection {
	c := &connection{table: l, transport: t, outsider: outsider}
	c.active.Store(time.Now().UnixNano())
	l.mu.Lock()
	defer l.mu.Unlock()
	if outsider && l.outsiders >= l.maxOutsiders() || !l.makeRoomForClientLocked(c, client) || !l.makeRoomForTransportLocked(c) {
		return nil
	}
	for i := range l.levels {
		if p, ok := l.levels[i].prefix(client); ok {
			c.join(l.groupLocked(p))
		}
	}
	c.join(&l.byTransport[t])
	l.countLocked(c, 1)
	return c
}

func (l *connTable) countLocked(c *connection, n int) {
	l.total.Add(int64(n))
	if usesSocket(c.transport) {
		l.sockets += n
	}
	if c.outsider {
		l.outsiders += n
	}
}

func (l *connTable) groupLocked(p netip.Prefix) *connGroup {
	g := l.byPrefix[p]
	if g == nil {
		g = &connGroup{prefix: p}
		l.byPrefix[p] = g
	}
	return g
}

// makeRoomForClientLocked has the prefixes of client be within their limits, and reports false if they cannot.
func (l *connTable) makeRoomForClientLocked(c *connection, client netip.Addr) bool {
	times := l.shared.times(client)
	for i := range l.levels {
		p, ok := l.levels[i].prefix(client)
		if !ok {
			continue
		}
		if g := l.byPrefix[p]; g != nil && len(g.members) >= times*l.levels[i].Connections && !l.evictFromLocked(g, c) {
			return false
		}
	}
	return true
}

// makeRoomForTransportLocked has all connections, and those of c's kind, be within their limits. A transport that has more than
// its share makes room itself, before the one that has most.
func (l *connTable) makeRoomForTransportLocked(c *connection) bool {
	for range NumTransports {
		full, noSocket := l.fullLocked(c.transport), usesSocket(c.transport) && l.sockets >= l.maxSockets
		if !full && !noSocket {
			return true
		}
		own := &l.byTransport[c.transport]
		if len(own.members) > l.shares[c.transport] && l.evictFromLocked(own, c) {
			continue
		}
		if g := l.largestLocked(noSocket); g == nil || !l.evictFromLocked(g, c) {
			return false
		}
	}
	return false
}

// fullLocked reports whether t has nothing left of what all transports have together, nor of its share.
func (l *connTable) fullLocked(t Transport) bool {
	total := int(l.total.Load())
	if total >= l.max {
		return true
	}
	if len(l.byTransport[t].members) < l.shares[t] {
		return false
	}
	for u := range NumTransports {
		if u != t {
			total += max(0, l.shares[u]-len(l.byTransport[u].members))
		}
	}
	return total >= l.max
}

// largestLocked returns the transport that has most connections, of those with a socket if that is what is missing.
func (l *connTable) largestLocked(sockets bool) *connGroup {
	var most *connGroup
	for t := range NumTransports {
		g := &l.byTransport[t]
		if (usesSocket(t) || !sockets) && (most == nil || len(g.members) > len(most.members)) {
			most = g
		}
	}
	return most
}

// evictFromLocked has the idlest connection of g make room for c, and reports false if there is none.
func (l *connTable) evictFromLocked(g *connGroup, c *connection) bool {
	if c.outsider {
		return false
	}
	idlest := g.idlest()
	if idlest == nil {
		return false
	}
	l.removeLocked(idlest)
	if l.leaving >= l.max/leavingShare {
		go idlest.kill()
		return true
	}
	l.leaving++
	idlest.leaving = true
	idlest.retireLocked()
	time.AfterFunc(leaveTime, idlest.kill)
	return true
}

// removeLocked takes c off all accounts.
func (l *connTable) removeLocked(c *connection) {
	c.removed = true
	l.countLocked(c, -1)
	for i := range c.places[:c.groups] {
		g := c.places[i].group
		if g.leave(i, c); len(g.members) == 0 && g.prefix.IsValid() {
			delete(l.byPrefix, g.prefix)
		}
	}
}

// nearLimit reports whether client has half of the connections that one of its prefixes may have, or everybody together
// half of all, or the outsiders half of theirs if client is one.
func (l *connTable) nearLimit(client netip.Addr, outsider bool) bool {
	times := l.shared.times(client)
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(l.total.Load()) >= (l.max+1)/2 || outsider && l.outsiders >= (l.maxOutsiders()+1)/2 {
		return true
	}
	for i := range l.levels {
		if p, ok := l.levels[i].prefix(client); ok {
			if g := l.byPrefix[p]; g != nil && len(g.members) >= (times*l.levels[i].Connections+1)/2 {
				return true
			}
		}
	}
	return false
}

// idleTime returns how long a connection may be idle: all of most as long as half of all connections are free, and from
// there on less, down to an eighth when none is.
func (l *connTable) idleTime(most time.Duration) time.Duration {
	over := 2*l.total.Load() - int64(l.max)
	if over <= 0 {
		return most
	}
	return most - most/8*7*time.Duration(min(over, int64(l.max)))/time.Duration(l.max)
}

// connGroup is the connections that one bound is about.
type connGroup struct {
	prefix  netip.Prefix // or the zero value
	members []*connection
}

// connSample is how many connections of a group are looked at to find an idle one: that which is found is among the
// idlest sixteenth but once in 60, and nobody makes us walk through all of them.
const connSample = 64

// idlest returns the connection of a sample of g, or of all if they are few, that has been idle for longest, or nil.
func (g *connGroup) idlest() (found *connection) {
	n := len(g.members)
	if n == 0 {
		return nil
	}
	first := rand.IntN(n)
	for i := range min(n, connSample) {
		c := g.members[(first+i)%n]
		if c.busy.Load() == 0 && (found == nil || c.active.Load() < found.active.Load()) {
			found = c
		}
	}
	return found
}

// leave removes c, whose place number i is in g.
func (g *connGroup) leave(i int, c *connection) {
	at, last := c.places[i].index, len(g.members)-1
	moved := g.members[last]
	g.members[at], g.members[last] = moved, nil
	g.members = g.members[:last]
	for j := range moved.places[:moved.groups] {
		if moved.places[j].group == g {
			moved.places[j].index = at
		}
	}
}

// connection is what the table knows about one connection.
type connection struct {
	// set once
	table     *connTable
	transport Transport
	outsider  bool

	active atomic.Int64 // when there last was a query, in nanoseconds since 1970
	busy   atomic.Int32 // queries under way

	// guarded by table.mu
	places  [2 + maxPrefixes]connPlace
	groups  int // of places, in use
	removed bool
	leaving bool
	left    bool
	retired bool
	ends    connEnds
	age     *time.Timer
}

// connPlace is where a connection is among the members of a group.
type connPlace struct {
	group *connGroup
	index int
}

// connEnds are the ways to end a connection: to let the client know and end when nothing is under way, and at once.
type connEnds struct{ retire, kill func() }

// join makes c a member of g.
func (c *connection) join(g *connGroup) {
	c.places[c.groups] = connPlace{g, len(g.members)}
	c.groups++
	g.members = append(g.members, c)
}

// endBy says how c is ended. Once it is older than age it retires, somewhat earlier or later than others that came at
// the same time. Neither function may wait for c.
func (c *connection) endBy(age time.Duration, ends connEnds) {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.ends = ends
	switch {
	case c.removed: // it has given way before anybody could end it
		go ends.kill()
		return
	case c.retired:
		go ends.retire()
		return
	}
	c.age = time.AfterFunc(age-rand.N(age/8+1), c.grow)
}

// grow retires c, which has reached its greatest age.
func (c *connection) grow() {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.retireLocked()
}

// retireLocked asks the owner of c to end it in good order.
func (c *connection) retireLocked() {
	if !c.retired {
		c.retired = true
		if c.ends.retire != nil {
			go c.ends.retire()
		}
	}
}

// kill ends c now.
func (c *connection) kill() {
	c.table.mu.Lock()
	kill := c.ends.kill
	if c.left {
		kill = nil
	}
	c.table.mu.Unlock()
	if kill != nil {
		kill()
	}
}

// leave ends the account of c. It may be called more than once.
func (c *connection) leave() {
	l := c.table
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.left {
		return
	}
	c.left = true
	if c.age != nil {
		c.age.Stop()
	}
	if c.leaving {
		l.leaving--
	}
	if !c.removed {
		l.removeLocked(c)
	}
}

// touch notes that a query has come at the time now.
func (c *connection) touch(now time.Time) { c.active.Store(now.UnixNano()) }

// begin notes that a query is under way, until end is called.
func (c *connection) begin() {
	c.busy.Add(1)
	c.touch(time.Now())
}

// end is not a use of the connection: it can come long after the client has its answer, and has sent its next query
// elsewhere.
func (c *connection) end() { c.busy.Add(-1) }
