package resolver

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"

	"github.com/cfrd-project/cfrd/resolver/steer"
)

// settings is a generation of Settings, ready for use. It is never changed.
type settings struct {
	gen       uint32
	clients   prefixSet
	local     []Local
	public    public
	upstreams pool
	steering  *steering // or nil
}

// steering is a Steering, ready for use.
type steering struct {
	*steer.Steerer
	clients prefixSet // nil: whoever may ask
}

// newSettings validates set. Upstreams that are in old as well, which may be nil, are carried over with their
// connections and what is known about their health.
func (h *resolverHandler) newSettings(set *Settings, old *settings) (*settings, error) {
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
	if s.steering, err = h.newSteering(set.Steering, old); err != nil {
		return nil, fmt.Errorf("steering: %w", err)
	}
	for _, c := range set.Upstreams {
		if s.upstream(c) != nil {
			return nil, fmt.Errorf("upstream %s is there twice", c.Addr)
		}
		u := old.upstream(c)
		if u == nil {
			if u, err = newUpstream(c, &h.tasks, h.log); err != nil {
				return nil, err
			}
		}
		s.upstreams = append(s.upstreams, u)
	}
	return s, nil
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
func (h *resolverHandler) newSteering(s *Steering, old *settings) (*steering, error) {
	if s == nil {
		return nil, nil
	}
	var before *steer.Steerer
	if old != nil && old.steering != nil {
		before = old.steering.Steerer
	}
	c := steer.Config{Policy: s.Policy, Relay: s.Relay, MaxTTL: s.MaxTTL, Hints: s.Hints, OnFailure: s.OnFailure}
	st, err := steer.New(c, before, h.cache.unsteer)
	if err != nil {
		return nil, err
	}
	out := &steering{Steerer: st}
	if len(s.Clients) > 0 {
		out.clients, err = newPrefixSet(s.Clients)
	}
	return out, err
}

// upstream returns the upstream of s, which may be nil, that c describes, or nil.
func (s *settings) upstream(c Upstream) *upstream {
	if s == nil {
		return nil
	}
	for _, u := range s.upstreams {
		if u.config.equal(c) {
			return u
		}
	}
	return nil
}

// equal reports whether a and b are the same resolver, asked in the same way.
func (a Upstream) equal(b Upstream) bool {
	return a.Protocol == b.Protocol && a.Addr == b.Addr && a.Name == b.Name && a.RootCAs.Equal(b.RootCAs)
}

// retire lets go of the upstreams that next does not have.
func (s *settings) retire(next *settings) {
	for _, u := range s.upstreams {
		if next.upstream(u.config) == nil {
			u.retire()
		}
	}
}

// view returns what the client of r is to see. See RFC 6147, Section 5.5, for DO and CD: who sets both validates and
// must get what was signed.
func (s *settings) view(client netip.Addr, r *wire.Query) view {
	st := s.steering
	if st == nil || r.Key.Flags == wire.DO|wire.CD || st.clients != nil && !st.clients.contains(client) {
		return viewRaw
	}
	if st.Healthy() {
		return viewSteered
	}
	return viewDown
}
