package main

import (
	"cmp"
	"context"
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

// loadCertificate reads a certificate and its key and makes sure that clients of name will accept them now.
func loadCertificate(certFile, keyFile, name string, now time.Time) (*tls.Certificate, error) {
	return readPair(certFile, keyFile).parse(name, now)
}

// pair is a certificate and its key as they were at one time.
type pair struct {
	file      string // of the certificate
	cert, key []byte
	err       error // of reading them
}

func readPair(certFile, keyFile string) pair {
	cert, certErr := os.ReadFile(certFile)
	key, keyErr := os.ReadFile(keyFile)
	return pair{certFile, cert, key, cmp.Or(certErr, keyErr)}
}

// sum returns a value that changes when what a client of name gets from p does.
func (p pair) sum(name string) [sha256.Size]byte {
	h := sha256.New()
	for _, part := range []string{name, p.file, string(p.cert), string(p.key), fmt.Sprint(p.err)} {
		fmt.Fprintf(h, "%d %s", len(part), part)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// parse returns the certificate if clients of name will accept it now. The error is of one line.
func (p pair) parse(name string, now time.Time) (*tls.Certificate, error) {
	if p.err != nil {
		return nil, p.err
	}
	cert, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.file, oneLine(err))
	}
	if err := checkLeaf(cert.Leaf, name, now); err != nil {
		return nil, fmt.Errorf("%s: %w", p.file, err)
	}
	return &cert, nil
}

// oneLine returns err for a log: without line breaks, and without a package's prefix.
func oneLine(err error) error {
	return errors.New(strings.TrimPrefix(strings.Join(strings.Fields(err.Error()), " "), "tls: "))
}

// checkLeaf checks the time and the name of a certificate.
func checkLeaf(leaf *x509.Certificate, name string, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("expired on %s: renew it", formatTime(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("is not valid before %s: is the clock right?", formatTime(leaf.NotBefore))
	}
	if err := leaf.VerifyHostname(strings.TrimSuffix(name, ".")); err != nil {
		carried := strings.Join(append(leaf.DNSNames, addressNames(leaf)...), ", ")
		if carried == "" {
			carried = "no subject alternative name"
		}
		return fmt.Errorf("is not for %s, the resolver's name, but for %s", name, carried)
	}
	return nil
}

func addressNames(leaf *x509.Certificate) []string {
	list := make([]string, len(leaf.IPAddresses))
	for i, ip := range leaf.IPAddresses {
		list[i] = ip.String()
	}
	return list
}

// uncovered returns those of addrs that leaf does not carry as iPAddress SAN and that discovery needs it to carry:
// at private addresses clients may also use it opportunistically. See RFC 9462, Section 4.3.
func uncovered(leaf *x509.Certificate, addrs []netip.Addr) (missing []netip.Addr) {
	for _, a := range addrs {
		opportunistic := a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast()
		if !opportunistic && leaf.VerifyHostname("["+a.String()+"]") != nil {
			missing = append(missing, a)
		}
	}
	return missing
}

// uncoveredWarning says which addresses of Do53 leaf does not carry, or "".
func (v *values) uncoveredWarning(leaf *x509.Certificate) string {
	missing := uncovered(leaf, v.Do53Addresses())
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("the certificate does not carry %s as IP address: "+
		"clients that ask there without encryption will not discover the encrypted transports", join(missing))
}

func join(addrs []netip.Addr) string {
	words := make([]string, len(addrs))
	for i, a := range addrs {
		words[i] = a.String()
	}
	return strings.Join(words, ", ")
}

// watchInterval is how often the certificate's files are read to see whether they have changed. They are a few
// kilobytes, and reading them works where notification does not: on network file systems, when a directory or a
// symbolic link on the way is swapped, and when a file is put in the place of another.
const watchInterval = 2 * time.Second

// certificateWatch is what is known about the files.
type certificateWatch struct {
	seen    [sha256.Size]byte // when they were last looked at
	handled [sha256.Size]byte // when they were last acted upon
}

// watchCertificate replaces the certificate when its files have, until ctx is done.
func (n *node) watchCertificate(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var w certificateWatch
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			n.lookAtCertificate(&w, time.Now())
		}
	}
}

// lookAtCertificate acts on files that are not what they were, but only once they have been the same for two looks:
// whoever writes two files needs a moment between them. A certificate that is refused is reported once, and the one
// before stays.
func (n *node) lookAtCertificate(w *certificateWatch, now time.Time) {
	// Under the lock, so that a reload does not change the name meanwhile.
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.values
	p := readPair(v.TLS.Certificate, v.TLS.Key)
	sum := p.sum(v.Name)
	settled := sum == w.seen
	w.seen = sum
	if !settled || sum == w.handled {
		return
	}
	w.handled = sum
	cert, err := p.parse(v.Name, now)
	if err != nil {
		n.certs.refuse(err)
		n.log.Error().Err(err).Msg("new certificate refused; the one before stays")
		return
	}
	if leaf := n.certs.leaf(); leaf != nil && leaf.Equal(cert.Leaf) {
		n.certs.settled()
		return
	}
	n.certs.replace(cert)
	n.log.Info().Time("expires", cert.Leaf.NotAfter).Msg("certificate replaced")
	if warning := v.uncoveredWarning(cert.Leaf); warning != "" {
		n.log.Warn().Msg(warning)
	}
}
