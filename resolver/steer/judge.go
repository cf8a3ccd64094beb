package steer

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// path is how one comes to an address, with what the policy says of the names on the way, which is found out once for
// all addresses at its end.
type path struct {
	names []string // from QNAME, if that leads there at all, to the owner or to the TargetName
	owner string   // of the record
	ours  bool     // the first name is QNAME
	byQNAME
	origins []byQNAME // if QNAME was a target itself: the same for what led to it
}

// byQNAME is what the policy says of the names from one QNAME on.
type byQNAME struct {
	origin origin // what led to the path, or zero
	rules  []int  // as from Policy.Rules
	reach  bool   // a rule can say that an address is steered
}

// pathKey names a path: all that depends on the record.
type pathKey struct {
	answer        bool
	owner, target string
}

// pathOf returns the path to the addresses of a record with this owner, or in the hints of one that points to target if
// that is not empty. It is nil beyond the bounds.
func (r *rewrite) pathOf(section int, owner, target string) *path {
	k := pathKey{section == wire.AnswerSection, owner, target}
	p, ok := r.judged[k]
	if !ok {
		names := r.namesTo(section, owner)
		if target != "" && target != owner {
			names = extend(names, target)
		}
		if p = r.judge(names); p != nil {
			p.owner = owner
		}
		r.judged[k] = p
	}
	return p
}

// judge asks the policy about names, or returns nil beyond the bounds.
func (r *rewrite) judge(names []string) *path {
	p := &path{names: names, ours: names[0] == r.qname}
	var ok bool
	if p.byQNAME, ok = r.rulesFor(names, true); !ok {
		return nil
	}
	if !p.ours {
		return p
	}
	for _, o := range r.origins {
		by, ok := r.rulesFor(slices.Concat(o.names, names), o.ech)
		if !ok {
			return nil
		}
		by.origin = o
		p.origins = append(p.origins, by)
	}
	return p
}

// rulesFor asks the policy about names, whose ech is known or assumed. It returns false beyond the bounds.
func (r *rewrite) rulesFor(names []string, ech bool) (byQNAME, bool) {
	n := 0
	for _, name := range names {
		n += strings.Count(name, ".") // an escaped dot counts as well
	}
	if !r.spend(&r.labels, n) {
		return byQNAME{}, false
	}
	rules := r.config.Policy.Rules(names)
	_, byName, byAddr := r.config.Policy.Scope(rules, ech)
	return byQNAME{rules: rules, reach: byName || byAddr}, true
}

// reachable reports whether any address at the end of p can be steered.
func (p *path) reachable() bool {
	return p.reach || slices.ContainsFunc(p.origins, func(o byQNAME) bool { return o.reach })
}

// decision is what becomes of an address.
type decision uint8

const (
	stay   decision = iota // it stays
	relay                  // the relay's address comes in its place
	remove                 // it goes
	omit                   // it goes, and nobody asked for it
)

// decide returns what becomes of addr at the end of p: by a rule, or if none speaks of it, by what led to the first
// name. An address of a name that is not of the question is removed if it would have to be found out whether that has
// ech: clients can do without the addresses of mail servers, say, in an Additional section.
func (r *rewrite) decide(p *path, addr netip.Addr) decision {
	if !p.reachable() || r.config.Relay.Contains(addr) {
		return stay
	}
	if !r.spend(&r.addresses, 1) {
		return remove
	}
	asked := false
	steer, matched := r.config.Policy.Steer(p.rules, addr, func() bool {
		asked = true
		return !p.ours || r.hasECH()
	})
	switch {
	case p.ours && !matched:
		return decisionOf(slices.ContainsFunc(p.origins, func(o byQNAME) bool {
			steer, _ := r.config.Policy.Steer(o.rules, addr, func() bool { return o.origin.ech })
			return steer
		}))
	case asked && !p.ours && steer:
		return omit
	case asked && !p.ours:
		steer, _ = r.config.Policy.Steer(p.rules, addr, func() bool { return false })
	}
	return decisionOf(steer)
}

func decisionOf(steer bool) decision {
	if steer {
		return relay
	}
	return stay
}
