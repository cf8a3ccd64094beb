// Package dnr reads and writes the Encrypted DNS options of DHCPv4, DHCPv6 and Router Advertisements, by which a
// network designates resolvers, as described in RFC 9463.
//
// An svcb.Resolver is the one description of a designated resolver; Encode… make options of it that every known client
// accepts. Decode… take options apart as strictly as RFC 9463 asks of clients. Inspect… read what can be read, and
// return what is wrong with it as Findings.
//
// It has octets and no sockets: packages announce and survey below it send and receive the options, and serverconf
// writes them for other servers. It does not read the messages that carry options, except that it splits and joins long
// options of DHCPv4. Every function is pure and may be called from any goroutine; inputs are never kept.
package dnr

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// The codes of the Encrypted DNS option. See RFC 9463, Section 10.
const (
	OptionDHCPv4 = 162 // OPTION_V4_DNR
	OptionDHCPv6 = 144 // OPTION_V6_DNR
	OptionRA     = 144 // Encrypted DNS Option of Neighbor Discovery
)

// Infinity is the lifetime of a Router Advertisement's option that never expires. See RFC 9463, Section 6.1.
const Infinity = 0xffffffff * time.Second

// Errors of decoding and encoding, each naming the rule that was broken. Errors that wrap them add the place and the
// offending value.
var (
	errTruncated  = errors.New("dnr: option ends too early")
	errLength     = errors.New("dnr: length of the option or instance is wrong")
	errEmpty      = errors.New("dnr: option holds no instance")
	errADN        = errors.New("dnr: authentication domain name is not one name that ends in the root label")
	errAddrLength = errors.New("dnr: Addr Length is not that of a list of addresses")
	ErrNoAddress  = errors.New("dnr: no address that can be used")
	errSvcParams  = errors.New("dnr: service parameters are malformed")
	errHints      = errors.New("dnr: service parameters hold ipv4hint or ipv6hint")
	ErrPriority   = errors.New("dnr: service priority is 0")
	errPadding    = errors.New("dnr: padding is not zeros up to a multiple of 8 octets")
)

// Errors of encoding alone.
var (
	ErrTooLong = errors.New("dnr: too long for the option")
	ErrUnsafe  = errors.New("dnr: some clients refuse it")
)

// Instance is one designated resolver as one option carries it, or as one of several in the option of DHCPv4.
type Instance struct {
	Priority  uint16       // at least 1; lower is preferred
	ADN       string       // authentication domain name, in presentation form and fully qualified
	Addresses []netip.Addr // all of one family, in order of preference; see Usable
	Params    []svcb.Param // in wire form, sorted by key
}

// ADNOnly reports whether there is only the name, for which the client queries the DNS for addresses and parameters.
// See RFC 9463, Section 3.1.6.
func (in Instance) ADNOnly() bool { return len(in.Addresses) == 0 && len(in.Params) == 0 }

// Usable returns the addresses that Unusable finds nothing wrong with. Clients must discard multicast and loopback
// ones. See RFC 9463, Sections 4.2, 5.2 and 6.2.
func (in Instance) Usable() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(in.Addresses), func(a netip.Addr) bool { return Unusable(a) != "" })
}

// Unusable returns why no client can connect to a, or "" if a can be the address of a resolver.
func Unusable(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "no address"
	case a.IsMulticast():
		return "multicast"
	case a.IsLoopback():
		return "loopback"
	case a.IsUnspecified():
		return "unspecified"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "broadcast"
	case a.Is4In6():
		return "IPv4-mapped"
	}
	return ""
}

// Resolver returns the same as a Resolver, with its usable addresses. The parameters of the instance must be valid, as
// those of a decoded one are. In ADN-only mode only Priority and Name are set.
func (in Instance) Resolver() svcb.Resolver {
	r := svcb.Record{Params: in.Params}
	return svcb.Resolver{
		Priority: in.Priority, Name: in.ADN, Addresses: in.Usable(),
		ALPN: r.ALPN(), Port: r.Port(), DoHPath: r.DoHPath(),
	}
}

// Form is one of the three options, which differ in the sizes of their fields. See RFC 9463, Sections 4.1, 5.1 and 6.1.
type Form uint8

// The three options.
const (
	DHCPv4 Form = iota
	DHCPv6
	RA // of Router Advertisements
)

func (f Form) String() string { return [...]string{DHCPv4: "dhcpv4", DHCPv6: "dhcpv6", RA: "ra"}[f] }

// lengthSize returns how many octets ADN Length and Addr Length take.
func (f Form) lengthSize() int {
	if f == DHCPv4 {
		return 1
	}
	return 2
}

// addrSize returns how many octets an address takes.
func (f Form) addrSize() int {
	if f == DHCPv4 {
		return 4
	}
	return 16
}

// Family names the addresses of the option.
func (f Form) Family() string {
	if f == DHCPv4 {
		return "IPv4"
	}
	return "IPv6"
}
