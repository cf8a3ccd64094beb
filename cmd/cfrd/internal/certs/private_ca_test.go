package certs

import (
	"crypto/rand"
	"crypto/x509"
	"net/netip"
	"testing"
	"time"
)

// TestPrivateCAIsConstrained signs for others with the key of the authority.
func TestPrivateCAIsConstrained(t *testing.T) {
	name, addr := "dns.isp.example", netip.MustParseAddr("192.0.2.53")
	tests := map[string]struct {
		permitted []netip.Addr
		leaf      PrivateCA
	}{
		"other-name":              {[]netip.Addr{addr}, PrivateCA{Name: "www.example.com", Addrs: []netip.Addr{addr}}},
		"other-address":           {[]netip.Addr{addr}, PrivateCA{Name: name, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.54")}}},
		"other-family":            {[]netip.Addr{addr}, PrivateCA{Name: name, Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::53")}}},
		"address-of-none":         {nil, PrivateCA{Name: name, Addrs: []netip.Addr{addr}}},
		"address-of-none-in-ipv6": {nil, PrivateCA{Name: name, Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::53")}}},
	}
	for testName, test := range tests {
		t.Run(testName, func(t *testing.T) {
			now := time.Now()
			key, _, err := NewKey()
			if err != nil {
				t.Fatal(err)
			}
			parse := func(template, parent *x509.Certificate) *x509.Certificate {
				t.Helper()
				der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
				if err != nil {
					t.Fatal(err)
				}
				cert, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				return cert
			}
			template := PrivateCA{Name: name, Addrs: test.permitted}.root(now)
			root := parse(template, template)
			test.leaf.Until = now.Add(time.Hour)
			leaf := parse(test.leaf.leaf(now), root)
			roots := x509.NewCertPool()
			roots.AddCert(root)
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
				t.Error("got it accepted; want it refused by the constraints")
			}
		})
	}
}
