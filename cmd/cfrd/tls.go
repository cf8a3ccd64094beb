package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
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
	// set once by newCertificates
	challenge func(*tls.ClientHelloInfo) *tls.Config // answers the handshakes of an ACME authority, or nil

	current          atomic.Pointer[tls.Certificate] // nil until an ACME authority has given the first one
	applied, refused atomic.Uint64                   // replacements
	next             atomic.Int64                    // when the next one will be asked for, in Unix time, or 0

	tickets tls.Config // only for its ticket keys
	keys    [][32]byte // newest first; owned by rotate

	mu      sync.Mutex
	trouble string // what was wrong with the newest attempt at a replacement, or ""
}

// newCertificates serves cert, which may be nil for the time being.
func newCertificates(cert *tls.Certificate) *certificates {
	c := &certificates{}
	c.current.Store(cert)
	c.rotate()
	return c
}

// errNoCertificate ends handshakes while there is nothing to show.
var errNoCertificate = errors.New("there is no certificate yet")

// config returns what encrypted listeners clone. The functions survive cloning, so that every listener serves the
// certificate of the moment, takes the tickets of every other, and follows the rotation of their keys. A replacement is
// seen by handshakes to come; connections that are open do not notice.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Without regard to SNI, which discovery by address does not send. See RFC 9462, Section 6.3.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if cert := c.current.Load(); cert != nil {
				return cert, nil
			}
			return nil, errNoCertificate
		},
		// Each listener sets its own NextProtos, so that a protocol of the authority's needs a configuration of its own.
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if c.challenge == nil {
				return nil, nil
			}
			return c.challenge(hello), nil
		},
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
	if cert := c.current.Load(); cert != nil {
		return cert.Leaf
	}
	return nil
}

// replace serves cert from now on.
func (c *certificates) replace(cert *tls.Certificate) {
	if old := c.current.Swap(cert); old == nil || !old.Leaf.Equal(cert.Leaf) {
		c.applied.Add(1)
	}
	c.settled()
}

// settled forgets what was wrong: the newest attempt found nothing to complain of.
func (c *certificates) settled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = ""
}

// refuse counts a replacement that came to nothing, and remembers why.
func (c *certificates) refuse(why error) {
	c.refused.Add(1)
	c.complain("the certificate was not replaced: " + why.Error())
}

// complain has warnings say what is wrong until the next replacement.
func (c *certificates) complain(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = what
}

// complaint returns what is wrong, or "".
func (c *certificates) complaint() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble
}

// certificateStats is what metrics tell of a certificate.
type certificateStats struct {
	expiry           time.Time // zero if there is none
	applied, refused uint64    // replacements
	failing          bool      // the newest attempt at one came to nothing
	next             time.Time // when the next one will be asked for; zero if it comes from files
}

func (c *certificates) stats() (s certificateStats) {
	if c == nil {
		return s
	}
	if leaf := c.leaf(); leaf != nil {
		s.expiry = leaf.NotAfter
	}
	if next := c.next.Load(); next != 0 {
		s.next = time.Unix(next, 0)
	}
	s.applied, s.refused, s.failing = c.applied.Load(), c.refused.Load(), c.complaint() != ""
	return s
}

// invalid reports why handshakes fail with every client, or "".
func (c *certificates) invalid(now time.Time) string {
	if leaf := c.leaf(); leaf != nil && (now.After(leaf.NotAfter) || now.Before(leaf.NotBefore)) {
		return "the certificate is not valid now"
	}
	return ""
}

// lateShare of its life is what a certificate has left when its replacement is late. Authorities and their clients
// renew when a third is left.
const lateShare = 4

// warnings returns what an operator should look into while clients are still served, one a line.
func (c *certificates) warnings(now time.Time) (lines []string) {
	if c == nil {
		return nil
	}
	switch leaf := c.leaf(); {
	case leaf == nil:
		lines = append(lines, "warning: there is no certificate yet, so that encrypted transports do not work")
	case now.Before(leaf.NotAfter) && leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(leaf.NotBefore)/lateShare:
		lines = append(lines, fmt.Sprintf("warning: the certificate expires on %s: renew it", formatTime(leaf.NotAfter)))
	}
	if why := c.complaint(); why != "" {
		lines = append(lines, "warning: "+why)
	}
	return lines
}

func formatTime(t time.Time) string { return t.UTC().Format(time.DateTime) }

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
