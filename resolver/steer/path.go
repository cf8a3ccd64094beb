package steer

import (
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// path returns the names that lead to an owner in a section. One to which nothing leads stands for itself, but in
// the Answer section clients may take it for QNAME all the same.
func (r *rewrite) path(section int, name string) []string {
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

// remember notes the names that service records point to, if steering depends on who does so, and keeps the TTL of
// those records low, so that clients come back after a restart.
func (r *rewrite) remember() {
	for _, section := range []int{wire.AnswerSection, wire.AdditionalSection} {
		for i := range r.m.Sections[section] {
			rec := &r.m.Sections[section][i]
			if path := r.paths[rec.Name]; rec.IsSVCB() && path != nil {
				r.rememberTarget(rec, path)
			}
		}
	}
}

// rememberTarget notes the target of rec, to whose owner path leads. A target that clients ask for anyway, because
// it is QNAME, needs no remembering.
func (r *rewrite) rememberTarget(rec *wire.Record, path []string) {
	target := rec.Target()
	if target == "" || target == r.qname {
		return
	}
	ech := carriesECH(r.m)
	for _, o := range append([]origin{{ech: ech}}, r.origins...) {
		names := slices.Concat(o.names, path)
		if len(names) > maxPath {
			names = names[:maxPath]
		}
		if byName, _ := r.config.Policy.Scope(extend(names, target), ech || o.ech); byName {
			until := time.Now().Add(time.Duration(wire.SaneTTL(rec.TTL))*time.Second + targetGrace)
			if r.targets.add(target, origin{names: names, ech: ech || o.ech, until: until}) {
				r.forget(target)
			}
			if wire.SaneTTL(rec.TTL) > r.cap(wire.MaxTTL) {
				r.capped[rec.RRset()] = true
			}
		}
	}
}
