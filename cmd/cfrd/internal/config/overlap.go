package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cfrd-project/cfrd/relay"
)

// keyedPrefix is a configured prefix.
type keyedPrefix struct {
	key    string
	prefix netip.Prefix
}

func (k keyedPrefix) String() string { return fmt.Sprintf("%s (%s)", k.prefix, k.key) }

// keyedPrefixes returns the prefixes of the list at key.
func keyedPrefixes(key string, ps []netip.Prefix) []keyedPrefix {
	list := make([]keyedPrefix, len(ps))
	for i, p := range ps {
		list[i] = keyedPrefix{fmt.Sprintf("%s[%d]", key, i), p}
	}
	return list
}

// overlap returns the first of others that shares an address with p.
func overlap(p netip.Prefix, others []keyedPrefix) (keyedPrefix, bool) {
	i := slices.IndexFunc(others, func(o keyedPrefix) bool { return o.prefix.Overlaps(p) })
	if i < 0 {
		return keyedPrefix{}, false
	}
	return others[i], true
}

// checkAddressMap checks the two ways in which relay addresses stand for destinations.
func (v *validator) checkAddressMap() {
	if s := v.Relay.Sealed; s.Used() {
		if !s.Prefix.IsValid() {
			v.bad("relay.sealed.prefix", "missing: the IPv6 /64 of the relay addresses, such as 2001:db8:cf::/64")
		}
		if s.KeyFile == "" {
			v.bad("relay.sealed.key_file", "missing: make one with `cfrd config init --with-key`")
		}
	}
	if v.Relay.Table.Used() {
		v.checkTable()
	}
	cfg := v.AddressMap(nil)
	v.refusedBelow("relay", cfg.Validate())
}

// checkTable checks relay.table, which is written.
func (v *validator) checkTable() {
	t := v.Relay.Table
	if v.mode != ModeAll {
		v.bad("relay.table", "leases are known on one host only: with --mode %s use relay.sealed instead", v.mode)
		return
	}
	if len(t.Prefixes) == 0 {
		v.bad("relay.table.prefixes", "missing: the prefixes of the relay addresses, such as [10.99.0.0/16]")
	}
	if t.Store == "" {
		v.bad("relay.table.store", "missing: the file that keeps leases across restarts, such as leases.db")
	}
}

// checkRelay checks what only the process that relays needs.
func (v *validator) checkRelay() {
	if !v.Relays() {
		v.bad("relay", "has no relay addresses: add relay.sealed or relay.table")
	}
	if len(v.Relay.Ports) == 0 {
		v.bad("relay.ports", "missing: the ports to relay, such as [443, 80]")
	}
	for i, p := range v.Relay.Ports {
		if slices.Contains(v.Relay.Ports[:i], p) {
			v.bad(fmt.Sprintf("relay.ports[%d]", i), "%d is listed twice", p)
		}
	}
	if len(v.relayClients()) == 0 {
		v.bad("relay.clients", "missing: the prefixes that may use the relay; by default those of clients")
	}
	v.warnOpen("relay.clients", v.Relay.Clients)
	v.refusedBelow("relay.limits", relay.Limits(v.Relay.Limits).Validate())
	v.checkEgress()
}

// checkEgress makes sure that every family of destinations can be reached.
func (v *validator) checkEgress() {
	need4 := v.Relay.Sealed.Used() || slices.ContainsFunc(v.Relay.Table.Prefixes, isV4)
	need6 := slices.ContainsFunc(v.Relay.Table.Prefixes, isV6)
	lacks4 := need4 && !slices.ContainsFunc(v.Relay.Egress, isV4)
	lacks6 := need6 && !slices.ContainsFunc(v.Relay.Egress, isV6)
	switch {
	case lacks4 && lacks6:
		v.bad("relay.egress", "missing: the prefixes to send from, such as [192.0.2.64/28, 2001:db8:e::/64]")
	case lacks4:
		v.bad("relay.egress", "has no IPv4 prefix, but IPv4 destinations are relayed: add one, such as 192.0.2.64/28")
	case lacks6:
		v.bad("relay.egress", "has no IPv6 prefix, but IPv6 destinations are relayed: add one, such as 2001:db8:e::/64")
	}
	for i, e := range keyedPrefixes("relay.egress", v.Relay.Egress) {
		if other, ok := overlap(e.prefix, keyedPrefixes("relay.egress", v.Relay.Egress[:i])); ok {
			v.bad(e.key, "%s overlaps %s: every source address is to be drawn equally often", e.prefix, other)
		}
	}
}

// RelayRanges returns the prefixes of relay addresses.
func (c *Config) RelayRanges() []netip.Prefix {
	var list []netip.Prefix
	for _, p := range c.relayPrefixes() {
		list = append(list, p.prefix)
	}
	return list
}

// isV4 and isV6 report the family of a prefix.
func isV4(p netip.Prefix) bool { return p.Addr().Is4() }
func isV6(p netip.Prefix) bool { return p.Addr().Is6() }

// checkPortsShared finds wildcard listeners. On a port that the relay serves, both would have to be bound to all
// addresses; on others, they answer where nobody expects it.
func (v *validator) checkPortsShared() {
	for _, l := range v.listeners() {
		switch {
		case !l.addr.Addr().IsUnspecified():
		case slices.Contains(v.Relay.Ports, l.addr.Port()):
			v.bad(l.key, "%s takes port %d of every address, which relay.ports needs: list the addresses to listen on",
				l.addr, l.addr.Port())
		default:
			v.warn("%s: %s answers at every relay and egress address as well: list the addresses to listen on", l.key, l.addr)
		}
	}
}

// checkRelayPrefixes makes sure that relay addresses are nothing else.
func (v *validator) checkRelayPrefixes() {
	for _, p := range v.relayPrefixes() {
		if other, ok := overlap(p.prefix, keyedPrefixes("relay.egress", v.Relay.Egress)); ok {
			v.bad(other.key, "%s overlaps %s: source addresses must not be relay addresses", other.prefix, p)
		}
		v.checkContained(p)
	}
}

// checkContained finds addresses of ours and of others that lie within a relay prefix.
func (v *validator) checkContained(p keyedPrefix) {
	clients := append(keyedPrefixes("clients", v.Clients), keyedPrefixes("relay.clients", v.Relay.Clients)...)
	for _, c := range clients {
		if p.prefix.Bits() <= c.prefix.Bits() && p.prefix.Contains(c.prefix.Addr()) {
			v.bad(c.key, "%s lies within %s: no client can have a relay address", c.prefix, p)
		}
	}
	for _, l := range v.listeners() {
		if p.prefix.Contains(l.addr.Addr().WithZone("")) {
			v.bad(l.key, "%s lies within %s: the relay answers there", l.addr.Addr(), p)
		}
	}
	for i, up := range v.Upstreams {
		if p.prefix.Contains(up.Addr.Addr()) {
			v.bad(fmt.Sprintf("upstreams[%d]", i), "%s lies within %s: the relay answers there", up.Addr.Addr(), p)
		}
	}
	for i, a := range v.DDR.Addresses {
		if p.prefix.Contains(a) {
			v.bad(fmt.Sprintf("ddr.addresses[%d]", i), "%s lies within %s: the relay answers there", a, p)
		}
	}
}
