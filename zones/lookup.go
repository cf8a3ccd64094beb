package zones

import (
	"slices"

	"github.com/miekg/dns"
)

// zone is the data of one zone. It is immutable once loaded.
type zone struct {
	apex    string // lower case
	file    string // empty if built in
	builtin bool
	public  bool // its parent is in the public tree and has a say about it: DS is asked there
	soa     *dns.SOA
	nodes   map[string]*node // by name in lower case; empty non-terminals have a node
	cuts    bool             // there are delegations
}

// node is a name and its RRsets, in the order of their types. An empty non-terminal has none.
type node struct{ sets []rrset }

// rrset is an RRset that is not empty.
type rrset struct {
	rtype uint16
	rrs   []dns.RR
}

// get returns the RRset of the type, or nil.
func (n *node) get(rtype uint16) []dns.RR {
	i, found := slices.BinarySearchFunc(n.sets, rtype, compareType)
	if !found {
		return nil
	}
	return n.sets[i].rrs
}

// add puts rr into its RRset, unless it is there already. The TTL of an RRset is the lowest of its records. See RFC
// 2181, Sections 5 and 5.2.
func (n *node) add(rr dns.RR) {
	rtype := rr.Header().Rrtype
	i, found := slices.BinarySearchFunc(n.sets, rtype, compareType)
	if !found {
		n.sets = slices.Insert(n.sets, i, rrset{rtype: rtype})
	}
	set := &n.sets[i]
	ttl := rr.Header().Ttl
	for _, other := range set.rrs {
		ttl = min(ttl, other.Header().Ttl)
	}
	if !slices.ContainsFunc(set.rrs, func(other dns.RR) bool { return dns.IsDuplicate(rr, other) }) {
		set.rrs = append(set.rrs, rr)
	}
	for _, member := range set.rrs {
		member.Header().Ttl = ttl
	}
}

func compareType(s rrset, rtype uint16) int { return int(s.rtype) - int(rtype) }

// result is what a zone says about one name.
type result struct {
	rcode     int
	answer    []dns.RR
	next      string   // target of the CNAME in answer that is to be followed, or empty
	soa       *dns.SOA // of a negative answer, or nil
	delegated bool     // the name is another server's: nothing else is set
}

// lookup answers for name, in lower case, which is at or below the apex. See RFC 1034, Section 4.3.2, as clarified by
// RFC 4592.
func (z *zone) lookup(name string, qtype uint16) result {
	if z.delegates(name, qtype) {
		return result{delegated: true}
	}
	n := z.nodes[name]
	if n == nil {
		n = z.wildcard(name)
	}
	if n == nil {
		return result{rcode: dns.RcodeNameError, soa: z.soa}
	}
	if cname := n.get(dns.TypeCNAME); cname != nil && qtype != dns.TypeCNAME && qtype != dns.TypeANY {
		return result{answer: cname, next: cname[0].(*dns.CNAME).Target}
	}
	if qtype == dns.TypeANY && len(n.sets) > 0 {
		return result{answer: n.sets[0].rrs}
	}
	if rrs := n.get(qtype); rrs != nil {
		return result{answer: rrs}
	}
	return result{soa: z.soa}
}

// delegates reports whether name is at or below a zone cut. The DS RRset at a cut is on this side of it.
func (z *zone) delegates(name string, qtype uint16) bool {
	if !z.cuts || name == z.apex {
		return false
	}
	if qtype == dns.TypeDS {
		name = parent(name)
	}
	for ; name != z.apex; name = parent(name) {
		if n := z.nodes[name]; n != nil && n.get(dns.TypeNS) != nil {
			return true
		}
	}
	return false
}

// wildcard returns the node from which name, which does not exist, is synthesized, or nil: the wildcard at its
// closest encloser and no other. See RFC 4592, Section 3.3.1.
func (z *zone) wildcard(name string) *node {
	for name != z.apex {
		name = parent(name)
		if z.nodes[name] != nil {
			return z.nodes["*."+name]
		}
	}
	return nil
}
