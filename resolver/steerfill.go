package resolver

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// fill completes an Answer section that lacks what was asked for: because all of it was removed, if had, or because
// the name has no AAAA records.
func (r *rewrite) fill(had bool) error {
	if r.m.qtype() == dns.TypeAAAA {
		made, err := r.synthesize()
		if err != nil {
			return err
		}
		if len(made) > 0 {
			r.m.sections[inAnswer] = append(r.m.sections[inAnswer], made...)
			r.m.sections[inAuthority] = nil // what denies the type, or names servers that do not have it
			r.changed[made[0].set()] = true
			return nil
		}
	}
	if had {
		r.m.sections[inAuthority] = []rr{r.soa()}
	}
	return nil
}

// synthesize makes AAAA records of the steered A records of QNAME, as a DNS64 would, but for the relay. See RFC 6147,
// Section 5.1.
func (r *rewrite) synthesize() (made []rr, err error) {
	if !r.inScope() {
		return nil, nil
	}
	m := r.ask(r.qname, dns.TypeA)
	if m == nil {
		return nil, nil
	}
	paths, ttl, owner := paths(m, r.qname), negativeTTL(r.m), r.end()
	for _, a := range m.sections[inAnswer] {
		path := paths[a.name]
		if a.typ != dns.TypeA || a.class != dns.ClassINET || path == nil {
			continue
		}
		dst, _ := netip.AddrFromSlice(a.data)
		if !r.steers(path, dst) {
			continue
		}
		addr, ok, err := r.relayAddr(dst, true, min(saneTTL(a.ttl), ttl))
		if err != nil {
			return nil, err
		}
		name := nameText(owner)
		if ok && !r.seen[relayed{name, addr}] {
			r.seen[relayed{name, addr}] = true
			made = append(made, rr{
				owner: owner, name: name, typ: dns.TypeAAAA, class: dns.ClassINET,
				ttl: min(saneTTL(a.ttl), ttl), data: addr.AsSlice(),
			})
		}
	}
	return made, nil
}

// inScope reports whether any address at the end of the chain can be steered at all, so that it is worth a question.
func (r *rewrite) inScope() bool {
	path := r.path(inAnswer, nameText(r.end()))
	for _, o := range append([]origin{{}}, r.origins...) {
		if byName, byAddr := r.Policy.Scope(slices.Concat(o.names, path), true); byName || byAddr {
			return true
		}
	}
	return false
}

// negativeTTL returns for how long m denies the type, in seconds. See RFC 2308, Section 5.
func negativeTTL(m *message) uint32 {
	for _, r := range m.sections[inAuthority] {
		if r.typ == dns.TypeSOA && len(r.rest) == 20 {
			return min(saneTTL(r.ttl), saneTTL(binary.BigEndian.Uint32(r.rest[16:])))
		}
	}
	return maxTTL
}

// soa returns the record that lets clients cache a NODATA answer of ours, for the name that has none, in the form of
// RFC 6303, Section 3.
func (r *rewrite) soa() rr {
	owner, ttl := r.end(), r.cap(maxTTL)
	rest := make([]byte, 0, 20)
	for _, v := range []uint32{1, 3600, 1200, 604800, ttl} { // serial, refresh, retry, expire, minimum
		rest = binary.BigEndian.AppendUint32(rest, v)
	}
	return rr{
		owner: owner, name: nameText(owner), typ: dns.TypeSOA, class: dns.ClassINET, ttl: ttl,
		names: [][]byte{owner, []byte("\x06nobody\x07invalid\x00")}, rest: rest,
	}
}

// end returns the name at the end of the CNAME chain, in wire form.
func (r *rewrite) end() []byte {
	end, name := r.m.question[:len(r.m.question)-4], r.qname
	for range maxPath {
		i := slices.IndexFunc(r.m.sections[inAnswer], func(a rr) bool { return a.typ == dns.TypeCNAME && a.name == name })
		if i < 0 {
			return end
		}
		end = r.m.sections[inAnswer][i].names[0]
		name = nameText(end)
	}
	return end
}
