package serverconf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
)

// Plan is what a network hands out, from which the configurations of servers are made.
type Plan struct {
	// set once by NewPlan
	v4, v6   []svcb.Resolver // with addresses of one family, in order of preference
	lifetime time.Duration
}

// NewPlan checks that resolvers can be handed out in a form that all known clients accept. The lifetime is that of
// options in Router Advertisements; see dnr.EncodeRA.
func NewPlan(resolvers []svcb.Resolver, lifetime time.Duration) (*Plan, error) {
	p := &Plan{lifetime: lifetime}
	for _, r := range resolvers {
		for _, f := range []dnr.Form{dnr.DHCPv4, dnr.DHCPv6} {
			in, err := dnr.NewInstance(r, f)
			if errors.Is(err, dnr.ErrNoAddress) {
				continue
			}
			if err != nil {
				return nil, err
			}
			p.Add(f, in.Resolver())
		}
	}
	if len(p.v4)+len(p.v6) == 0 {
		return nil, fmt.Errorf("%w: %d resolvers", dnr.ErrNoAddress, len(resolvers))
	}
	if _, err := dnr.EncodeDHCPv4(p.v4); err != nil && len(p.v4) > 0 {
		return nil, err
	}
	for _, r := range p.v6 {
		if _, err := dnr.EncodeRA(r, lifetime); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Plan) Add(f dnr.Form, r svcb.Resolver) {
	if f == dnr.DHCPv4 {
		p.v4 = append(p.v4, r)
		return
	}
	p.v6 = append(p.v6, r)
}

// fit returns resolvers that option 162 holds in limit octets, and those that are dropped for that. DoQ is dropped
// first, because no client is known that uses it from a network. If that is not enough, as many transports as possible
// share one instance.
func fit(resolvers []svcb.Resolver, limit int) (keep, dropped []svcb.Resolver) {
	if length4(resolvers) <= limit {
		return resolvers, nil
	}
	for _, r := range resolvers {
		if slices.Equal(r.ALPN, []string{"doq"}) {
			dropped = append(dropped, r)
			continue
		}
		keep = append(keep, r)
	}
	if length4(keep) <= limit {
		return keep, dropped
	}
	one, left := combine(resolvers)
	if keep = []svcb.Resolver{one}; length4(keep) <= limit {
		return keep, left
	}
	return nil, resolvers
}

// length4 returns how many octets the resolvers take in option 162, which has those with IPv4 addresses.
func length4(resolvers []svcb.Resolver) (n int) {
	for _, r := range resolvers {
		data, _ := dnr.EncodeDHCPv4([]svcb.Resolver{r})
		n += len(data)
	}
	return n
}

// combine makes one resolver of as many as possible, for servers that send the option once, and returns those left
// over. Transports go together if they are at the same addresses and on the same port, or each on its default one. If
// there are several such groups, it chooses the one with the transports that most clients use from a network.
func combine(resolvers []svcb.Resolver) (one svcb.Resolver, left []svcb.Resolver) {
	var best svcb.Resolver
	for _, seed := range resolvers {
		r := seed
		r.ALPN = nil
		for _, o := range resolvers {
			if joins(r, o) {
				r = absorb(r, o)
			}
		}
		if usefulness(r) > usefulness(best) {
			best = r
		}
	}
	for _, r := range resolvers {
		if !slices.Contains(best.ALPN, r.ALPN[0]) || !joins(best, r) {
			left = append(left, r)
		}
	}
	return best, left
}

// joins reports whether one instance can carry both r and o.
func joins(r, o svcb.Resolver) bool {
	return r.Name == o.Name && r.Port == o.Port && slices.Equal(r.Addresses, o.Addresses) &&
		(r.DoHPath == "" || o.DoHPath == "" || r.DoHPath == o.DoHPath)
}

// absorb returns r with the transports of o added.
func absorb(r, o svcb.Resolver) svcb.Resolver {
	for _, id := range o.ALPN {
		if !slices.Contains(r.ALPN, id) {
			r.ALPN = append(r.ALPN, id)
		}
	}
	r.Priority = min(r.Priority, o.Priority)
	if r.DoHPath == "" {
		r.DoHPath = o.DoHPath
	}
	return r
}

// usefulness ranks a resolver by what clients use from a network: systemd only DoT, others DoH.
func usefulness(r svcb.Resolver) (n int) {
	for _, id := range r.ALPN {
		switch id {
		case "dot":
			n += 8
		case "doq":
			n++
		default:
			n += 2
		}
	}
	return n
}

// transports lists the protocols and ports of resolvers, such as "h2,h3 and dot on port 8853".
func transports(resolvers []svcb.Resolver) string {
	words := make([]string, len(resolvers))
	for i, r := range resolvers {
		words[i] = strings.Join(r.ALPN, ",")
		if r.Port != 0 {
			words[i] += fmt.Sprintf(" on port %d", r.Port)
		}
	}
	return strings.Join(words, " and ")
}
