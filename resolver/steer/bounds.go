package steer

import (
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// Bounds of what one response may bring. An ordinary response has about thirty records, and not more than a few hundred
// labels. They keep the work for the worst response within a few hundred microseconds. What goes beyond them is left out:
// an address, a hint or a record by itself, or all records from one on. What is left has no signatures, holds for unsureTTL,
// and goes out with an Extended DNS Error.
const (
	// maxRecords bounds the records that are looked at.
	maxRecords = 256
	// maxNameOctets bounds the names in them in full. See wire.Bounds.
	maxNameOctets = 8 << 10
	// maxLabels bounds the labels of all names that rules are looked for of. The longest path has 2,032.
	maxLabels = 3072
	// maxAddresses bounds the addresses, in records and hints, that the policy is asked about.
	maxAddresses = 96
	// maxHints bounds the addresses in ipv4hint and ipv6hint of one record, if any address at its target can be steered.
	maxHints = 32
	// maxNew bounds the relay addresses for which the relay has to make a new lease.
	maxNew = 16
)

// parse takes response apart within the bounds. cut reports whether records are left out, one of which may have an
// address.
func parse(response []byte) (m *wire.Message, cut bool, err error) {
	m, cut, err = wire.ParseWithin(response, wire.Bounds{Records: maxRecords, NameOctets: maxNameOctets})
	return m, cut && wire.ContainsType(response, hasAddress), err
}

// hasAddress reports whether records of a type have addresses that may be steered.
func hasAddress(rtype uint16) bool {
	return rtype == dns.TypeA || rtype == dns.TypeAAAA || rtype == dns.TypeHTTPS || rtype == dns.TypeSVCB
}

// spend takes n off what is left of a budget, and reports whether that was enough. Otherwise something is left out.
func (r *rewrite) spend(budget *int, n int) bool {
	if *budget -= n; *budget < 0 {
		r.cut = true
		return false
	}
	return true
}
