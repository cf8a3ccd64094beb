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

// maxTold bounds what a link full of inconsistent routers can make us log and remember.
const maxTold = 64

// others reports what the link's other routers advertise in contradiction to us. Nothing of that is ever adopted.
type others struct {
	log  zerolog.Logger
	told map[string]bool // what was logged; at most maxTold
}

// heard logs each difference of each router once.
func (o *others) heard(from netip.Addr, differences []string) {
	for _, d := range differences {
		key := from.String() + " " + d
		if o.told[key] || len(o.told) >= maxTold {
			continue
		}
		o.told[key] = true
		o.log.Info().Stringer("router", from).Str("difference", d).Msg("another router's advertisement differs")
	}
}

// differences returns in what another router's advertisement differs from ours, which is said. We say nothing of hop
// limit, timers, MTU and prefixes, so that nobody can contradict us there. See RFC 4861, Section 6.2.7; RFC 8106,
// Section 5.3.1.
func differences(ours link.RouterAdvertisement, said Content, theirs link.RouterAdvertisement) (list []string) {
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
			if foreign := without(link.ParseRDNSS(o), said.Servers); len(foreign) > 0 {
				add("it announces other resolvers, which hosts may use without encryption: %s", joinAddrs(foreign))
			}
		case dnr.OptionRA:
			if d := differentResolver(o, said); d != "" {
				add("%s", d)
			}
		}
	}
	return list
}

// differentResolver describes a designated resolver that is not ours, or is malformed.
func differentResolver(o link.NDOption, said Content) string {
	i := dnr.InspectRA(o)
	if err := i.Err(); err != nil {
		return fmt.Sprintf("its Encrypted DNS option is one that hosts discard: %v", err)
	}
	for _, r := range said.Resolvers {
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

func without(addrs, known []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool { return slices.Contains(known, a) })
}

// joinAddrs lists a few addresses.
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
