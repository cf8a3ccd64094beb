// Package certs holds the one certificate of a resolver: Holder serves it to handshakes and rotates the keys of session
// tickets, Pair reads it from files and judges whether clients will accept it, and PrivateCA makes one for laboratories.
//
// It does not know where a certificate comes from: package main watches the files, and package acme orders from an
// authority; both call Holder.Replace. Every method of Holder may be called from any goroutine, except where its comment
// says otherwise. The other types are values.
package certs

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

// TicketKeyLife is how long one session ticket key encrypts. Together with TicketKeys it bounds for how long a stolen
// key reveals the TLS 1.2 sessions that were resumed with it.
const TicketKeyLife = 8 * time.Hour

// TicketKeys is how many ticket keys are accepted, so that clients can resume a session for a day.
const TicketKeys = 3

// Holder serves the one certificate of the resolver, which can be replaced at any time, and the session tickets of all
// listeners. Its methods that only return something accept a nil Holder, which stands for a resolver without encrypted
// transports.
type Holder struct {
	// set once, before the first handshake
	challenge func(*tls.ClientHelloInfo) *tls.Config // returns what an ACME authority gets, nil for clients; or nil

	current          atomic.Pointer[tls.Certificate] // nil while there is none, such as before the first ACME order
	applied, refused atomic.Uint64                   // replacements
	next             atomic.Int64                    // when the next one will be ordered, in Unix time; 0 means unknown

	tickets tls.Config // only for its ticket keys
	keys    [][32]byte // newest first; owned by Rotate

	mu      sync.Mutex
	trouble string // what was wrong with the newest attempt at a replacement, or ""
}

// NewHolder returns a Holder that serves cert, or ends handshakes with an alert while cert is nil.
func NewHolder(cert *tls.Certificate) *Holder {
	h := &Holder{}
	h.current.Store(cert)
	h.Rotate()
	return h
}

// errNoCertificate ends handshakes while there is nothing to show.
var errNoCertificate = errors.New("there is no certificate yet")

// AnswerChallenges has handshakes for which f returns a configuration use that one instead. It must be called before
// the first handshake.
func (h *Holder) AnswerChallenges(f func(*tls.ClientHelloInfo) *tls.Config) { h.challenge = f }

// TLSConfig returns what encrypted listeners clone. The functions survive cloning, so that every listener serves the
// certificate of the moment, takes the tickets of every other, and follows the rotation of their keys. A replacement is
// seen by handshakes to come; connections that are open do not notice.
func (h *Holder) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Without regard to SNI, which discovery by address does not send. See RFC 9462, Section 6.3.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if cert := h.current.Load(); cert != nil {
				return cert, nil
			}
			return nil, errNoCertificate
		},
		// Each listener sets its own NextProtos, so that a protocol of the authority's needs a configuration of its own.
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if h.challenge == nil {
				return nil, nil
			}
			return h.challenge(hello), nil
		},
		WrapSession: func(cs tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
			return h.tickets.EncryptTicket(cs, s)
		},
		UnwrapSession: func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
			return h.tickets.DecryptTicket(ticket, cs)
		},
	}
}

// Leaf returns the certificate that handshakes get now, or nil if there is none.
func (h *Holder) Leaf() *x509.Certificate {
	if h == nil {
		return nil
	}
	return leafOf(h.current.Load())
}

// leafOf returns the leaf of cert, or nil if cert is nil.
func leafOf(cert *tls.Certificate) *x509.Certificate {
	if cert == nil {
		return nil
	}
	return cert.Leaf
}

// Current returns the certificate that handshakes get now with its chain and key, or nil if there is none.
func (h *Holder) Current() *tls.Certificate { return h.current.Load() }

// Replace serves cert from now on. It counts as a replacement unless cert is the certificate that was served before.
func (h *Holder) Replace(cert *tls.Certificate) {
	if old := h.current.Swap(cert); !leafOf(old).Equal(leafOf(cert)) {
		h.applied.Add(1)
	}
	h.Settle()
}

// Settle ends what Refuse or Complain began: the newest attempt found nothing wrong.
func (h *Holder) Settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trouble = ""
}

// Refuse counts a replacement that failed, and has Warnings say why until the next one that does not.
func (h *Holder) Refuse(why error) {
	h.refused.Add(1)
	h.Complain("the certificate was not replaced: " + why.Error())
}

// Complain has Warnings say what is wrong until the next replacement.
func (h *Holder) Complain(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trouble = what
}

// Complaint returns what Refuse or Complain said last, or "" if that is over.
func (h *Holder) Complaint() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trouble
}

// SetNext says when the next certificate will be ordered, for Stats.
func (h *Holder) SetNext(at time.Time) { h.next.Store(at.Unix()) }

// Stats are the numbers of a certificate, for metrics.
type Stats struct {
	Expiry           time.Time // zero if there is no certificate
	Applied, Refused uint64    // replacements since the start
	Failing          bool      // the newest attempt at a replacement failed
	Next             time.Time // when the next certificate will be ordered; zero if it comes from files
}

// Stats returns the numbers of now.
func (h *Holder) Stats() (s Stats) {
	if h == nil {
		return s
	}
	if leaf := h.Leaf(); leaf != nil {
		s.Expiry = leaf.NotAfter
	}
	if next := h.next.Load(); next != 0 {
		s.Next = time.Unix(next, 0)
	}
	s.Applied, s.Refused, s.Failing = h.applied.Load(), h.refused.Load(), h.Complaint() != ""
	return s
}

// Invalid returns why every client refuses the certificate at the time now, or "" if it is valid then or there is none.
func (h *Holder) Invalid(now time.Time) string {
	if leaf := h.Leaf(); leaf != nil && (now.After(leaf.NotAfter) || now.Before(leaf.NotBefore)) {
		return "the certificate is not valid now"
	}
	return ""
}

// lateShare is the part of its life, one in so many, that a certificate has left when its replacement is late.
// Authorities and their clients renew when a third is left.
const lateShare = 4

// Warnings returns what an operator should look into while clients are still served, one string for each line.
func (h *Holder) Warnings(now time.Time) (lines []string) {
	if h == nil {
		return nil
	}
	switch leaf := h.Leaf(); {
	case leaf == nil:
		lines = append(lines, "warning: there is no certificate yet, so that encrypted transports do not work")
	case now.Before(leaf.NotAfter) && leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(leaf.NotBefore)/lateShare:
		lines = append(lines, fmt.Sprintf("warning: the certificate expires on %s: renew it", formatTime(leaf.NotAfter)))
	}
	if why := h.Complaint(); why != "" {
		lines = append(lines, "warning: "+why)
	}
	return lines
}

// formatTime returns t as it is shown to operators, in UTC.
func formatTime(t time.Time) string { return t.UTC().Format(time.DateTime) }

// Rotate makes a new ticket key and forgets the oldest. Only one goroutine may call it at a time.
func (h *Holder) Rotate() {
	var key [32]byte
	rand.Read(key[:])
	h.keys = append([][32]byte{key}, h.keys[:min(len(h.keys), TicketKeys-1)]...)
	h.tickets.SetSessionTicketKeys(h.keys)
}

// RotateTickets calls Rotate every TicketKeyLife until ctx is done.
func (h *Holder) RotateTickets(ctx context.Context) {
	ticker := time.NewTicker(TicketKeyLife)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			h.Rotate()
		}
	}
}
