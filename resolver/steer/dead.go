package steer

import (
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// spare returns the RRsets of a section that can do without addresses which the relay cannot reach: those that have
// others, and in an answer those without, if the name has addresses of the other family that the relay can reach. Clients
// would use what is left as soon as a router told them that there is no way to the first; the relay cannot tell them,
// because it has accepted them by then. See RFC 8305, Section 5.
func (r *rewrite) spare(section int) map[wire.RRset]bool {
	rrs := r.m.Sections[section]
	if !slices.ContainsFunc(rrs, r.dead) {
		return nil
	}
	spare := r.living(rrs)
	if section != wire.AnswerSection || len(spare) > 0 || !r.otherFamilyLives() {
		return spare
	}
	for _, rec := range rrs {
		spare[rec.RRset()] = true
	}
	return spare
}

// living returns the RRsets with an address that is not dead.
func (r *rewrite) living(rrs []wire.Record) map[wire.RRset]bool {
	living := make(map[wire.RRset]bool)
	for _, rec := range rrs {
		if isAddress(rec) && !r.dead(rec) {
			living[rec.RRset()] = true
		}
	}
	return living
}

// otherFamilyLives reports whether QNAME has an address that is not dead in the family that was not asked for.
func (r *rewrite) otherFamilyLives() bool {
	var other uint16
	switch r.m.Type() {
	case dns.TypeA:
		other = dns.TypeAAAA
	case dns.TypeAAAA:
		other = dns.TypeA
	default:
		return false
	}
	m := r.ask(r.qname, other)
	return m != nil && len(r.living(m.Sections[wire.AnswerSection])) > 0
}

func isAddress(rec wire.Record) bool {
	return rec.Class == dns.ClassINET && (rec.Type == dns.TypeA || rec.Type == dns.TypeAAAA)
}

// dead reports whether rec has an address that the relay cannot reach.
func (r *rewrite) dead(rec wire.Record) bool {
	if !isAddress(rec) {
		return false
	}
	addr, _ := netip.AddrFromSlice(rec.Data)
	dst, _ := r.destination(addr)
	return r.config.Relay.Dead(dst)
}
