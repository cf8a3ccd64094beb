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
