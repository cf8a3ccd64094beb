package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// Unnamed returns a line for each listen address that discovery names to no client of another host, and why. A
// configuration of loopback addresses alone is meant for this host.
func (c *Config) Unnamed() (lines []string) {
	listeners := slices.DeleteFunc(c.listeners(), func(l keyedAddr) bool {
		return l.key == "listen.admin" || l.key == "tls.acme.challenges"
	})
	if !slices.ContainsFunc(listeners, func(l keyedAddr) bool { return !l.addr.Addr().IsLoopback() }) {
		return nil
	}
	for _, l := range listeners {
		if why := c.unnamed(l.addr.Addr()); why != "" {
			lines = append(lines, fmt.Sprintf("%s: discovery does not name %s to clients: %s", l.key, l.addr.Addr(), why))
		}
	}
	return lines
}

// unnamed returns why discovery does not name a, or "" if it does.
func (c *Config) unnamed(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return ""
	case a.IsLoopback():
		return "only programs on this host can use it"
	case a.Zone() != "":
		return "it means another host on every other link"
	case len(c.DDR.Addresses) > 0 && !slices.Contains(c.DDR.Addresses, a):
		return "ddr.addresses does not have it"
	}
	return ""
}
