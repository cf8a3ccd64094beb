package config

import (
	"fmt"
	"slices"

	"github.com/cfrd-project/cfrd/dnr/announce"
)

// checkAnnounce checks dnr.announce, a link of which may be there once.
func (v *validator) checkAnnounce() {
	for i, a := range v.DNR.Announce {
		key := fmt.Sprintf("dnr.announce[%d]", i)
		cfg := a.Config()
		v.refusedBelow(key, cfg.Validate())
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

// Config returns what the packet senders of the link are given, without what depends on the resolver.
func (a Announce) Config() announce.Config {
	return announce.Config{
		Interface: a.Interface, RA: a.RA, DHCPv6: a.DHCPv6, DHCPv4: a.DHCPv4, MaxInterval: a.MaxInterval,
		Managed: a.Managed, Other: a.Other,
	}
}
