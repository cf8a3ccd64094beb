package steer

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// A service record with a port that the relay does not serve cannot be followed through the relay. If the addresses of its
// target are steered, clients get those of the relay for them, where that port is closed; so the record loses port and
// hints, and clients go to the relay at the default port. If they are not, the record is left as it is. A port that
// comes from the question, as in _8443._https.shop.example, is the client's own choice and stays.

// maxPortLookups bounds the questions for addresses of targets, for one response. Beyond them targets count as steered.
const maxPortLookups = 4

// relaysPort reports whether the relay serves the port that rec says, if it says one.
func (r *rewrite) relaysPort(rec *wire.Record) bool {
	if len(r.config.Ports) == 0 || !rec.IsService() {
		return true
	}
	list, ok := wire.ReadSvcParams(rec.Rest)
	i := slices.IndexFunc(list, func(p wire.SvcParam) bool { return p.Key == uint16(dns.SVCB_PORT) })
	return !ok || i < 0 || len(list[i].Value) != 2 || slices.Contains(r.config.Ports, binary.BigEndian.Uint16(list[i].Value))
}

// otherPort rewrites rec, whose port the relay does not serve and at whose target p ends.
func (r *rewrite) otherPort(p *path, rec *wire.Record) {
	if !r.targetSteered(p, rec) {
		return
	}
	removed := []uint16{uint16(dns.SVCB_PORT), uint16(dns.SVCB_IPV4HINT), uint16(dns.SVCB_IPV6HINT)}
	list, _ := wire.ReadSvcParams(rec.Rest)
	list = slices.DeleteFunc(list, func(p wire.SvcParam) bool { return slices.Contains(removed, p.Key) })
	rec.Rest = wire.AppendSvcParams(nil, withoutMandatory(list, removed))
	r.changed[rec.RRset()] = true
}

// targetSteered reports whether an address at the end of p is steered, by the hints of rec or else by what is looked up.
// It counts as steered if that cannot be found out.
func (r *rewrite) targetSteered(p *path, rec *wire.Record) bool {
	found, steered := 0, false
	note := func(addr netip.Addr) {
		dst, _ := r.destination(addr)
		found, steered = found+1, steered || r.decide(p, dst) != stay
	}
	left := maxHints
	_, _, err := rewriteHints(rec.Rest, func(addr netip.Addr) (netip.Addr, bool, error) {
		if left--; left >= 0 {
			note(addr)
		}
		return addr, true, nil
	})
	if err != nil || found > 0 {
		return err != nil || steered
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		if r.portLookups--; r.portLookups < 0 {
			return true
		}
		m := r.ask(rec.Target(), qtype)
		if m == nil {
			continue
		}
		for _, a := range m.Sections[wire.AnswerSection] {
			if a.Type == qtype && a.Class == dns.ClassINET && !steered {
				addr, _ := netip.AddrFromSlice(a.Data)
				note(addr)
			}
		}
	}
	return steered || found == 0
}
