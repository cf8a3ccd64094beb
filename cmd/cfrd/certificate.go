package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
)

// uncoveredWarning returns a warning about the addresses of Do53 that leaf does not carry, or "".
func (v *values) uncoveredWarning(leaf *x509.Certificate) string {
	missing := certs.Uncovered(leaf, v.Do53Addresses())
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("the certificate does not carry %s as IP address: "+
		"clients that ask there without encryption will not discover the encrypted transports", join(missing))
}

// join returns addrs as a list in a sentence.
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

// certificateWatch remembers what the files of the certificate held.
type certificateWatch struct {
	seen    [sha256.Size]byte // at the last look
	handled [sha256.Size]byte // when they were last acted upon
}

// changed reports whether p is to be acted upon: its files are not what they were, and have been the same for two looks.
// Whoever writes two files needs a moment between them.
func (w *certificateWatch) changed(p certs.Pair, name string) bool {
	sum := p.Sum(name)
	settled := sum == w.seen
	w.seen = sum
	if !settled || sum == w.handled {
		return false
	}
	w.handled = sum
	return true
}

// watchCertificate replaces the certificate when its files change, until ctx is done.
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

// lookAtCertificate reads the files and acts on a change. A certificate that is refused is reported once, and the one
// before stays.
func (n *node) lookAtCertificate(w *certificateWatch, now time.Time) {
	// The lock keeps a reload from changing the name meanwhile.
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.values
	p := certs.ReadPair(v.TLS.Certificate, v.TLS.Key)
	if !w.changed(p, v.Name) {
		return
	}
	cert, err := p.Parse(v.Name, now)
	if err != nil {
		n.certs.Refuse(err)
		n.log.Error().Err(err).Msg("new certificate refused; the one before stays")
		return
	}
	if leaf := n.certs.Leaf(); leaf != nil && leaf.Equal(cert.Leaf) {
		n.certs.Settle()
		return
	}
	n.certs.Replace(cert)
	n.log.Info().Time("expires", cert.Leaf.NotAfter).Msg("certificate replaced")
	if warning := v.uncoveredWarning(cert.Leaf); warning != "" {
		n.log.Warn().Msg(warning)
	}
}
