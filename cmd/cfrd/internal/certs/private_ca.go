package certs

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"time"
)

const (
	// caLife is long, because every host that trusts the authority has to be visited again when it ends.
	caLife = 10 * 365 * 24 * time.Hour
	// leafLife is the most that clients accept of an authority that was installed by hand.
	leafLife = 397 * 24 * time.Hour
)

// PrivateCA is a private authority and one certificate of it, for laboratories and for private addresses, for which no
// public authority gives certificates.
type PrivateCA struct {
	Name  string       // the resolver's, without a final dot
	Addrs []netip.Addr // the resolver's
	Until time.Time    // when the certificate expires
}

// The names of the files of a PrivateCA.
const (
	FileCACert = "ca.pem"
	FileCAKey  = "ca.key"
	FileCert   = "cert.pem"
	FileKey    = "key.pem"
)

// NewPrivateCA returns the authority of the resolver name at addrs, which is valid from now on. It makes no keys yet.
func NewPrivateCA(name string, addrs []netip.Addr, now time.Time) PrivateCA {
	return PrivateCA{strings.TrimSuffix(name, "."), addrs, now.Add(leafLife)}
}

// Files makes keys and certificates, valid from now on, and returns their PEM forms by the names of their files.
func (ca PrivateCA) Files(now time.Time) (map[string][]byte, error) {
	files, err := ca.files(now)
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	return files, nil
}

// files does the work of Files.
func (ca PrivateCA) files(now time.Time) (map[string][]byte, error) {
	caKey, caKeyPEM, err := NewKey()
	if err != nil {
		return nil, err
	}
	leafKey, leafKeyPEM, err := NewKey()
	if err != nil {
		return nil, err
	}
	root := ca.root(now)
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		return nil, err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, ca.leaf(now), root, leafKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		FileCACert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}),
		FileCAKey:  caKeyPEM,
		FileCert:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}),
		FileKey:    leafKeyPEM,
	}, nil
}

// root returns the template of the authority. It can sign for the name and the addresses only, so that its key is of no
// use against anything else if it is lost. See RFC 5280, Section 4.2.1.10.
func (ca PrivateCA) root(now time.Time) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber:                newSerial(),
		Subject:                     pkix.Name{CommonName: "cfrd private CA of " + ca.Name},
		NotBefore:                   now.Add(-time.Minute), // for clocks that are a little behind
		NotAfter:                    now.Add(caLife),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{ca.Name},
	}
	for _, a := range ca.Addrs {
		c.PermittedIPRanges = append(c.PermittedIPRanges, ipNet(netip.PrefixFrom(a, a.BitLen())))
	}
	if len(ca.Addrs) == 0 {
		for _, p := range []string{"0.0.0.0/0", "::/0"} {
			c.ExcludedIPRanges = append(c.ExcludedIPRanges, ipNet(netip.MustParsePrefix(p)))
		}
	}
	return c
}

// leaf returns the template of the certificate.
func (ca PrivateCA) leaf(now time.Time) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: ca.Name},
		NotBefore:    now.Add(-time.Minute),
		NotAfter:     ca.Until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{ca.Name},
	}
	for _, a := range ca.Addrs {
		c.IPAddresses = append(c.IPAddresses, a.AsSlice())
	}
	return c
}

// ipNet returns p in the form of package net.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// newSerial returns a random serial number of 127 bits. See RFC 5280, Section 4.1.2.2.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}
