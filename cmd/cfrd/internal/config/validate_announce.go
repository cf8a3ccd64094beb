package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// checkAnnounce checks dnr.announce.
func (v *validator) checkAnnounce() {
	for i, a := range v.DNR.Announce {
		key := fmt.Sprintf("dnr.announce[%d]", i)
		a.Check(key+".", v.problems)
		if slices.ContainsFunc(v.DNR.Announce[:i], func(b Announce) bool { return b.Interface == a.Interface }) {
			v.bad(key+".interface", "%s is there twice", a.Interface)
		}
		if !a.RA && (a.Managed || a.Other || a.PvD || a.MaxInterval != 0 && !a.DHCPv6) {
			v.warn("%s: managed, other, pvd and max_interval are about Router Advertisements, which ra: true sends", key)
		}
	}
	if len(v.DNR.Announce) > 0 && !v.Encrypted() {
		v.warn("dnr.announce: there is no encrypted transport to announce: set listen.dot, listen.doh or listen.doq")
	}
}

// Check adds what is wrong with c to ps, with keys, or flags, that begin with prefix.
func (c Announce) Check(prefix string, ps *Problems) {
	const nameMax = 15 // octets of an interface's name
	switch {
	case ps.has(prefix + "interface"):
	case c.Interface == "":
		ps.Add(prefix+"interface", "missing: the network interface of the link, such as lan0")
	case len(c.Interface) > nameMax || strings.ContainsAny(c.Interface, "/ \t\n%:"):
		ps.Add(prefix+"interface", "must be the name of a network interface, such as lan0, not %q", c.Interface)
	}
	if !c.RA && !c.DHCPv6 && !c.DHCPv4 {
		ps.Add(strings.TrimSuffix(prefix, "."), "announces by no means: set ra, dhcpv6 or dhcpv4 to true")
	}
	if d := c.MaxInterval; d != 0 && (d < 4*time.Second || d > 30*time.Minute) {
		ps.Add(prefix+"max_interval", "must be 4s to 30m, not %s", d)
	}
}
