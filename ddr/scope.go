package ddr

import (
	"net/netip"
	"slices"
)

// asker is how a query came: from client to our address local. Either is the zero Addr if it is not known.
type asker struct{ client, local netip.Addr }

// newAsker returns client and local without zone and IPv4-mapped form.
func newAsker(client, local netip.Addr) asker {
	return asker{client.Unmap().WithZone(""), local.Unmap().WithZone("")}
}

// shared is the address space between a provider and its customers, which is private like those of RFC 1918. See RFC
// 6598, Section 4.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// isInternal reports whether addr means something within a network only.
func isInternal(addr netip.Addr) bool { return addr.IsPrivate() || shared.Contains(addr) }

// Usable returns those of addrs, in their order, that a client can use of which the addresses at are known: its own, the
// one of ours that it asked, or those of this host on its link. Every scope is for those who are within it. See RFC 4007,
// Section 9.
//
//   - A loopback address is for clients that asked a loopback address.
//   - A link-local address is for clients that asked this very address, because on another link it is another host's.
//   - A private address (RFC 1918, RFC 4193, RFC 6598) is for clients that are known by a private address of the same
//     family, and for all where addrs has no other address of that family.
//   - Every other address is for all.
func Usable(addrs []netip.Addr, at ...netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !isUsable(a, addrs, at) })
}

// isUsable reports whether a, one of addrs, is usable. See Usable.
func isUsable(a netip.Addr, addrs, at []netip.Addr) bool {
	switch {
	case a.IsLoopback():
		return slices.ContainsFunc(at, netip.Addr.IsLoopback)
	case a.IsLinkLocalUnicast():
		return slices.Contains(at, a)
	case isInternal(a):
		near := func(b netip.Addr) bool { return b.Is4() == a.Is4() && isInternal(b) }
		return slices.ContainsFunc(at, near) || !slices.ContainsFunc(addrs, func(b netip.Addr) bool {
			return b.Is4() == a.Is4() && isGlobal(b)
		})
	}
	return true
}

// isGlobal reports whether addr means the same everywhere.
func isGlobal(addr netip.Addr) bool {
	return !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && !isInternal(addr)
}

// addresses returns the addresses of the name that by can use, the one that it asked first.
func (z *Zone) addresses(by asker) []netip.Addr {
	if len(z.cfg.Addresses) == 0 {
		return []netip.Addr{by.local}
	}
	list := Usable(z.cfg.Addresses, by.client, by.local)
	i := slices.Index(list, by.local)
	if i <= 0 {
		return list
	}
	return slices.Concat([]netip.Addr{by.local}, list[:i], list[i+1:])
}
