package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// settings is a generation of Settings, ready for use. It is never changed.
type settings struct {
	gen       uint32
	clients   *prefixSet
	local     []Local
	public    public
	upstreams pool
	steering  *steering // or nil
}

// steering is a Steering, ready for use.
type steering struct {
	steerer
	clients *prefixSet // whose answers are steered
	recheck time.Duration
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
	k, err := newKey(p.Name, 0, 0)
	if err != nil || p.Local == nil {
		return public{}, fmt.Errorf("public name %q cannot be answered", p.Name)
	}
	return public{k.name(), p.Local}, nil
}

// claims reports whether a question of anybody is answered.
func (p public) claims(k *key) bool { return p.name != nil && k.n > 4 && bytes.Equal(k.name(), p.name) }

// localFor returns the sources that answer client.
func (s *settings) localFor(client netip.Addr) []Local {
	if s.clients.contains(client) || s.public.local == nil {
		return s.local
	}
	return []Local{s.public.local}
}

// newSteering validates s, which may be nil, and carries over from old, which may be nil too, what was learnt.
func (h *resolverHandler) newSteering(s *Steering, old *settings) (*steering, error) {
	if s == nil {
		return nil, nil
	}
	if s.Policy == nil || s.Relay == nil {
		return nil, errors.New("needs a policy and a relay")
	}
	if s.MaxTTL < 0 {
		return nil, fmt.Errorf("negative maximum TTL %s", s.MaxTTL)
	}
	out := &steering{steerer: steerer{*s, new(targets), h.cache.unsteer}, recheck: s.MaxTTL}
	if old != nil && old.steering != nil {
		out.targets = old.steering.targets
	}
	if out.recheck == 0 {
		out.recheck = DefaultSteerTTL
	}
	var err error
	out.clients, err = newPrefixSet(s.Clients)
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
func (s *settings) view(client netip.Addr, r *request) view {
	st := s.steering
	if st == nil || r.key.flags == keyDO|keyCD || !st.clients.contains(client) {
		return viewRaw
	}
	if st.Relay.Healthy() {
		return viewSteered
	}
	return viewDown
}
