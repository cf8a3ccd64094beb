package wire

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/dns"
)

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

// maxErrorText is how many octets of an EXTRA-TEXT are passed on: two lines of a terminal, which is more than any known
// resolver writes, and little beside a response.
const maxErrorText = 160

// ErrorText returns the EXTRA-TEXT of an Extended DNS Error as it may be passed on: "" if it is not UTF-8 or has characters
// that are not to be shown, and what is beyond its bound cut off. See RFC 8914, Section 2.
func ErrorText(data []byte) string {
	cut := min(len(data), maxErrorText)
	for cut > 0 && cut < len(data) && !utf8.RuneStart(data[cut]) {
		cut-- // not within a character
	}
	text := strings.TrimRight(string(data[:cut]), "\x00") // some end it as C does
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return ""
	}
	return text
}
