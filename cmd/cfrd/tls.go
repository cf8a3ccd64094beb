package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// ticketKeyLife is how long one session ticket key encrypts. Together with ticketKeys it bounds for how long a
// stolen key reveals the TLS 1.2 sessions resumed with it.
const ticketKeyLife = 8 * time.Hour

// ticketKeys is how many ticket keys are accepted: resumption works for a day.
const ticketKeys = 3

// certificates serves the one certificate of the resolver, which can be replaced at any time, and the session
// tickets of all listeners.
type certificates struct {
	current atomic.Pointer[tls.Certificate]
	tickets tls.Config // only for its ticket keys
	keys    [][32]byte // newest first; owned by rotate
}

// newCertificates returns nil if cert is nil.
func newCertificates(cert *tls.Certificate) *certificates {
	if cert == nil {
		return nil
	}
	c := &certificates{}
	c.current.Store(cert)
	c.rotate()
	return c
}

// config returns what encrypted listeners clone. The ticket functions survive cloning, so that every listener takes
// the tickets of every other, and follows the rotation.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Without regard to SNI, which discovery by address does not send. See RFC 9462, Section 6.3.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
		WrapSession: func(cs tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
			return c.tickets.EncryptTicket(cs, s)
		},
		UnwrapSession: func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
			return c.tickets.DecryptTicket(ticket, cs)
		},
	}
}

// leaf returns the certificate that handshakes get right now, or nil.
func (c *certificates) leaf() *x509.Certificate {
	if c == nil {
		return nil
	}
	return c.current.Load().Leaf
}

// rotate makes a new ticket key and forgets the oldest.
func (c *certificates) rotate() {
	var key [32]byte
	rand.Read(key[:])
	c.keys = append([][32]byte{key}, c.keys[:min(len(c.keys), ticketKeys-1)]...)
	c.tickets.SetSessionTicketKeys(c.keys)
}

// rotateTickets rotates until ctx is done.
func (c *certificates) rotateTickets(ctx context.Context) {
	ticker := time.NewTicker(ticketKeyLife)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.rotate()
		}
	}
}

// loadCertificate reads a certificate and its key and makes sure that clients of name will accept them now.
func loadCertificate(certFile, keyFile, name string, now time.Time) (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	if err := checkLeaf(cert.Leaf, name, now); err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	return &cert, nil
}

// checkLeaf checks the time and the name of a certificate.
func checkLeaf(leaf *x509.Certificate, name string, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("expired on %s: renew it", leaf.NotAfter.Format(time.DateTime))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("is not valid before %s: is the clock right?", leaf.NotBefore.Format(time.DateTime))
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
