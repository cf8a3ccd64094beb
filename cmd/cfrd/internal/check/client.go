package check

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver"
)

// Client asks one resolver over any transport, as a stub resolver would. Every query has a connection of its own, so
// that each one shows what a client meets that comes for the first time. Contexts must have a deadline.
type Client struct {
	Addr    netip.AddrPort // where to connect to; required
	From    netip.Addr     // source address; the zero value leaves it to the system
	SNI     string         // server name in TLS; "" sends none, as discovery by address requires
	Host    string         // host of DoH URLs: a name or an address without brackets; "" means that of Addr
	Path    string         // URI template of DoH; "" means svcb.DefaultDoHPath
	POST    bool           // DoH by POST instead of GET
	ALPN    string         // overrides the protocol id of DoH over TCP, "h2", with "http/1.1"
	Verify  VerifyFunc     // judges every TLS handshake; nil refuses all
	Control ControlFunc    // prepares every socket; nil leaves the interface to the system
}

// ControlFunc prepares a socket before it is bound or connected. See net.Dialer.
type ControlFunc func(network, address string, c syscall.RawConn) error

// VerifyFunc judges a TLS handshake by the certificates that the server sent.
type VerifyFunc func(tls.ConnectionState) error

// VerifyNames accepts a server with a path to roots (nil means the system's) whose certificate carries every one of
// names, which can be addresses.
func VerifyNames(roots *x509.CertPool, names ...string) VerifyFunc {
	return func(cs tls.ConnectionState) error {
		if err := verifyChain(roots, cs); err != nil {
			return err
		}
		for _, name := range names {
			if err := cs.PeerCertificates[0].VerifyHostname(name); err != nil {
				return err
			}
		}
		return nil
	}
}

// verifyChain looks for a path to roots without regard to names. See RFC 9462, Section 4.2.
func verifyChain(roots *x509.CertPool, cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the server sent no certificate")
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(opts)
	return err
}

// Exchange sends query over t and returns the response, which has the ID and the question of query.
func (c Client) Exchange(ctx context.Context, t resolver.Transport, query *dns.Msg) (*dns.Msg, error) {
	raw, err := c.roundTrip(ctx, t, query)
	if err != nil {
		return nil, err
	}
	response := new(dns.Msg)
	if err := response.Unpack(raw); err != nil {
		return nil, fmt.Errorf("parse the response: %w", err)
	}
	response.Id = query.Id
	if len(response.Question) != 1 || !strings.EqualFold(response.Question[0].String(), query.Question[0].String()) {
		return nil, errors.New("the response is to another question")
	}
	return response, nil
}

// ask sends query over t and returns the response as far as it can be read.
func (c Client) ask(ctx context.Context, t resolver.Transport, query *dns.Msg) (message, error) {
	raw, err := c.roundTrip(ctx, t, query)
	if err != nil {
		return message{}, err
	}
	return parseMessage(raw)
}

// roundTrip sends query over t and returns the response in wire form, whose ID is checked. The ID of query is not used:
// it is 0 on DoH and DoQ, and random elsewhere. See RFC 8484, Section 4.1; RFC 9250, Section 4.2.1.
func (c Client) roundTrip(ctx context.Context, t resolver.Transport, query *dns.Msg) ([]byte, error) {
	q, err := query.Pack()
	if err != nil {
		return nil, err
	}
	if clear(q[:2]); t <= resolver.DoT {
		rand.Read(q[:2])
	}
	reply, err := c.send(ctx, t, q)
	switch {
	case err != nil:
		return nil, err
	case len(reply) < 12:
		return nil, fmt.Errorf("the reply has %d octets, less than a header", len(reply))
	case !bytes.Equal(reply[:2], q[:2]):
		return nil, errors.New("the reply has another ID")
	case reply[2]&0x80 == 0:
		return nil, errors.New("the reply is a query")
	}
	return reply, nil
}

// send sends the query q over t and returns the response as it came.
func (c Client) send(ctx context.Context, t resolver.Transport, q []byte) ([]byte, error) {
	switch t {
	case resolver.UDP:
		return c.udp(ctx, q)
	case resolver.TCP:
		return c.tcp(ctx, q)
	case resolver.DoT:
		return c.dot(ctx, q)
	case resolver.DoH, resolver.DoH3:
		return c.doh(ctx, t, q)
	case resolver.DoQ:
		return c.doq(ctx, q)
	}
	return nil, fmt.Errorf("no client for transport %s", t)
}
