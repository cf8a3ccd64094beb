package steer

import (
	"slices"
	"sync"
	"time"
)

const (
	// maxTargets bounds the names that are remembered; an entry takes a few hundred octets.
	maxTargets = 16384
	// maxOrigins bounds what is remembered of one of them. Any origin that is steered is enough.
	maxOrigins = 4
	// targetGrace is for clients that keep a record longer than its TTL.
	targetGrace = 10 * time.Minute
)

// Origin is how clients come to ask for a name of which no rule speaks: an HTTPS or SVCB record of another name, of
// which one does, pointed them to it.
type Origin struct {
	names []string // from the name that was asked for to the owner of the record
	ech   bool     // an HTTPS record of it carries ech
	until time.Time
}

type origin = Origin

// is reports whether o and other lead the same way.
func (o *Origin) is(other *Origin) bool {
	return o.ech == other.ech && slices.Equal(o.names, other.names)
}

// targets remembers the names that service records of names pointed to that the operator has listed, because clients ask
// for their addresses next, and the question does not say why. It does not remember who asked: what an operator has
// listed decides for all, see Lead for what others publish. The zero value is ready for use.
type targets struct {
	mu sync.Mutex
	m  map[string][]origin // by target
}

// add remembers that o leads to target, and reports whether that is news, and whether there is room for it: nothing that
// holds is forgotten for something new, because whoever could have much remembered would choose what is forgotten.
func (t *targets) add(target string, o origin) (news, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[string][]origin)
	}
	// Never changed in place: others may be reading what lookup returned.
	all := t.m[target]
	news = !slices.ContainsFunc(all, func(old origin) bool { return old.is(&o) })
	kept := slices.DeleteFunc(slices.Clone(all), func(old origin) bool { return slices.Equal(old.names, o.names) })
	if len(kept) == maxOrigins {
		kept = kept[1:]
	}
	if len(kept) == 0 && len(t.m) >= maxTargets && !t.sweepLocked(time.Now()) {
		return news, false
	}
	t.m[target] = append(kept, o)
	return news, true
}

// sweepLocked drops targets that are over, of a few drawn at random, and reports whether there were any.
func (t *targets) sweepLocked(now time.Time) (room bool) {
	n := 0
	for target, origins := range t.m {
		if !slices.ContainsFunc(origins, func(o origin) bool { return o.until.After(now) }) {
			delete(t.m, target)
			room = true
		}
		if n++; n == 64 {
			break
		}
	}
	return room
}

// lookup returns what led to target and is not over yet.
func (t *targets) lookup(target string, now time.Time) []origin {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.m[target]
	live := slices.DeleteFunc(slices.Clone(all), func(o origin) bool { return !o.until.After(now) })
	if len(all) > 0 && len(live) == 0 {
		delete(t.m, target)
	}
	return live
}
