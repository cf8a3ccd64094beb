package acme

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
)

// Identity is what a certificate is to say.
type Identity struct {
	Name    string       // the resolver's, in lower case and without a final dot
	Addrs   []netip.Addr // iPAddress SANs, each once
	Profile string       // one of the authority's; "" means its default
}

// NewIdentity returns the Identity of the resolver name, in whatever case and with or without a final dot.
func NewIdentity(name string, addrs []netip.Addr, profile string) Identity {
	return Identity{strings.ToLower(strings.TrimSuffix(name, ".")), addrs, profile}
}

// subjects returns what goes into the certificate.
func (id Identity) subjects() []string {
	list := []string{id.Name}
	for _, a := range id.Addrs {
		list = append(list, a.String())
	}
	return list
}

// isOf reports whether leaf says what id does, no less and no more.
func (id Identity) isOf(leaf *x509.Certificate) bool {
	if len(leaf.IPAddresses) != len(id.Addrs) || !slices.Equal(leaf.DNSNames, []string{id.Name}) {
		return false
	}
	for _, a := range id.Addrs {
		if leaf.VerifyHostname("["+a.String()+"]") != nil {
			return false
		}
	}
	return true
}

// check makes sure that cert is what was wanted, and valid.
func (id Identity) check(cert *tls.Certificate, now time.Time) error {
	if err := certs.CheckLeaf(cert.Leaf, id.Name, now); err != nil {
		return err
	}
	if !id.isOf(cert.Leaf) {
		carried := append(append([]string(nil), cert.Leaf.DNSNames...), certs.Addresses(cert.Leaf)...)
		return errors.New("is for " + strings.Join(carried, ", ") + ", not for " + strings.Join(id.subjects(), ", "))
	}
	return nil
}
