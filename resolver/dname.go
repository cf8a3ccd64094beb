package resolver

import (
	"context"
	"slices"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// maxDNAMEs bounds the questions that one answer with DNAME records leads to.
const maxDNAMEs = 8

// dnameBounds is what an answer with DNAME records may bring. One with more goes out as it is.
var dnameBounds = wire.Bounds{Records: 256, NameOctets: 8 << 10}

// followDNAMEs returns p, the response of an upstream to k, with the CNAME records that its DNAME records stand for, and
// with what is at the end of that chain if the upstream has not looked. A chain that does not end is a failure.
func (f *forwarder) followDNAMEs(ctx context.Context, set *settings, k *wire.Key, p *wire.Response) (*wire.Response, error) {
	if p.Rcode() != dns.RcodeSuccess || k.Type() == dns.TypeDNAME || !p.HasType(dns.TypeDNAME) {
		return p, nil
	}
	m, cut, err := p.ParseWithin(dnameBounds)
	if err != nil || cut {
		return p, err
	}
	end, added, ok := m.AddCNAMEs()
	if !added && ok {
		return p, nil
	}
	for hops := 0; ok && unfinished(m) && hops < maxDNAMEs; hops++ {
		if m, err = f.chase(ctx, set, m, end, k.Flags); err != nil {
			return nil, err
		}
		end, _, ok = m.AddCNAMEs()
	}
	if !ok || unfinished(m) {
		return wire.Failure(k, wire.EDEInvalidData, wire.FailureTTL, f.cache.now()), nil
	}
	octets, err := m.Pack()
	if err != nil {
		return nil, err
	}
	made, err := wire.NewResponse(octets, k, p.Received)
	if err == nil {
		made.EDE = p.EDE
	}
	return made, err
}

// unfinished reports whether m has neither what was asked for nor a denial.
func unfinished(m *wire.Message) bool {
	qtype := m.Type()
	return m.Rcode() == dns.RcodeSuccess && len(m.Sections[wire.AuthoritySection]) == 0 && qtype != dns.TypeCNAME && qtype != dns.TypeANY &&
		!slices.ContainsFunc(m.Sections[wire.AnswerSection], func(r wire.Record) bool { return r.Type == qtype })
}

// chase returns m, which ends with a CNAME to target, with what upstreams say of that.
func (f *forwarder) chase(ctx context.Context, set *settings, m *wire.Message, target string, flags uint8) (*wire.Message, error) {
	k, err := wire.NewKey(target, m.Type(), flags)
	if err != nil {
		return nil, err
	}
	next, err := set.upstreams.Resolve(ctx, k)
	if err != nil {
		return nil, err
	}
	octets, err := continued(m, next.Octets(f.cache.now()))
	if err != nil {
		return nil, err
	}
	return wire.ParseMessage(octets)
}
