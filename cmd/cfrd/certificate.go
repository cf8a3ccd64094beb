package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/rs/zerolog"

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
	invalid bool              // at the last look, what is served was not valid
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

// watchCertificate replaces the certificate when its files change or become valid, unless it comes from an authority,
// and logs when what is served expires, until ctx is done.
func (n *node) watchCertificate(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var w certificateWatch
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		if n.acme == nil {
			n.lookAtCertificate(&w, now)
		}
		n.noteValidity(&w, now)
	}
}

// lookAtCertificate reads the files and acts on a change. A certificate that is refused is reported once, and the one
// before stays. While there is none that clients accept, files that have not changed are tried as well: it can be the
// clock that was wrong.
func (n *node) lookAtCertificate(w *certificateWatch, now time.Time) {
	// The lock keeps a reload from changing the name meanwhile.
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.values
	p := certs.ReadPair(v.TLS.Certificate, v.TLS.Key)
	changed := w.changed(p, v.Name)
	if !changed && n.holdsValid(v, now) {
		return
	}
	cert, err := p.Parse(v.Name, now)
	switch {
	case err == nil:
		n.useCertificate(v, cert)
	case changed:
		n.refuseCertificate(err)
	}
}

// useCertificate serves cert, if that is not what is served already. The caller holds n.mu.
func (n *node) useCertificate(v *values, cert *tls.Certificate) {
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

// refuseCertificate reports what is wrong with new files, unless that has been said already, as it has at the start.
func (n *node) refuseCertificate(err error) {
	switch {
	case n.certs.Leaf() != nil:
		n.certs.Refuse(err)
		n.log.Error().Err(err).Msg("new certificate refused; the one before stays")
	case n.certs.Complaint() != unused(err):
		n.certs.Complain(unused(err))
		n.log.Error().Err(err).Msg(waitingForCertificate)
	}
}

// waitingForCertificate is what the log says while there is no certificate to serve.
const waitingForCertificate = "certificate not used; encrypted transports wait for one, and discovery does not name them"

// unused returns what /readyz says of a certificate that cannot be served because of err.
func unused(err error) string { return "the certificate is not used: " + err.Error() }

// complainOfWaiting has /readyz say why there is no certificate, if v says so. One that was served before stays if it
// carries the name: clients that do not authenticate still get encryption.
func (n *node) complainOfWaiting(v *values) {
	if len(v.waiting) == 0 {
		return
	}
	if leaf := n.certs.Leaf(); leaf != nil && leaf.VerifyHostname(strings.TrimSuffix(v.Name, ".")) != nil {
		n.certs.Replace(nil)
	}
	n.certs.Complain(unused(errors.New(v.waiting[0].Text)))
}

// logWaiting logs why there is no certificate, if that is so.
func (v *values) logWaiting(log zerolog.Logger) {
	for _, p := range v.waiting {
		log.Error().Str("key", p.Key).Str("error", p.Text).Msg(waitingForCertificate)
	}
}

// servesCertificate reports whether the certificate of this moment is one that clients accept.
func (n *node) servesCertificate(now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.certs != nil && n.holdsValid(n.values, now)
}

// holdsValid is servesCertificate under the values v. The caller holds n.mu.
func (n *node) holdsValid(v *values, now time.Time) bool {
	leaf := n.certs.Leaf()
	return leaf != nil && certs.CheckLeaf(leaf, v.Name, now) == nil
}

// noteValidity logs when the certificate that is served expires, or becomes valid again: discovery follows by itself.
func (n *node) noteValidity(w *certificateWatch, now time.Time) {
	why := n.certs.Invalid(now)
	switch invalid := why != ""; {
	case invalid == w.invalid:
		return
	case invalid:
		n.log.Error().Msg(why + "; discovery does not name the encrypted transports any more")
	default:
		n.log.Info().Msg("the certificate is valid; discovery names the encrypted transports again")
	}
	w.invalid = !w.invalid
}
