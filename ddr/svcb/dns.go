package svcb

import (
	"errors"
	"fmt"

	"github.com/miekg/dns"
)

// Errors of Record.CheckDNS.
var (
	errAliasMode      = errors.New("svcb: AliasMode record")
	errBadTarget      = errors.New(`svcb: TargetName must be neither "." nor resolver.arpa`)
	errMandatoryKey   = errors.New("svcb: mandatory lists a key that DNS clients do not know")
	errNoALPN         = errors.New("svcb: no alpn, so that no protocol is known")
	errDoHPathMissing = errors.New("svcb: alpn has an HTTP id, but dohpath is missing")
)

// CheckDNS reports why a DNS client that follows RFC 9461 and RFC 9462 cannot use a parsed record of the "dns"
// scheme, or nil if it can.
func (r Record) CheckDNS() error {
	switch {
	case r.Priority == 0:
		return errAliasMode
	case r.Target == "." || dns.CanonicalName(r.Target) == arpa:
		return errBadTarget
	}
	for _, key := range r.Mandatory() {
		if key > KeyDoHPath {
			return fmt.Errorf("%w: %s", errMandatoryKey, KeyName(key))
		}
	}
	ids := r.ALPN()
	if ids == nil {
		return errNoALPN
	}
	for _, id := range ids {
		if _, ok := r.Value(KeyDoHPath); !ok && IsHTTP(id) {
			return errDoHPathMissing
		}
	}
	return nil
}

// IsHTTP reports whether an ALPN id means DoH. See RFC 9461, Section 5.
func IsHTTP(alpn string) bool { return alpn == "h2" || alpn == "h3" || alpn == "http/1.1" }
