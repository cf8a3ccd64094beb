package upstream

import "bytes"

// zoneOf returns the name under which the queries for name are counted, in wire form like name, which is in lower case. It
// stands for the zone whose servers have to answer.
//
// A forwarder does not know where zones begin: servers that are silent say nothing, and what others say of their own cuts
// could be made up to be counted as many. So it goes by the names alone, as registries give them out: two labels, three
// below the second levels that the registries of countries use, and for addresses that are looked up what belongs to one
// network, an IPv4 /16 or an IPv6 /32. Zones that share such a name share its part of the budget.
func zoneOf(name []byte) []byte {
	var at [maxLabels]int // where labels begin
	n := 0
	for off := 0; name[off] != 0; off += 1 + int(name[off]) {
		at[n] = off
		n++
	}
	keep := 2
	switch {
	case bytes.HasSuffix(name, []byte("\x07in-addr\x04arpa\x00")):
		keep = 4
	case bytes.HasSuffix(name, []byte("\x03ip6\x04arpa\x00")):
		keep = 10
	case n >= 3 && name[at[n-1]] == 2 && secondLevel(name[at[n-2]+1:at[n-1]]):
		keep = 3
	}
	if n <= keep {
		return name
	}
	return name[at[n-keep]:]
}

// maxLabels is more than a name of 255 octets can have.
const maxLabels = 128

// secondLevel reports whether registries of countries register names below label.
func secondLevel(label []byte) bool {
	switch string(label) {
	case "ac", "co", "com", "edu", "gob", "gov", "go", "mil", "ne", "net", "nom", "or", "org":
		return true
	}
	return false
}
