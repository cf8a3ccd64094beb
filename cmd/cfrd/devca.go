package main

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

const (
	// devCALife is long, because whoever trusts the authority has to be visited again when it ends.
	devCALife = 10 * 365 * 24 * time.Hour
	// devLeafLife is the most that clients take of an authority that was put in by hand.
	devLeafLife = 397 * 24 * time.Hour
)

// devCA is a private authority and one certificate of it, for laboratories and for private addresses, for which no
// public authority gives certificates.
type devCA struct {
	name  string
	addrs []netip.Addr
	dir   string
	until time.Time // of the certificate
}

// The files of a devCA.
const (
	devCACert   = "ca.pem"
	devCAKey    = "ca.key"
	devLeafCert = "cert.pem"
	devLeafKey  = "key.pem"
)

// writeDevCA makes both and writes them to dir, in which there must not be any of the files.
func writeDevCA(dir, name string, addrs []netip.Addr, now time.Time) (devCA, error) {
	ca := devCA{strings.TrimSuffix(name, "."), addrs, dir, now.Add(devLeafLife)}
	if !config.IsHostname(ca.name) {
		return ca, fmt.Errorf("a certificate needs a host name such as dns.isp.example, not %q", name)
	}
	files, err := ca.make(now)
	if err != nil {
		return ca, fmt.Errorf("make certificates: %w", err)
	}
	for file := range files {
		if _, err := os.Lstat(filepath.Join(dir, file)); !isNotExist(err) {
			return ca, fmt.Errorf("%s exists and is left as it is", filepath.Join(dir, file))
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return ca, err
	}
	var errs []error
	for file, text := range files {
		errs = append(errs, writeNew(filepath.Join(dir, file), text, 0o600, false))
	}
	return ca, errors.Join(errs...)
}

// make returns the files.
func (ca devCA) make(now time.Time) (map[string][]byte, error) {
	caKey, caKeyPEM, err := newPrivateKey()
	if err != nil {
		return nil, err
	}
	leafKey, leafKeyPEM, err := newPrivateKey()
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
		devCACert:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}),
		devCAKey:    caKeyPEM,
		devLeafCert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}),
		devLeafKey:  leafKeyPEM,
	}, nil
}

// root may sign for the name and the addresses only, so that whoever trusts it need not fear that its key is lost. See
// RFC 5280, Section 4.2.1.10.
func (ca devCA) root(now time.Time) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber:                newSerial(),
		Subject:                     pkix.Name{CommonName: "cfrd private CA of " + ca.name},
		NotBefore:                   now.Add(-time.Minute), // for clocks that are a little behind
		NotAfter:                    now.Add(devCALife),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{ca.name},
	}
	for _, a := range ca.addrs {
		c.PermittedIPRanges = append(c.PermittedIPRanges, ipNet(netip.PrefixFrom(a, a.BitLen())))
	}
	if len(ca.addrs) == 0 {
		for _, p := range []string{"0.0.0.0/0", "::/0"} {
			c.ExcludedIPRanges = append(c.ExcludedIPRanges, ipNet(netip.MustParsePrefix(p)))
		}
	}
	return c
}

func (ca devCA) leaf(now time.Time) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: ca.name},
		NotBefore:    now.Add(-time.Minute),
		NotAfter:     ca.until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{ca.name},
	}
	for _, a := range ca.addrs {
		c.IPAddresses = append(c.IPAddresses, a.AsSlice())
	}
	return c
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// newSerial returns 128 bits that nobody can foresee, positive and without a leading zero.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// explain tells what was made, and how clients come to trust it.
func (ca devCA) explain(w io.Writer) {
	subjects := identity{name: ca.name, addrs: ca.addrs}.subjects()
	path := func(file string) string { return filepath.Join(ca.dir, file) }
	fmt.Fprintf(w, `Made a private authority, which can sign for these only, and its certificate for
%[1]s, valid until %[2]s:

  tls: {certificate: %[3]s, key: %[4]s}

Clients accept it once they trust %[5]s:

  Debian, Ubuntu  cp %[5]s /usr/local/share/ca-certificates/cfrd.crt && update-ca-certificates
  Fedora          trust anchor --store %[5]s
  macOS           security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain %[5]s
  Windows         certutil -addstore -f Root %[5]s
  Chromium        certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n cfrd -i %[5]s
  to try it       cfrd check --ca %[5]s ADDRESS; kdig +tls-ca=%[5]s; curl --cacert %[5]s

%[6]s is needed only to sign again; keep it from the resolver, or destroy it.
`, strings.Join(subjects, ", "), ca.until.Format(time.DateOnly), path(devLeafCert), path(devLeafKey), path(devCACert), path(devCAKey))
}

// devCAOptions are the flags of a command that makes a devCA.
type devCAOptions struct {
	wanted bool
	name   string
	addrs  []string
}

func (o *devCAOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.wanted, "dev-ca", false, "also make a private CA and a certificate, in the directory that follows")
	f.StringVar(&o.name, "name", "dns.isp.example", "with --dev-ca: the resolver's `name`")
	f.StringSliceVar(&o.addrs, "address", []string{"10.0.0.53", "2001:db8::53"}, "with --dev-ca: its `addresses`")
}

// args takes a directory, but only for a devCA.
func (o *devCAOptions) args(cmd *cobra.Command, args []string) error {
	if o.wanted {
		return cobra.MaximumNArgs(1)(cmd, args)
	}
	return cobra.NoArgs(cmd, args)
}

// write makes the devCA, if it is wanted, in the directory of args or else in dir.
func (o *devCAOptions) write(dir string, args []string, stderr io.Writer) error {
	if !o.wanted {
		return nil
	}
	if len(args) > 0 {
		dir = args[0]
	}
	var addrs []netip.Addr
	for _, s := range o.addrs {
		a, err := config.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("--address: %w", err)
		}
		addrs = append(addrs, a)
	}
	ca, err := writeDevCA(dir, o.name, addrs, time.Now())
	if err != nil {
		return err
	}
	ca.explain(stderr)
	return nil
}
