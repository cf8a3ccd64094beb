package resolver

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/steer"
	"github.com/cfrd-project/cfrd/resolver/upstream"
)

// settings is a generation of Settings, ready for use. It is never changed.
type settings struct {
	gen       uint32
	clients   *prefixSet
	local     []Local
	public    public
	upstreams *upstream.Pool
	steering  *steering // or nil
}

// steering is a Steering, ready for use.
type steering struct {
	*steer.Steerer
	clients *prefixSet // whose responses are steered
}

// newSettings validates set. What old, which may be nil, knows of upstreams and targets is carried over.
func (f *forwarder) newSettings(set *Settings, old *settings) (*settings, error) {
	clients, err := newPrefixSet(set.Clients)
	if err != nil {
		return nil, fmt.Errorf("clients: %w", err)
	}
	s := &settings{gen: 1, clients: clients, local: set.Local}
	if old != nil {
		s.gen = old.gen + 1
	}
	if s.public, err = newPublic(set.Public); err != nil {
		return nil, err
	}
	if set.Public != nil {
		s.local = append([]Local{set.Public.Local}, s.local...)
	}
	if s.steering, err = f.newSteering(set.Steering, old); err != nil {
		return nil, fmt.Errorf("steering: %w", err)
	}
	var before *upstream.Pool
	if old != nil {
		before = old.upstreams
	}
	s.upstreams, err = f.upstreams.Pool(set.Upstreams, before)
	return s, err
}

// public is a Public, ready for use.
type public struct {
	name  []byte // in wire form and lower case; nil if there is none
	local Local
}

func newPublic(p *Public) (public, error) {
	if p == nil {
		return public{}, nil
	}
	k, err := wire.NewKey(p.Name, 0, 0)
	if err != nil || p.Local == nil {
		return public{}, fmt.Errorf("public name %q cannot be answered", p.Name)
	}
	return public{k.Name(), p.Local}, nil
}

// claims reports whether a question of anybody is answered.
func (p public) claims(k *wire.Key) bool { return p.name != nil && bytes.Equal(k.Name(), p.name) }

// localFor returns the sources that answer client.
func (s *settings) localFor(client netip.Addr) []Local {
	if s.clients.contains(client) || s.public.local == nil {
		return s.local
	}
	return []Local{s.public.local}
}

// newSteering validates s, which may be nil, and carries over from old, which may be nil too, which names are targets.
func (f *forwarder) newSteering(s *Steering, old *settings) (*steering, error) {
	if s == nil {
		return nil, nil
	}
	var before *steer.Steerer
	if old != nil && old.steering != nil {
		before = old.steering.Steerer
	}
	c := steer.Config{Policy: s.Policy, Relay: s.Relay, MaxTTL: s.MaxTTL, Hints: s.Hints, OnFailure: s.OnFailure}
	st, err := steer.New(c, before, f.cache.unsteer)
	if err != nil {
		return nil, err
	}
	out := &steering{Steerer: st}
	out.clients, err = newPrefixSet(s.Clients)
	return out, err
}

// view returns what the client of r is to see. See RFC 6147, Section 5.5, for DO and CD: who sets both validates and
// must get what was signed.
func (s *settings) view(client netip.Addr, r *wire.Query) view {
	st := s.steering
	if st == nil || r.Key.Flags == wire.DO|wire.CD || !st.clients.contains(client) {
		return viewRaw
	}
	if st.Healthy() {
		return viewSteered
	}
	return viewDown
}
