package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/relay/addrmap"
	"github.com/cfrd-project/cfrd/resolver"
)

// validator checks what no single value of a configuration shows: what is missing, overlaps, or cannot work together.
type validator struct {
	*Config
	problems *Problems
	mode     Mode
}

// validate checks what the services of the mode need.
func (v *validator) validate() {
	if v.mode.Resolves() {
		v.checkName()
		v.checkClients()
		v.checkListen()
		v.checkTLS()
		v.checkUpstreams()
		v.checkDDR()
		v.checkAnnounce()
		v.checkSteer()
	}
	v.checkAddressMap()
	if v.mode.Relays() && (v.mode == ModeRelay || v.Relays() || len(v.Relay.Ports) > 0 || len(v.Relay.Egress) > 0) {
		v.checkRelay()
		v.checkPortsShared()
	}
	v.checkRelayPrefixes()
}

// bad adds a problem, unless something is wrong with that key already.
func (v *validator) bad(key, format string, args ...any) {
	if !v.problems.has(key) {
		v.problems.Add(key, format, args...)
	}
}

// refused adds what the package that owns key says about its value, if anything.
func (v *validator) refused(key string, err error) {
	if err != nil {
		_, text, _ := strings.Cut(err.Error(), ": ") // behind the package's name
		v.bad(key, "%s", text)
	}
}

// refusedBelow adds what a package says about the keys of a section.
func (v *validator) refusedBelow(section string, err error) {
	for _, p := range ProblemsOf(err) {
		key := section
		if p.Key != "" {
			key = joinKey(section, p.Key)
		}
		if !v.problems.hasParent(key) {
			v.bad(key, "%s", p.Text)
		}
	}
}

// warn adds a warning, which keeps nothing from starting.
func (v *validator) warn(format string, args ...any) {
	v.Warnings = append(v.Warnings, fmt.Sprintf(format, args...))
}

// checkName checks the name of the resolver.
func (v *validator) checkName() {
	switch {
	case v.Name == "":
		v.bad("name", "missing: the name of the resolver that its certificate carries, such as dns.isp.example")
	case !IsHostname(v.Name):
		v.bad("name", "must be a host name such as dns.isp.example, not %q", v.Name)
	}
}

// checkClients makes sure that somebody is served, and warns if everybody is.
func (v *validator) checkClients() {
	if len(v.Clients) == 0 {
		v.bad("clients", "missing: the prefixes of your customers, such as [192.0.2.0/24]; nobody else is served")
	}
	v.warnOpen("clients", v.Clients)
}

// warnOpen warns of lists of clients that hold the whole Internet.
func (v *validator) warnOpen(key string, ps []netip.Prefix) {
	for _, p := range ps {
		if p.Bits() == 0 {
			v.warn("%s: %s lets everybody in: a resolver or relay that is open to the Internet will be abused", key, p)
		}
	}
}

// keyedAddr is a configured listen address.
type keyedAddr struct {
	key      string
	addr     netip.AddrPort
	tcp, udp bool
}

// listeners returns every listen address and what it takes of its port.
func (c *Config) listeners() (ls []keyedAddr) {
	add := func(key string, addrs []netip.AddrPort, tcp, udp bool) {
		for i, a := range addrs {
			ls = append(ls, keyedAddr{fmt.Sprintf("listen.%s[%d]", key, i), a, tcp, udp})
		}
	}
	add("do53", c.Listen.Do53, true, true)
	add("dot", c.Listen.DoT, true, false)
	add("doh", c.Listen.DoH, true, true)
	add("doq", c.Listen.DoQ, false, true)
	for _, a := range c.ChallengeListeners() {
		ls = append(ls, keyedAddr{"tls.acme.challenges", a, true, false})
	}
	if c.Listen.Admin.IsValid() {
		ls = append(ls, keyedAddr{"listen.admin", c.Listen.Admin, true, false})
	}
	return ls
}

// Encrypted reports whether there is a listener that needs a certificate.
func (c *Config) Encrypted() bool {
	return len(c.Listen.DoT)+len(c.Listen.DoH)+len(c.Listen.DoQ) > 0
}

// checkListen makes sure that there is a listener, and that no two take the same address.
func (v *validator) checkListen() {
	if len(v.Listen.Do53) == 0 && !v.Encrypted() {
		v.bad("listen", `missing: at least one address to answer at, such as do53: ["192.0.2.53:53"]`)
	}
	ls := v.listeners()
	for i, a := range ls {
		for _, b := range ls[:i] {
			if a.addr == b.addr && (a.tcp && b.tcp || a.udp && b.udp) {
				v.bad(a.key, "%s is taken by %s: give it another port or address", a.addr, b.key)
			}
		}
		if a.addr.Addr().IsMulticast() {
			v.bad(a.key, "%s is a multicast address: listen on an address of this host", a.addr.Addr())
		}
	}
}

// checkTLS makes sure that there is a certificate, from files or by ACME, where a listener needs one.
func (v *validator) checkTLS() {
	if v.TLS.ACME.Used() {
		v.checkACME()
		return
	}
	if (v.TLS.Certificate == "") != (v.TLS.Key == "") {
		missing := "tls.key"
		if v.TLS.Certificate == "" {
			missing = "tls.certificate"
		}
		v.bad(missing, "missing: tls.certificate and tls.key are PEM files that belong together")
	}
	if v.TLS.Certificate != "" || v.TLS.Key != "" {
		if !v.Encrypted() {
			v.warn("tls: not used, because none of listen.dot, listen.doh and listen.doq is set")
		}
		return
	}
	for _, l := range v.listeners() {
		if strings.HasPrefix(l.key, "listen.do53") || l.key == "listen.admin" {
			continue
		}
		v.bad("tls", "missing: %s needs tls: {certificate: cert.pem, key: key.pem}", l.key)
	}
}

// checkUpstreams makes sure that there are upstreams, and that none is this resolver. That none is this host is checked
// when its addresses are known.
func (v *validator) checkUpstreams() {
	if len(v.Upstreams) == 0 {
		v.bad("upstreams", `missing: the resolvers to ask, such as ["udp://192.0.2.1", "tls://192.0.2.2#dns.example"]`)
	}
	for i, up := range v.Upstreams {
		key := fmt.Sprintf("upstreams[%d]", i)
		if v.isOurs(up) {
			v.bad(key, "%s is this resolver itself: queries would go in circles", up.Addr)
		}
		if slices.ContainsFunc(v.Upstreams[:i], func(b resolver.Upstream) bool { return b.Addr == up.Addr }) {
			v.bad(key, "%s is listed twice", up.Addr)
		}
	}
}

// isOurs reports whether a query to up would arrive at one of our own listeners.
func (v *validator) isOurs(up resolver.Upstream) bool {
	return slices.ContainsFunc(v.ListenersOf(up.Protocol), func(l netip.AddrPort) bool {
		wild := l.Addr().IsUnspecified() && up.Addr.Addr().IsLoopback()
		return l.Port() == up.Addr.Port() && (wild || l.Addr() == up.Addr.Addr())
	})
}

// ListenersOf returns our own listeners of an upstream protocol.
func (c *Config) ListenersOf(p resolver.UpstreamProtocol) []netip.AddrPort {
	if p == resolver.UpstreamTLS {
		return c.Listen.DoT
	}
	return c.Listen.Do53
}

// checkDDR checks the section ddr.
func (v *validator) checkDDR() {
	if key := v.DDR.RelayKey; key != 0 {
		v.refused("ddr.relay_key", ddr.CheckRelayKey(key))
	}
	if v.DDR.InfoURL != "" {
		v.refused("ddr.info_url", ddr.CheckInfoURL(v.DDR.InfoURL))
	}
}

// Addresses returns the addresses of the resolver's name, as far as the configuration knows them.
func (c *Config) Addresses() (addrs []netip.Addr) {
	if len(c.DDR.Addresses) > 0 {
		return c.DDR.Addresses
	}
	for _, l := range c.listeners() {
		a := l.addr.Addr()
		if l.key != "listen.admin" && !a.IsUnspecified() && a.Zone() == "" && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// checkSteer checks the section steer, also against the relay to which it steers.
func (v *validator) checkSteer() {
	if v.Steers() && !v.Relays() && !v.problems.has("relay") {
		v.bad("steer.rules", "there is no relay to steer to: add relay.sealed or relay.table")
	}
	if epoch := cmp.Or(v.Relay.Sealed.Epoch, addrmap.DefaultEpoch); v.Relay.Sealed.Used() && v.Steer.MaxTTL > epoch {
		v.bad("steer.max_ttl", "%s is longer than relay.sealed.epoch, %s: relay addresses would end before answers",
			v.Steer.MaxTTL, epoch)
	}
	for i, r := range v.Steer.Rules {
		v.checkRule(fmt.Sprintf("steer.rules[%d]", i), r)
	}
	if !v.Steers() && v.Relays() {
		v.warn("steer.rules: missing, so nothing is steered to the relay")
	}
}

// checkRule checks the steering rule at key.
func (v *validator) checkRule(key string, r Rule) {
	v.refusedBelow(key, r.policy().Validate())
	for i, p := range r.Prefixes {
		if other, ok := overlap(p, v.relayPrefixes()); ok && r.Action == ActionSteer {
			v.bad(fmt.Sprintf("%s.prefixes[%d]", key, i), "%s overlaps %s: relay addresses are never steered", p, other)
		}
	}
}

// IsHostname reports whether s is made of labels of letters, digits and hyphens, has two of them or more, and is no
// address.
func IsHostname(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if _, err := netip.ParseAddr(s); err == nil || len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// isLabel reports whether s is a label of a host name. See RFC 1123, Section 2.1.
func isLabel(s string) bool {
	other := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	}
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' && !strings.ContainsFunc(s, other)
}

// parseUpstream reads "udp://192.0.2.1", "udp://[2001:db8::1]:5353" and "tls://192.0.2.2#dns.example".
func parseUpstream(s string) (up resolver.Upstream, err error) {
	bad := fmt.Errorf(`must be "udp://ADDRESS[:PORT]" or "tls://ADDRESS[:PORT][#NAME]", not %q`, s)
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Host == "" {
		return up, bad
	}
	port := uint16(53)
	switch u.Scheme {
	case "udp":
		up.Protocol = resolver.UpstreamUDP
	case "tls":
		up.Protocol, port = resolver.UpstreamTLS, 853
	default:
		return up, bad
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return up, fmt.Errorf("must name its server by address, not by name: %q (the name of its certificate goes after #)", s)
	}
	if p := u.Port(); p != "" {
		if port, err = parsePort(p); err != nil {
			return up, err
		}
	}
	if u.Fragment != "" && (up.Protocol != resolver.UpstreamTLS || !IsHostname(u.Fragment)) {
		return up, bad
	}
	up.Addr, up.Name = netip.AddrPortFrom(addr.Unmap(), port), u.Fragment
	return up, nil
}
