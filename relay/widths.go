package relay

import (
	"fmt"
	"net/netip"
)

// ClientPrefix is a prefix around a client by its length, so that a customer with many addresses counts as one.
type ClientPrefix struct {
	IPv4 int // from 1 to 31; 0 for none
	IPv6 int // from 1 to 63; 0 for none
}

// What counts as one client: an IPv4 address, or the /64 that an IPv6 host has to itself.
const (
	clientBits4 = 32
	clientBits6 = 64
)

// widths are the lengths of the prefixes that stand for a client, the narrowest first.
type widths struct{ v4, v6 []int }

func newWidths(prefixes []ClientPrefix) widths {
	w := widths{v4: []int{clientBits4}, v6: []int{clientBits6}}
	for _, p := range prefixes {
		if p.IPv4 != 0 {
			w.v4 = append(w.v4, p.IPv4)
		}
		if p.IPv6 != 0 {
			w.v6 = append(w.v6, p.IPv6)
		}
	}
	return w
}

// checkPrefixes returns what is wrong with prefixes, in the form of Limits.Validate, or nil.
func checkPrefixes(prefixes []ClientPrefix) error {
	for i := range prefixes {
		w := newWidths(prefixes[:i+1])
		for _, lengths := range [][]int{w.v4, w.v6} {
			n := len(lengths) - 1
			if n > 0 && lengths[n] < 1 {
				return fmt.Errorf("prefixes[%d]: /%d is no length of a prefix", i, lengths[n])
			}
			if n > 0 && lengths[n] >= lengths[n-1] {
				return fmt.Errorf("prefixes[%d]: /%d is not wider than the /%d before it", i, lengths[n], lengths[n-1])
			}
		}
		if prefixes[i] == (ClientPrefix{}) {
			return fmt.Errorf("prefixes[%d]: has neither ipv4 nor ipv6", i)
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
		panic("relay: " + err.Error()) // checkPrefixes has been called
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
