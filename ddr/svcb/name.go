package svcb

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// maxName is the length of the longest name in wire form, in octets. See RFC 1035, Section 3.1.
const maxName = 255

// ParseName returns the name at the start of b in presentation form, fully qualified, and how many octets of b it
// takes. The name must be uncompressed. An error is ErrTargetName or says that the name is compressed or cut off.
func ParseName(b []byte) (name string, n int, err error) {
	for n < len(b) {
		label := int(b[n])
		switch {
		case label&0xc0 == 0xc0:
			return "", 0, errTargetCompressed
		case label > 63 || n+label+1 > maxName:
			return "", 0, ErrTargetName
		case label == 0:
			name, n, err = dns.UnpackDomainName(b, 0)
			if err != nil {
				return "", 0, fmt.Errorf("%w: %w", ErrTargetName, err)
			}
			return name, n, nil
		}
		n += label + 1
	}
	return "", 0, errTruncated
}

// AppendName appends the wire form of name, which need not be fully qualified, to b. It is the inverse of ParseName. An
// error is ErrTargetName.
func AppendName(b []byte, name string) ([]byte, error) {
	var wire [maxName]byte
	n, err := dns.PackDomainName(dns.Fqdn(name), wire[:], 0, nil, false)
	if err != nil {
		return b, fmt.Errorf("%w: %w", ErrTargetName, err)
	}
	return append(b, wire[:n]...), nil
}

// arpa is the special-use name of discovery, under which no resolver has its own. See RFC 9462, Section 8.1.
const arpa = "resolver.arpa."

// CheckName reports why name cannot be the authentication domain name of a resolver, or nil if it can. It must have at
// least two labels, of letters, digits and hyphens: certificates can carry nothing else, and some clients accept
// nothing else.
func CheckName(name string) error {
	name = dns.CanonicalName(name)
	labels := dns.SplitDomainName(name)
	if len(labels) < 2 || len(name) > maxName-1 || dns.IsSubDomain(arpa, name) {
		return fmt.Errorf("svcb: %q cannot be the name of a resolver", name)
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return fmt.Errorf("svcb: %q cannot be the name of a resolver: label %q", name, l)
		}
	}
	return nil
}
