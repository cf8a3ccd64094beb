package certs

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
)

// Load reads a certificate and its key, both in PEM form, and makes sure that clients of the resolver name will accept
// them at the time now. The error is of one line and names the file.
func Load(certFile, keyFile, name string, now time.Time) (*tls.Certificate, error) {
	return ReadPair(certFile, keyFile).Parse(name, now)
}

// Pair is what the files of a certificate and its key held at one time.
type Pair struct {
	file      string // of the certificate
	keyFile   string
	cert, key []byte
	err       error // of reading them
}

// ReadPair reads both files. Parse returns the error, if there was one.
func ReadPair(certFile, keyFile string) Pair {
	cert, certErr := os.ReadFile(certFile)
	key, keyErr := os.ReadFile(keyFile)
	return Pair{certFile, keyFile, cert, key, cmp.Or(certErr, keyErr)}
}

// Sum returns a value that changes when what Parse returns for name does, apart from the time.
func (p Pair) Sum(name string) [sha256.Size]byte {
	h := sha256.New()
	for _, part := range []string{name, p.file, p.keyFile, string(p.cert), string(p.key), fmt.Sprint(p.err)} {
		fmt.Fprintf(h, "%d %s", len(part), part)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Parse returns the certificate if clients of the resolver name will accept it at the time now. The error is of one line
// and names the file.
func (p Pair) Parse(name string, now time.Time) (*tls.Certificate, error) {
	if p.err != nil {
		return nil, p.err
	}
	cert, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		file := p.file
		if strings.Contains(err.Error(), "key input") {
			file = p.keyFile
		}
		return nil, fmt.Errorf("%s: %w", file, OneLine(err))
	}
	if err := CheckLeaf(cert.Leaf, name, now); err != nil {
		return nil, fmt.Errorf("%s: %w", p.file, err)
	}
	return &cert, nil
}

// OneLine returns err as it fits into one line of a log: without line breaks, and without the prefix of crypto/tls.
func OneLine(err error) error {
	return errors.New(strings.TrimPrefix(strings.Join(strings.Fields(err.Error()), " "), "tls: "))
}

// CheckLeaf returns why clients of the resolver name will refuse leaf at the time now: it is not valid then, or is not
// for name. The error begins with what follows the word "certificate" in a sentence.
func CheckLeaf(leaf *x509.Certificate, name string, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("expired on %s: renew it", formatTime(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("is not valid before %s: is the clock right?", formatTime(leaf.NotBefore))
	}
	if err := leaf.VerifyHostname(strings.TrimSuffix(name, ".")); err != nil {
		carried := strings.Join(append(leaf.DNSNames, Addresses(leaf)...), ", ")
		if carried == "" {
			carried = "no subject alternative name"
		}
		return fmt.Errorf("is not for %s, the resolver's name, but for %s", name, carried)
	}
	return nil
}

// Addresses returns the addresses that leaf carries, in its order.
func Addresses(leaf *x509.Certificate) []string {
	list := make([]string, len(leaf.IPAddresses))
	for i, ip := range leaf.IPAddresses {
		list[i] = ip.String()
	}
	return list
}

// Uncovered returns those of addrs that leaf does not carry as iPAddress SAN although discovery needs that. At private
// addresses it does not, because clients may use the resolver opportunistically there. See RFC 9462, Section 4.3.
func Uncovered(leaf *x509.Certificate, addrs []netip.Addr) (missing []netip.Addr) {
	for _, a := range addrs {
		opportunistic := a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast()
		if !opportunistic && leaf.VerifyHostname("["+a.String()+"]") != nil {
			missing = append(missing, a)
		}
	}
	return missing
}
