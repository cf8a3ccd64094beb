// Package certstest makes certificates for tests of the packages that serve or verify them. Nothing but tests may import
// it. Its functions run on the goroutine of the test that calls them.
package certstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Template describes a self-signed certificate.
type Template struct {
	Names     []string
	Addrs     []netip.Addr
	NotBefore time.Time // zero: an hour ago
	NotAfter  time.Time // zero: in an hour
}

// Write makes a key and a certificate, writes key.pem and cert.pem to dir, and returns the certificate.
func (c Template) Write(t testing.TB, dir string) *x509.Certificate {
	t.Helper()
	template := c.template()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", der)
	writePEM(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", keyDER)
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func (c Template) template() *x509.Certificate {
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-time.Hour)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(mathrand.Int64()),
		Subject:      pkix.Name{CommonName: "test"},
		DNSNames:     c.Names,
		NotBefore:    c.NotBefore,
		NotAfter:     c.NotAfter,
		IsCA:         true, BasicConstraintsValid: true,
	}
	for _, a := range c.Addrs {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	return template
}

// writePEM writes one PEM block of a kind, such as CERTIFICATE, to path.
func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
