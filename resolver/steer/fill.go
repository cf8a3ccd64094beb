package steer

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// fill completes an Answer section that lacks what was asked for: because all of it was removed, if had, or because
// the name has no AAAA records.
func (r *rewrite) fill(had bool) error {
	if r.m.Type() == dns.TypeAAAA {
		made, err := r.synthesize()
		if err != nil {
			return err
		}
		if len(made) > 0 {
			r.m.Sections[wire.AnswerSection] = append(r.m.Sections[wire.AnswerSection], made...)
			r.m.Sections[wire.AuthoritySection] = nil // what denies the type, or names servers that do not have it
			r.changed[made[0].RRset()] = true
			return nil
		}
	}
	if had {
		r.m.Sections[wire.AuthoritySection] = []wire.Record{r.soa()}
	}
	return nil
}

// synthesize makes AAAA records of the steered A records of QNAME, as a DNS64 would, but for the relay. See RFC 6147,
// Section 5.1.
func (r *rewrite) synthesize() (made []wire.Record, err error) {
	if !r.inScope() {
		return nil, nil
	}
	m := r.ask(r.qname, dns.TypeA)
	if m == nil {
		return nil, nil
	}
	answer, paths, ttl, owner := m.Sections[wire.AnswerSection], paths(m, r.qname), negativeTTL(r.m), r.end()
	living, judged := r.living(answer), make(map[string]*path)
	for _, a := range answer {
		names := paths[a.Name]
		if a.Type != dns.TypeA || a.Class != dns.ClassINET || names == nil || living[a.RRset()] && r.dead(a) {
			continue
		}
		p, ok := judged[a.Name]
		if !ok {
			if p = r.judge(names); p != nil {
				p.owner = a.Name
			}
			judged[a.Name] = p
		}
		dst, _ := netip.AddrFromSlice(a.Data)
		if p == nil || r.decide(p, dst) != relay {
			continue
		}
		addr, ok, err := r.relayAddr(p, dst, true, min(wire.SaneTTL(a.TTL), ttl), false)
		if err != nil {
			return nil, err
		}
		name := wire.NameText(owner)
		if ok && !r.seen[relayed{name, addr}] {
			r.seen[relayed{name, addr}] = true
			made = append(made, wire.Record{
				Owner: owner, Name: name, Type: dns.TypeAAAA, Class: dns.ClassINET,
				TTL: min(wire.SaneTTL(a.TTL), ttl), Data: addr.AsSlice(),
			})
		}
	}
	return made, nil
}

// inScope reports whether any address at the end of the chain can be steered at all, so that it is worth a question.
func (r *rewrite) inScope() bool {
	p := r.pathOf(wire.AnswerSection, wire.NameText(r.end()), "")
	return p != nil && p.reachable()
}

// negativeTTL returns for how long m denies the type, in seconds. See RFC 2308, Section 5.
func negativeTTL(m *wire.Message) uint32 {
	for _, r := range m.Sections[wire.AuthoritySection] {
		if r.Type == dns.TypeSOA && len(r.Rest) == 20 {
			return min(wire.SaneTTL(r.TTL), wire.SaneTTL(binary.BigEndian.Uint32(r.Rest[16:])))
		}
	}
	return wire.MaxTTL
}

// soa returns the record that lets clients cache a NODATA answer of ours, for the name that has none, in the form of
// RFC 6303, Section 3.
func (r *rewrite) soa() wire.Record {
	owner, ttl := r.end(), r.cap(wire.MaxTTL)
	rest := make([]byte, 0, 20)
	for _, v := range []uint32{1, 3600, 1200, 604800, ttl} { // serial, refresh, retry, expire, minimum
		rest = binary.BigEndian.AppendUint32(rest, v)
	}
	return wire.Record{
		Owner: owner, Name: wire.NameText(owner), Type: dns.TypeSOA, Class: dns.ClassINET, TTL: ttl,
		Names: [][]byte{owner, []byte("\x06nobody\x07invalid\x00")}, Rest: rest,
	}
}

// end returns the name at the end of the CNAME chain, in wire form.
func (r *rewrite) end() []byte {
	end, name := r.m.Question[:len(r.m.Question)-4], r.qname
	for range maxPath {
		i := slices.IndexFunc(r.m.Sections[wire.AnswerSection], func(a wire.Record) bool { return a.Type == dns.TypeCNAME && a.Name == name })
		if i < 0 {
			return end
		}
		end = r.m.Sections[wire.AnswerSection][i].Names[0]
		name = wire.NameText(end)
	}
	return end
}
