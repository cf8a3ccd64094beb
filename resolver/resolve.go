package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/steer"
	"github.com/cfrd-project/cfrd/resolver/upstream"
)

// resolve returns the response to a query from the cache or the upstreams, steered if its client is to see that.
func (f *forwarder) resolve(ctx context.Context, d *decision, q *query) (*wire.Response, error) {
	set, k := d.settings, &d.asked.Key
	if d.view == viewRaw {
		return f.fetch(ctx, set, k, customer(q.client.Addr()))
	}
	client := query{client: q.client, local: q.local, transport: q.transport} // the flight may outlive q
	if d.led != nil {
		return f.steerAlone(ctx, d, &client)
	}
	p, err := f.flights.do(ctx, flightName(set.gen, d.view, k), func(ctx context.Context) (*wire.Response, error) {
		return f.steer(ctx, set, k, &client)
	})
	var refused *refusedError
	switch {
	case !errors.As(err, &refused):
		return p, err
	case refused.client != q.client.Addr(): // somebody else has had too many relay addresses
		return f.steerAlone(ctx, d, &client)
	}
	return refused.response, refused.cause
}

// refusedError is the end of a flight whose result is only for the client that it was begun for: response or cause.
type refusedError struct {
	client   netip.Addr
	response *wire.Response
	cause    error
}

func (e *refusedError) Error() string { return steer.ErrRefused.Error() }

// customer is whose questions share a part of what may wait for upstreams: an IPv4 address, or a /56, since one customer
// has that much in IPv6 as a rule. See RFC 6177.
func customer(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return addr
	}
	p, err := addr.WithZone("").Prefix(56)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}

// fetch returns the unsteered response to k from the cache or the upstreams, on behalf of client, which is a customer. k
// must not change any more: a flight may outlive the call.
func (f *forwarder) fetch(ctx context.Context, set *settings, k *wire.Key, client netip.Addr) (*wire.Response, error) {
	if p := f.cache.raw(k, set.gen, set.ttls, f.cache.now()); p != nil {
		return p, nil
	}
	return f.flights.do(ctx, flightName(set.gen, viewRaw, k), func(ctx context.Context) (*wire.Response, error) {
		p, err := set.upstreams.Resolve(ctx, k, client)
		if err == nil && p.Alias != nil {
			p, err = f.chase(ctx, set, k, p, client)
		}
		switch {
		case err == nil:
			p.Bound(set.ttls)
		case ctx.Err() == context.Canceled, errors.Is(err, upstream.ErrBusy): // it may not even have been asked
			return nil, err
		default:
			p = wire.Failure(k, edeOf(err), unansweredTTL, f.cache.now())
		}
		f.cache.insert(k, set.gen, p)
		return p, nil
	})
}

// maxChase bounds the questions for the rest of one response.
const maxChase = 8

// errChase means that a chain of aliases does not end.
var errChase = fmt.Errorf("%w: the chain of aliases does not end", wire.ErrMalformed)

// chase returns the whole response to k: p, which ends with an alias, and what upstreams have for its target. Stub
// resolvers expect the whole chain. See RFC 1034, Section 5.2.2.
func (f *forwarder) chase(
	ctx context.Context, set *settings, k *wire.Key, p *wire.Response, client netip.Addr,
) (*wire.Response, error) {
	for range maxChase {
		next, err := f.target(ctx, set, p.Alias, client)
		if err != nil {
			return nil, err
		}
		now := f.cache.now()
		if rcode := next.Rcode(); rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
			failure := wire.Failure(k, next.EDE, wire.FailureTTL, now)
			failure.Text = next.Text
			return failure, nil
		}
		if p, err = p.Join(next, k, now); err != nil || p.Alias == nil {
			return p, err
		}
	}
	return nil, errChase
}

// target returns the response to k, the target of an alias, from the cache or the upstreams. It does not wait for other
// aliases, so that nobody waits in a circle: what it returns may be partial as well.
func (f *forwarder) target(ctx context.Context, set *settings, k *wire.Key, client netip.Addr) (*wire.Response, error) {
	if p := f.cache.raw(k, 0, set.ttls, f.cache.now()); p != nil {
		return p, nil
	}
	return f.flights.do(ctx, flightName(set.gen, viewTarget, k), func(ctx context.Context) (*wire.Response, error) {
		return set.upstreams.Resolve(ctx, k, client)
	})
}

// steer returns what clients that may use the relay get as the response to k, and has the cache keep it.
func (f *forwarder) steer(ctx context.Context, set *settings, k *wire.Key, q *query) (*wire.Response, error) {
	l := f.lookAhead(ctx, set, k, q)
	defer l.close()
	raw, err := f.fetch(ctx, set, k, customer(q.client.Addr()))
	if err != nil {
		return nil, err
	}
	now := f.cache.now()
	until := now + int64(set.steering.MaxTTL())
	if raw.Rcode() != dns.RcodeSuccess {
		f.cache.insertSteered(k, set.gen, raw, nil, until)
		return raw, nil
	}
	for range maxDecisions {
		res, err := f.applySteering(ctx, l, steer.Request{Response: raw.Octets(now)})
		if errors.Is(err, steer.ErrRefused) {
			return nil, &refusedError{client: q.client.Addr(), cause: err}
		}
		if err != nil {
			return nil, err
		}
		p, err := steeredResponse(set, &res, raw, k, now)
		if err != nil {
			return nil, err
		}
		if res.Refused {
			return nil, &refusedError{client: q.client.Addr(), response: p}
		}
		if p == raw {
			f.cache.insertSteered(k, set.gen, raw, nil, until)
		} else {
			f.cache.insertSteered(k, set.gen, raw, p, min(until, now+int64(p.TTL)*int64(time.Second)))
		}
		// What becomes known from now on takes the decision out of the cache by itself.
		if !set.steering.Outdated(&res) {
			return p, nil
		}
		f.cache.insertSteered(k, set.gen, raw, nil, 0)
	}
	return wire.Failure(k, wire.EDENotReady, 0, now), nil
}

// maxDecisions bounds how often a response is steered anew because what it depends on changed meanwhile.
const maxDecisions = 3

// steerAlone returns what the client of q gets as the response to the question of d, which no other client gets.
func (f *forwarder) steerAlone(ctx context.Context, d *decision, q *query) (*wire.Response, error) {
	set, k := d.settings, &d.asked.Key
	l := f.lookAhead(ctx, set, k, q)
	defer l.close()
	raw, err := f.fetch(ctx, set, k, customer(q.client.Addr()))
	if err != nil || raw.Rcode() != dns.RcodeSuccess {
		return raw, err
	}
	now := f.cache.now()
	res, err := f.applySteering(ctx, l, steer.Request{Response: raw.Octets(now), Led: d.led})
	if err != nil {
		return nil, err
	}
	return steeredResponse(set, &res, raw, k, now)
}

// applySteering does the work of r for the client of l, and counts what failed.
func (f *forwarder) applySteering(ctx context.Context, l *lookups, r steer.Request) (steer.Result, error) {
	r.Lookup, r.Client = l.lookup(), l.q.client.Addr()
	res, err := l.set.steering.Apply(ctx, r)
	if res.Verdict == steer.Passed || errors.Is(err, steer.ErrRelayFailed) {
		f.steerFailed.Add(1)
	}
	return res, err
}

// steeredResponse makes a response of what steering made of raw, which is the response to k and may be nil. It is raw
// itself if nothing came of it.
func steeredResponse(set *settings, res *steer.Result, raw *wire.Response, k *wire.Key, now int64) (*wire.Response, error) {
	if raw != nil && res.Verdict == steer.Untouched && len(res.Leads) == 0 {
		return raw, nil
	}
	p, err := wire.NewResponse(res.Octets, k, now)
	if err != nil {
		return nil, err
	}
	p.Rewritten = res.Verdict == steer.Steered
	if raw != nil {
		p.EDE = raw.EDE
	}
	if res.Cut && p.EDE == wire.NoEDE {
		p.EDE = wire.EDEOther
	}
	if leads := res.Leads; len(leads) > 0 {
		p.Given = func(client netip.Addr, age uint32) bool { return set.steering.Give(client, leads, age) }
		p.GivenSize = res.LeadsSize()
	}
	return p, nil
}

// flightName returns the name under which the work for a question is shared.
func flightName(gen uint32, v view, k *wire.Key) string {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 6+len(k.Bytes())), gen)
	return string(append(append(b, byte(v), k.Flags), k.Bytes()...))
}

// unansweredTTL, in seconds, keeps a question that no upstream answered from being asked again by every retry. It is
// shorter than that for a failure that an upstream has stated, because it ends when an upstream is back. See RFC 9520,
// Section 3.2.
const unansweredTTL = 1

// ExtendedErrors returns the info-codes that a Server says of itself; upstreams may say others. See RFC 9606, Section 5.
func ExtendedErrors() []uint16 {
	return []uint16{
		uint16(wire.EDEOther), uint16(wire.EDENotReady), uint16(wire.EDEProhibited), uint16(wire.EDENotAuthoritative), uint16(wire.EDENoReachable),
		uint16(wire.EDENetwork), uint16(wire.EDEInvalidData), uint16(wire.EDEInvalidType),
	}
}

// edeOf returns the Extended DNS Error that says why there is no response: err.
func edeOf(err error) wire.EDE {
	var network net.Error
	switch {
	case errors.Is(err, steer.ErrRelayFailed):
		return wire.EDENotReady
	case errors.Is(err, wire.ErrMalformed):
		return wire.EDEInvalidData
	case errors.As(err, &network) && !network.Timeout():
		return wire.EDENetwork
	}
	return wire.EDENoReachable
}
