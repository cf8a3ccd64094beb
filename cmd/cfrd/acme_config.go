package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// acmeConfig says how to get a certificate from an authority that speaks ACME. See RFC 8555.
type acmeConfig struct {
	Directory  string          `mapstructure:"directory"`
	Email      string          `mapstructure:"email"`
	CA         string          `mapstructure:"ca"`
	Storage    string          `mapstructure:"storage"`
	Profile    string          `mapstructure:"profile"`
	Challenges []challengeType `mapstructure:"challenges"`
	Addresses  []netip.Addr    `mapstructure:"addresses"` // nil: public ones of listen.do53; empty: none
	Agree      bool            `mapstructure:"agree"`
}

// challengeType is a way to prove to an authority that a name or an address is ours.
type challengeType string

func parseChallenge(s string) (challengeType, error) {
	return oneOf(map[string]challengeType{
		acme.ChallengeTypeTLSALPN01: acme.ChallengeTypeTLSALPN01,
		acme.ChallengeTypeHTTP01:    acme.ChallengeTypeHTTP01,
		acme.ChallengeTypeDNS01:     acme.ChallengeTypeDNS01,
	})(s)
}

// used reports whether anything is written in the section.
func (a acmeConfig) used() bool { return !reflect.ValueOf(a).IsZero() }

func (a acmeConfig) directory() string {
	if a.Directory == "" {
		return certmagic.LetsEncryptProductionCA
	}
	return a.Directory
}

// challenges returns those that may be used. TLS-ALPN-01 proves names and addresses and needs no further port.
func (a acmeConfig) challenges() []challengeType {
	if len(a.Challenges) == 0 {
		return []challengeType{acme.ChallengeTypeTLSALPN01}
	}
	return a.Challenges
}

func (a acmeConfig) uses(c challengeType) bool { return a.used() && slices.Contains(a.challenges(), c) }

// provesAddresses reports whether the challenges can: DNS-01 cannot. See RFC 8738, Section 7.
func (a acmeConfig) provesAddresses() bool {
	return slices.ContainsFunc(a.challenges(), func(c challengeType) bool { return c != acme.ChallengeTypeDNS01 })
}

// identity is what a certificate is to say.
type identity struct {
	name    string
	addrs   []netip.Addr
	profile string // of the authority's, "" for its default
}

// identity returns what to ask the authority for: the resolver's name, and where clients ask before they have
// discovered anything. Private addresses are left out unless they are written, because no public authority takes them.
func (c *config) identity() identity {
	id := identity{name: strings.ToLower(strings.TrimSuffix(c.Name, ".")), profile: c.TLS.ACME.Profile}
	addrs := c.TLS.ACME.Addresses
	if addrs == nil && c.TLS.ACME.provesAddresses() {
		addrs = slices.DeleteFunc(c.do53Addresses(), func(a netip.Addr) bool { return !a.IsGlobalUnicast() || a.IsPrivate() })
	}
	for _, a := range addrs {
		if !slices.Contains(id.addrs, a) {
			id.addrs = append(id.addrs, a)
		}
	}
	return id
}

// challengeListeners returns where HTTP-01 is answered: the authority comes to port 80 of the name and of each
// address. See RFC 8555, Section 8.3.
func (c *config) challengeListeners() (addrs []netip.AddrPort) {
	if !c.TLS.ACME.uses(acme.ChallengeTypeHTTP01) {
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

func (v *validator) checkACME() {
	a := v.TLS.ACME
	if v.TLS.Certificate != "" || v.TLS.Key != "" {
		v.bad("tls.acme", "cannot be used beside tls.certificate and tls.key: remove the one or the other")
	}
	if !v.encrypted() {
		v.warn("tls: not used, because none of listen.dot, listen.doh and listen.doq is set")
	}
	if u, err := url.Parse(a.directory()); err != nil || u.Scheme != "https" || u.Host == "" {
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

func (v *validator) checkChallenges() {
	a := v.TLS.ACME
	onPort := func(port uint16) func(netip.AddrPort) bool {
		return func(l netip.AddrPort) bool { return l.Port() == port }
	}
	if a.uses(acme.ChallengeTypeTLSALPN01) && !slices.ContainsFunc(v.Listen.DoH, onPort(443)) {
		v.bad("tls.acme.challenges", "tls-alpn-01 is answered on port 443 of listen.doh, which is not there: use http-01 or dns-01")
	}
	if a.uses(acme.ChallengeTypeDNS01) && !slices.ContainsFunc(v.Listen.Do53, onPort(53)) {
		v.bad("tls.acme.challenges", "dns-01 is answered on port 53 of listen.do53, which is not there: use tls-alpn-01 or http-01")
	}
	if len(a.Addresses) > 0 && !a.provesAddresses() {
		v.bad("tls.acme.addresses", "dns-01 cannot prove addresses: add tls-alpn-01 or http-01 to tls.acme.challenges, or write []")
	}
}

// loadACME reads the certificate of an earlier run. There need not be one.
func (l *loader) loadACME(now time.Time) {
	if a := l.TLS.ACME; a.CA != "" {
		if _, err := loadRoots(a.CA); err != nil {
			l.problems.add("tls.acme.ca", "%s", err)
		}
	}
	if err := checkWritable(l.TLS.ACME.Storage); err != nil {
		l.problems.add("tls.acme.storage", "%s: what an authority gives could not be kept", err)
		return
	}
	id := l.identity()
	cert, err := newACMEStore(l.TLS.ACME).load(id.name)
	if err == nil {
		err = checkLeaf(cert.Leaf, id.name, now)
	}
	switch {
	case err == nil:
		l.certificate = cert
	case !isNotExist(err):
		l.warnings = append(l.warnings, fmt.Sprintf("tls.acme.storage: the certificate that is kept there is not used: %s", oneLine(err)))
	}
}

// checkWritable makes a file where dir is, or will be made, and removes it.
func checkWritable(dir string) error {
	for {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
		if err == nil || filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	f, err := os.CreateTemp(dir, ".cfrd-*")
	if err != nil {
		return err
	}
	name := f.Name()
	f.Close()
	return os.Remove(name)
}
