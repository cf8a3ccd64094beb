package config

import (
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

// ACME says how to get a certificate from an authority that speaks ACME. See RFC 8555.
type ACME struct {
	Directory  string       `mapstructure:"directory" reload:"restart"`
	Email      string       `mapstructure:"email" reload:"restart"`
	CA         string       `mapstructure:"ca" reload:"restart"`
	Storage    string       `mapstructure:"storage" reload:"restart"`
	Profile    string       `mapstructure:"profile" reload:"yes"`
	Challenges []Challenge  `mapstructure:"challenges" reload:"restart"`
	Addresses  []netip.Addr `mapstructure:"addresses" reload:"yes"` // nil: public ones of listen.do53; empty: none
	Agree      bool         `mapstructure:"agree" reload:"restart"`
}

// Challenge is a way to prove to an authority that a name or an address is ours.
type Challenge string

// The challenges. See RFC 8555, Section 8, and RFC 8737.
const (
	ChallengeTLSALPN01 Challenge = "tls-alpn-01"
	ChallengeHTTP01    Challenge = "http-01"
	ChallengeDNS01     Challenge = "dns-01"
)

// defaultDirectory is that of Let's Encrypt.
const defaultDirectory = "https://acme-v02.api.letsencrypt.org/directory"

// parseChallenge takes the names of RFC 8555 and RFC 8737.
func parseChallenge(s string) (Challenge, error) {
	return oneOf(map[string]Challenge{
		string(ChallengeTLSALPN01): ChallengeTLSALPN01,
		string(ChallengeHTTP01):    ChallengeHTTP01,
		string(ChallengeDNS01):     ChallengeDNS01,
	})(s)
}

// Used reports whether anything is written in the section.
func (a ACME) Used() bool { return !reflect.ValueOf(a).IsZero() }

// DirectoryURL returns the URL of the directory, which is that of Let's Encrypt by default.
func (a ACME) DirectoryURL() string {
	if a.Directory == "" {
		return defaultDirectory
	}
	return a.Directory
}

// EnabledChallenges returns those that may be used. TLS-ALPN-01 proves names and addresses and needs no further port.
func (a ACME) EnabledChallenges() []Challenge {
	if len(a.Challenges) == 0 {
		return []Challenge{ChallengeTLSALPN01}
	}
	return a.Challenges
}

// Uses reports whether the section is used and c may be.
func (a ACME) Uses(c Challenge) bool { return a.Used() && slices.Contains(a.EnabledChallenges(), c) }

// provesAddresses reports whether the challenges can: DNS-01 cannot. See RFC 8738, Section 7.
func (a ACME) provesAddresses() bool {
	return slices.ContainsFunc(a.EnabledChallenges(), func(c Challenge) bool { return c != ChallengeDNS01 })
}

// CertificateAddresses returns the addresses that the certificate is to carry: those at which clients ask before they
// have discovered anything. Private addresses are left out unless they are written, because no public authority
// certifies them.
func (c *Config) CertificateAddresses() (certified []netip.Addr) {
	addrs := c.TLS.ACME.Addresses
	if addrs == nil && c.TLS.ACME.provesAddresses() {
		addrs = slices.DeleteFunc(c.Do53Addresses(), func(a netip.Addr) bool { return !a.IsGlobalUnicast() || a.IsPrivate() })
	}
	for _, a := range addrs {
		if !slices.Contains(certified, a) {
			certified = append(certified, a)
		}
	}
	return certified
}

// ChallengeListeners returns where HTTP-01 is answered: the authority comes to port 80 of the name and of each
// address. See RFC 8555, Section 8.3.
func (c *Config) ChallengeListeners() (addrs []netip.AddrPort) {
	if !c.TLS.ACME.Uses(ChallengeHTTP01) {
		return nil
	}
	for _, list := range [][]netip.AddrPort{c.Listen.Do53, c.Listen.DoT, c.Listen.DoH, c.Listen.DoQ} {
		for _, l := range list {
			if a := netip.AddrPortFrom(l.Addr(), 80); !slices.Contains(addrs, a) {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

// checkACME checks tls.acme, which is written.
func (v *validator) checkACME() {
	a := v.TLS.ACME
	if v.TLS.Certificate != "" || v.TLS.Key != "" {
		v.bad("tls.acme", "cannot be used beside tls.certificate and tls.key: remove the one or the other")
	}
	if !v.Encrypted() {
		v.warn("tls: not used, because none of listen.dot, listen.doh and listen.doq is set")
	}
	if u, err := url.Parse(a.DirectoryURL()); err != nil || u.Scheme != "https" || u.Host == "" {
		v.bad("tls.acme.directory", "must be the https URL of the authority's directory, not %q", a.Directory)
	}
	if a.Email != "" && strings.Count(a.Email, "@") != 1 {
		v.bad("tls.acme.email", "must be one address for the authority to write to, not %q", a.Email)
	}
	if a.Storage == "" {
		v.bad("tls.acme.storage", "missing: the directory that keeps the account and the certificate across restarts, such as acme")
	}
	if !a.Agree {
		v.bad("tls.acme.agree", "must be true, which says that you agree to the authority's terms of service")
	}
	v.checkChallenges()
}

// checkChallenges makes sure that each challenge is answered where the authority asks. See RFC 8555, Section 8, and RFC
// 8737, Section 3.
func (v *validator) checkChallenges() {
	a := v.TLS.ACME
	onPort := func(port uint16) func(netip.AddrPort) bool {
		return func(l netip.AddrPort) bool { return l.Port() == port }
	}
	if a.Uses(ChallengeTLSALPN01) && !slices.ContainsFunc(v.Listen.DoH, onPort(443)) {
		v.bad("tls.acme.challenges", "tls-alpn-01 is answered on port 443 of listen.doh, which is not there: use http-01 or dns-01")
	}
	if a.Uses(ChallengeDNS01) && !slices.ContainsFunc(v.Listen.Do53, onPort(53)) {
		v.bad("tls.acme.challenges", "dns-01 is answered on port 53 of listen.do53, which is not there: use tls-alpn-01 or http-01")
	}
	if len(a.Addresses) > 0 && !a.provesAddresses() {
		v.bad("tls.acme.addresses", "dns-01 cannot prove addresses: add tls-alpn-01 or http-01 to tls.acme.challenges, or write []")
	}
}
