package steer

import (
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// namesTo returns the names that lead to an owner in a section. One to which nothing leads stands for itself, but in
// the Answer section clients may take it for QNAME all the same.
func (r *rewrite) namesTo(section int, name string) []string {
	switch path := r.paths[name]; {
	case path != nil:
		return path
	case section == wire.AnswerSection:
		return []string{r.qname, name}
	}
	return []string{name}
}

// paths returns the names that qname leads to by CNAME and service records, each with the names on the way.
func paths(m *wire.Message, qname string) map[string][]string {
	edges := make(map[string][]string)
	for _, rec := range slices.Concat(m.Sections[wire.AnswerSection], m.Sections[wire.AdditionalSection]) {
		if rec.Class == dns.ClassINET && (rec.Type == dns.TypeCNAME || rec.IsSVCB()) {
			edges[rec.Name] = append(edges[rec.Name], rec.Target())
		}
	}
	paths := map[string][]string{qname: {qname}}
	for todo := []string{qname}; len(todo) > 0; todo = todo[1:] {
		for _, target := range edges[todo[0]] {
			if target != "" && paths[target] == nil {
				paths[target] = extend(paths[todo[0]], target)
				todo = append(todo, target)
			}
		}
	}
	return paths
}

// extend returns path with name at its end, in memory of its own. Of long paths the last name but one is left out.
func extend(path []string, name string) []string {
	return append(slices.Clone(path[:min(len(path), maxPath-1)]), name)
}

// remember notes the name at the end of p that a service record points to, if steering depends on who does so, and keeps
// the TTL of the record low, so that clients come back after a restart. A target that clients ask for anyway, because it
// is QNAME, needs no remembering. It reports whether the record may stay: not if its target cannot be remembered, since
// clients would get the address of that.
func (r *rewrite) remember(p *path, rec *wire.Record) bool {
	names, target := r.paths[rec.Name], rec.Target()
	if names == nil || target == "" || target == r.qname {
		return true
	}
	for _, by := range append([]byQNAME{p.byQNAME}, p.origins...) {
		o := origin{names: slices.Concat(by.origin.names, names), ech: by.origin.ech || r.carriesECH()}
		if len(o.names) > maxPath {
			o.names = o.names[:maxPath]
		}
		listed, byName, _ := r.config.Policy.Scope(by.rules, o.ech)
		if !byName {
			continue
		}
		if !r.rememberOrigin(rec, target, o, listed) {
			r.cut = true
			return false
		}
		if wire.SaneTTL(rec.TTL) > r.cap(wire.MaxTTL) {
			r.capped[rec.RRset()] = true
		}
	}
	return true
}

// rememberOrigin notes for all, or for those who are given the record, that o leads to target.
func (r *rewrite) rememberOrigin(rec *wire.Record, target string, o origin, listed bool) bool {
	octets := 0
	for _, name := range o.names {
		octets += len(name)
	}
	switch {
	case octets > maxOriginOctets:
		return false
	case !listed:
		return r.lead(target, o, r.cap(rec.TTL))
	}
	o.until = time.Now().Add(time.Duration(wire.SaneTTL(rec.TTL))*time.Second + targetGrace)
	news, ok := r.targets.add(target, o)
	if news {
		r.forget(target)
	}
	return ok
}
