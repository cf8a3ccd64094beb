package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/steer"
)

// resolve returns the response to a query from the cache or the upstreams, steered if its client is to see that.
func (f *forwarder) resolve(ctx context.Context, d *decision, q *query) (*wire.Response, error) {
	set, k := d.settings, &d.asked.Key
	if d.view == viewRaw {
		return f.fetch(ctx, set, k)
	}
	client := query{client: q.client, local: q.local, transport: q.transport} // the flight may outlive q
	return f.flights.do(ctx, flightName(set.gen, d.view, k), func(ctx context.Context) (*wire.Response, error) {
		return f.steer(ctx, set, k, &client)
	})
}

// fetch returns the unsteered response to k from the cache or the upstreams. k must not change any more: a flight may
// outlive the call.
func (f *forwarder) fetch(ctx context.Context, set *settings, k *wire.Key) (*wire.Response, error) {
	if p := f.cache.raw(k, set.gen, f.cache.now()); p != nil {
		return p, nil
	}
	return f.flights.do(ctx, flightName(set.gen, viewRaw, k), func(ctx context.Context) (*wire.Response, error) {
		p, err := set.upstreams.Resolve(ctx, k)
		switch {
		case err == nil:
		case ctx.Err() == context.Canceled: // nobody waits, so that it may not even have been asked
			return nil, err
		default:
			p = wire.Failure(k, edeOf(err), unansweredTTL, f.cache.now())
		}
		f.cache.insert(k, set.gen, p)
		return p, nil
	})
}

// steer returns what clients that may use the relay get as the response to k, and has the cache keep it.
func (f *forwarder) steer(ctx context.Context, set *settings, k *wire.Key, q *query) (*wire.Response, error) {
	raw, err := f.fetch(ctx, set, k)
	if err != nil {
		return nil, err
	}
	now := f.cache.now()
	until := now + int64(set.steering.MaxTTL())
	if raw.Rcode() != dns.RcodeSuccess {
		f.cache.insertSteered(k, set.gen, raw, nil, until)
		return raw, nil
	}
	out, v, err := f.applySteering(ctx, set, k.Flags, q, raw.Octets(now))
	if err != nil {
		return nil, err
	}
	if v == steer.Untouched {
		f.cache.insertSteered(k, set.gen, raw, nil, until)
		return raw, nil
	}
	p, err := wire.NewResponse(out, k, now)
	if err != nil {
		return nil, err
	}
	p.EDE, p.Rewritten = raw.EDE, v == steer.Steered
	f.cache.insertSteered(k, set.gen, raw, p, min(until, now+int64(p.TTL)*int64(time.Second)))
	return p, nil
}

// applySteering steers, and counts what failed.
func (f *forwarder) applySteering(ctx context.Context, set *settings, flags uint8, q *query, octets []byte) ([]byte, steer.Verdict, error) {
	out, v, err := set.steering.Apply(ctx, octets, f.lookupFor(set, flags, q))
	if v == steer.Passed || errors.Is(err, steer.ErrRelayFailed) {
		f.steerFailed.Add(1)
	}
	return out, v, err
}

// lookupFor returns the lookup for what steering the response to the client of q depends on. It does not steer, so that
// nothing goes in circles, and takes DO and CD over, so that what it finds serves the client's own question as well.
func (f *forwarder) lookupFor(set *settings, flags uint8, q *query) steer.Lookup {
	return func(ctx context.Context, name string, qtype uint16) ([]byte, error) {
		k, err := wire.NewKey(name, qtype, flags)
		if err != nil {
			return nil, err
		}
		p, local, err := f.source(ctx, set, k, q)
		if err != nil {
			return nil, err
		}
		octets := p.Octets(f.cache.now())
		if local {
			octets, _, err = f.follow(ctx, set, flags, q, octets)
		}
		return octets, err
	}
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
		uint16(wire.EDENotReady), uint16(wire.EDEProhibited), uint16(wire.EDENotAuthoritative), uint16(wire.EDENoReachable),
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
