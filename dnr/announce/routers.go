package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// maxDifferences bounds what a link full of inconsistent routers can make an Announcer log and keep in memory.
const maxDifferences = 64

// otherRouters logs in what the advertisements of the link's other routers contradict ours. It adopts nothing of them.
type otherRouters struct {
	log    zerolog.Logger
	logged map[string]bool // at most maxDifferences
}

// logOnce logs each difference of each router once.
func (o *otherRouters) logOnce(from netip.Addr, differences []string) {
	for _, d := range differences {
		key := from.String() + " " + d
		if o.logged[key] || len(o.logged) >= maxDifferences {
			continue
		}
		o.logged[key] = true
		o.log.Info().Stringer("router", from).Str("difference", d).Msg("another router's advertisement differs")
	}
}

// differences returns in what another router's advertisement contradicts ours, which has the given header and content.
// Ours leaves hop limit, timers, MTU and prefixes unspecified, so that there is nothing to contradict. See RFC 4861,
// Section 6.2.7; RFC 8106, Section 5.3.1.
func differences(ours link.RouterAdvertisement, content Content, theirs link.RouterAdvertisement) (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if ours.Managed != theirs.Managed {
		add("M flag is %t there and %t here", theirs.Managed, ours.Managed)
	}
	if ours.Other != theirs.Other {
		add("O flag is %t there and %t here", theirs.Other, ours.Other)
	}
	for _, o := range theirs.Options {
		switch o.Kind() {
		case link.OptionRDNSS:
			if foreign := without(link.ParseRDNSS(o), content.Servers); len(foreign) > 0 {
				add("it announces other resolvers, which hosts may use without encryption: %s", joinAddrs(foreign))
			}
		case dnr.OptionRA:
			if d := differentResolver(o, content); d != "" {
				add("%s", d)
			}
		}
	}
	return list
}

// differentResolver describes a designated resolver that is not ours, or is malformed.
func differentResolver(o link.NDOption, content Content) string {
	i := dnr.InspectRA(o)
	if err := i.Err(); err != nil {
		return fmt.Sprintf("its Encrypted DNS option is one that hosts discard: %v", err)
	}
	for _, r := range content.Resolvers {
		if sameName(r.Name, i.ADN) {
			return ""
		}
	}
	if i.Lifetime == 0 {
		return ""
	}
	return fmt.Sprintf("it announces another designated resolver, %s", i.ADN)
}

// sameName reports whether two names in presentation form are the same, each with or without the final dot.
func sameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

// without returns addrs without the known ones. It changes addrs.
func without(addrs, known []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool { return slices.Contains(known, a) })
}

// joinAddrs lists the first few addresses.
func joinAddrs(addrs []netip.Addr) string {
	const few = 4
	list := make([]string, 0, few)
	for _, a := range addrs[:min(few, len(addrs))] {
		list = append(list, a.String())
	}
	if len(addrs) > few {
		list = append(list, fmt.Sprintf("and %d more", len(addrs)-few))
	}
	return strings.Join(list, ", ")
}
