package relay

import (
	"fmt"
	"net/netip"
)

// widths are the lengths of the prefixes that stand for a client in limits, the narrowest first.
type widths struct{ v4, v6 []int }

// checkWidths returns what is wrong with the lengths, or nil.
func checkWidths(lengths []int, most int) error {
	for i, n := range lengths {
		if n < 1 || n > most {
			return fmt.Errorf("/%d is no length of a prefix; want 1 to %d", n, most)
		}
		if i > 0 && n >= lengths[i-1] {
			return fmt.Errorf("/%d after /%d; want each wider than the one before it", n, lengths[i-1])
		}
	}
	return nil
}

// of returns the lengths for the family of client.
func (w *widths) of(client netip.Addr) []int {
	if client.Is4() {
		return w.v4
	}
	return w.v6
}

// at returns the i-th prefix around client, and by how many bits what it may hold exceeds what the narrowest one may,
// see shares.
func (w *widths) at(client netip.Addr, i int) (prefix netip.Prefix, shift uint) {
	lengths := w.of(client)
	prefix, err := client.Prefix(lengths[i])
	if err != nil {
		panic("relay: " + err.Error()) // checkWidths has been called
	}
	return prefix, uint(lengths[0]-lengths[i]) / 2
}

// narrowest returns what counts as one client.
func (w *widths) narrowest(client netip.Addr) netip.Prefix {
	prefix, _ := w.at(client, 0)
	return prefix
}

// widest returns the network of client.
func (w *widths) widest(client netip.Addr) netip.Prefix {
	prefix, _ := w.at(client, len(w.of(client))-1)
	return prefix
}
