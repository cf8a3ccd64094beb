package resolver

import (
	"context"

	"github.com/miekg/dns"
)

// complete returns the reply p of a local source, or if that ends with a CNAME, p and what the target has: stub
// resolvers expect the whole chain. See RFC 1034, Section 5.2.2. It is steered like any answer of an upstream, by all
// names of the chain.
func (h *resolverHandler) complete(ctx context.Context, set *settings, r *request, q *query, p *reply) (*reply, error) {
	now := h.cache.now()
	wire, done, err := h.follow(ctx, set, r.key.flags, q, p.wire(now))
	if err != nil || !done {
		return p, err
	}
	v := untouched
	if set.view(q.client.Addr(), r) != viewRaw {
		if wire, v, err = h.applySteering(ctx, set, r.key.flags, q, wire); err != nil {
			return nil, err
		}
	}
	if p, err = newReply(wire, &r.key, now); err != nil {
		return nil, err
	}
	p.steered = v == steered
	return p, nil
}

// follow appends to wire, the reply of a local source, what the target of the CNAME has that it ends with, if it ends
// with one. What that target is in turn is the upstream's to know, so that nothing goes in circles.
func (h *resolverHandler) follow(
	ctx context.Context, set *settings, flags uint8, q *query, wire []byte,
) (out []byte, done bool, err error) {
	m, err := parseReply(wire)
	if err != nil {
		return nil, false, err
	}
	target := dangling(m)
	if target == "" {
		return wire, false, nil
	}
	k, err := newKey(target, m.qtype(), flags)
	if err != nil {
		return nil, false, err
	}
	next, _, err := h.source(ctx, set, k, q)
	if err != nil {
		return nil, false, err
	}
	out, err = continued(m, next.wire(h.cache.now()))
	return out, true, err
}

// source returns the unsteered answer to k from the local sources, the cache or the upstreams, and whether it is
// local.
func (h *resolverHandler) source(ctx context.Context, set *settings, k *key, q *query) (p *reply, local bool, err error) {
	if p, ok := h.local(set, k, q); ok {
		return p, true, nil
	}
	p, err = h.fetch(ctx, set, k)
	return p, false, err
}

// dangling reports whether p, the reply of a local source, ends with a CNAME whose target it does not have.
func endsWithCNAME(p *reply) bool {
	m, err := parseReply(p.msg)
	return err == nil && dangling(m) != ""
}

// dangling returns the target of the CNAME that m ends with, in lower case, or "": it has what was asked for, or says
// that there is none.
func dangling(m *message) string {
	answer := m.sections[inAnswer]
	if len(answer) == 0 || m.rcode() != dns.RcodeSuccess || len(m.sections[inAuthority]) > 0 {
		return ""
	}
	if last := &answer[len(answer)-1]; last.typ == dns.TypeCNAME && m.qtype() != dns.TypeCNAME && m.qtype() != dns.TypeANY {
		return last.target()
	}
	return ""
}

// continued returns m with the records and the RCODE of rest, the reply to its last name.
func continued(m *message, rest []byte) ([]byte, error) {
	next, err := parseReply(rest)
	if err != nil {
		return nil, err
	}
	for section, rrs := range next.sections {
		m.sections[section] = append(m.sections[section], rrs...)
	}
	m.header[2] &^= flagAA
	m.header[3] = m.header[3]&^(0xf|flagAD) | next.header[3]&0xf
	return m.pack()
}
