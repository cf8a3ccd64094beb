package wire

import "github.com/miekg/dns"

// EDE is an info-code of an Extended DNS Error, or NoEDE. See RFC 8914, Section 4.
type EDE int32

// The info-codes that a resolver says of itself.
const (
	NoEDE               EDE = -1
	EDEOther                = EDE(dns.ExtendedErrorCodeOther)
	EDENotReady             = EDE(dns.ExtendedErrorCodeNotReady)
	EDEProhibited           = EDE(dns.ExtendedErrorCodeProhibited)
	EDENotAuthoritative     = EDE(dns.ExtendedErrorCodeNotAuthoritative)
	EDENoReachable          = EDE(dns.ExtendedErrorCodeNoReachableAuthority)
	EDENetwork              = EDE(dns.ExtendedErrorCodeNetworkError)
	EDEInvalidData          = EDE(dns.ExtendedErrorCodeInvalidData)
	EDEInvalidType          = EDE(dns.ExtendedErrorCodeInvalidQueryType)
)

// AboutName reports whether e says that the question is at fault and not the upstream: DNSSEC data is missing or wrong, or
// a filter refuses the name. See RFC 8914, Sections 4.6 to 4.13, and 4.16 to 4.18.
func (e EDE) AboutName() bool {
	return e >= EDE(dns.ExtendedErrorCodeDNSSECIndeterminate) && e <= EDE(dns.ExtendedErrorCodeNSECMissing) ||
		e >= EDE(dns.ExtendedErrorCodeBlocked) && e <= EDE(dns.ExtendedErrorCodeFiltered)
}
