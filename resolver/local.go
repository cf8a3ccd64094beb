package resolver

import (
	"context"
	"slices"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/steer"
)

// local returns the response of the first local source that has one to k, asked by the client of q.
func (f *forwarder) local(set *settings, k *wire.Key, q *query) (*wire.Response, bool) {
	sources := set.localFor(q.client.Addr())
	if len(sources) == 0 {
		return nil, false
	}
	name, _, err := dns.UnpackDomainName(k.Bytes(), 0)
	if err != nil {
		return nil, false
	}
	question := dns.Question{Name: name, Qtype: k.Type(), Qclass: dns.ClassINET}
	for _, l := range sources {
		m, ok := l.Answer(question, q.client.Addr().WithZone(""), q.local.Addr().WithZone(""))
		if ok {
			p, err := f.pack(k, m, question)
			if err != nil {
				f.log.Error().Err(err).Msg("local source gave an answer that cannot be sent")
				p = wire.Failure(k, wire.EDEInvalidData, 0, f.cache.now())
			}
			return p, true
		}
	}
	return nil, false
}

// pack brings the response of a local source into the form of all others.
func (f *forwarder) pack(k *wire.Key, m *dns.Msg, question dns.Question) (*wire.Response, error) {
	m.MsgHdr = dns.MsgHdr{Response: true, Authoritative: m.Authoritative, Rcode: m.Rcode}
	m.Question = []dns.Question{question}
	m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return wire.HopByHop(rr.Header().Rrtype) })
	m.Compress = true
	octets, err := m.Pack()
	if err != nil {
		return nil, err
	}
	p, err := wire.NewResponse(octets, k, f.cache.now())
	if err == nil && m.Authoritative {
		p.SetAuthoritative()
	}
	return p, err
}

// complete returns what a local source has for a query, which ends with a CNAME, together with what the target has: stub
// resolvers expect the whole chain. See RFC 1034, Section 5.2.2. It is steered like any response of an upstream, by all
// names of the chain.
func (f *forwarder) complete(ctx context.Context, d *decision, q *query) (*wire.Response, error) {
	now, k := f.cache.now(), &d.asked.Key
	octets, done, err := f.follow(ctx, d.settings, k.Flags, q, d.local.Octets(now))
	if err != nil || !done {
		return d.local, err
	}
	v := steer.Untouched
	if d.view != viewRaw {
		if octets, v, err = f.applySteering(ctx, d.settings, k.Flags, q, octets); err != nil {
			return nil, err
		}
	}
	p, err := wire.NewResponse(octets, k, now)
	if err != nil {
		return nil, err
	}
	p.Rewritten = v == steer.Steered
	return p, nil
}

// follow appends to octets, the response of a local source, what the target of the CNAME has that it ends with, if it ends
// with one. What that target is in turn is the upstream's to know, so that nothing goes in circles.
func (f *forwarder) follow(
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
	next, _, err := f.source(ctx, set, k, q)
	if err != nil {
		return nil, false, err
	}
	out, err = continued(m, next.Octets(f.cache.now()))
	return out, true, err
}

// source returns the unsteered response to k from the local sources, the cache or the upstreams, and whether it is
// local.
func (f *forwarder) source(ctx context.Context, set *settings, k *wire.Key, q *query) (p *wire.Response, local bool, err error) {
	if p, ok := f.local(set, k, q); ok {
		return p, true, nil
	}
	p, err = f.fetch(ctx, set, k)
	return p, false, err
}

// endsWithCNAME reports whether p, the response of a local source, ends with a CNAME whose target it does not have.
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

// continued returns m with the records and the RCODE of rest, the response to its last name.
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
