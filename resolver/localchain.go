package resolver

import (
	"context"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/steer"
)

// complete returns the reply p of a local source, or if that ends with a CNAME, p and what the target has: stub
// resolvers expect the whole chain. See RFC 1034, Section 5.2.2. It is steered like any answer of an upstream, by all
// names of the chain.
func (h *resolverHandler) complete(ctx context.Context, set *settings, r *wire.Query, q *query, p *wire.Response) (*wire.Response, error) {
	now := h.cache.now()
	octets, done, err := h.follow(ctx, set, r.Key.Flags, q, p.Octets(now))
	if err != nil || !done {
		return p, err
	}
	v := steer.Untouched
	if set.view(q.client.Addr(), r) != viewRaw {
		if octets, v, err = h.applySteering(ctx, set, r.Key.Flags, q, octets); err != nil {
			return nil, err
		}
	}
	if p, err = wire.NewResponse(octets, &r.Key, now); err != nil {
		return nil, err
	}
	p.Rewritten = v == steer.Steered
	return p, nil
}

// follow appends to wire, the reply of a local source, what the target of the CNAME has that it ends with, if it ends
// with one. What that target is in turn is the upstream's to know, so that nothing goes in circles.
func (h *resolverHandler) follow(
	ctx context.Context, set *settings, flags uint8, q *query, octets []byte,
) (out []byte, done bool, err error) {
	m, err := wire.ParseMessage(octets)
	if err != nil {
		return nil, false, err
	}
	target := dangling(m)
	if target == "" {
		return octets, false, nil
	}
	k, err := wire.NewKey(target, m.Type(), flags)
	if err != nil {
		return nil, false, err
	}
	next, _, err := h.source(ctx, set, k, q)
	if err != nil {
		return nil, false, err
	}
	out, err = continued(m, next.Octets(h.cache.now()))
	return out, true, err
}

// source returns the unsteered answer to k from the local sources, the cache or the upstreams, and whether it is
// local.
func (h *resolverHandler) source(ctx context.Context, set *settings, k *wire.Key, q *query) (p *wire.Response, local bool, err error) {
	if p, ok := h.local(set, k, q); ok {
		return p, true, nil
	}
	p, err = h.fetch(ctx, set, k)
	return p, false, err
}

// dangling reports whether p, the reply of a local source, ends with a CNAME whose target it does not have.
func endsWithCNAME(p *wire.Response) bool {
	m, err := p.Parse()
	return err == nil && dangling(m) != ""
}

// dangling returns the target of the CNAME that m ends with, in lower case, or "": it has what was asked for, or says
// that there is none.
func dangling(m *wire.Message) string {
	answer := m.Sections[wire.AnswerSection]
	if len(answer) == 0 || m.Rcode() != dns.RcodeSuccess || len(m.Sections[wire.AuthoritySection]) > 0 {
		return ""
	}
	if last := &answer[len(answer)-1]; last.Type == dns.TypeCNAME && m.Type() != dns.TypeCNAME && m.Type() != dns.TypeANY {
		return last.Target()
	}
	return ""
}

// continued returns m with the records and the RCODE of rest, the reply to its last name.
func continued(m *wire.Message, rest []byte) ([]byte, error) {
	next, err := wire.ParseMessage(rest)
	if err != nil {
		return nil, err
	}
	for section, rrs := range next.Sections {
		m.Sections[section] = append(m.Sections[section], rrs...)
	}
	m.Header[2] &^= wire.FlagAA
	m.Header[3] = m.Header[3]&^(0xf|wire.FlagAD) | next.Header[3]&0xf
	return m.Pack()
}
