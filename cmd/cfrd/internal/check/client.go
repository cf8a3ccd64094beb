package check

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/cfrd-project/cfrd/ddr/svcb"
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

// Exchange sends m over t and returns the reply, which has the ID and the question of m.
func (c Client) Exchange(ctx context.Context, t resolver.Transport, m *dns.Msg) (*dns.Msg, error) {
	q, err := m.Pack()
	if err != nil {
		return nil, err
	}
	raw, err := c.roundTrip(ctx, t, q)
	if err != nil {
		return nil, err
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(raw); err != nil {
		return nil, fmt.Errorf("parse the reply: %w", err)
	}
	reply.Id = m.Id
	if len(reply.Question) != 1 || !strings.EqualFold(reply.Question[0].String(), m.Question[0].String()) {
		return nil, errors.New("the reply is to another question")
	}
	return reply, nil
}

// roundTrip sends the query q over t and returns the reply, whose ID is checked, both in wire form. The ID of q is
// replaced: it is 0 on DoH and DoQ, and random elsewhere. See RFC 8484, Section 4.1; RFC 9250, Section 4.2.1.
func (c Client) roundTrip(ctx context.Context, t resolver.Transport, q []byte) ([]byte, error) {
	q = bytes.Clone(q)
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

// resendAfter is how long a datagram may take before it counts as lost.
const resendAfter = time.Second

// udp asks again until ctx ends, and waits for the reply with the right ID; others may be forged, and are passed over.
func (c Client) udp(ctx context.Context, q []byte) ([]byte, error) {
	conn, err := c.dial(ctx, "udp")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	for {
		if _, err := conn.Write(q); err != nil {
			return nil, err
		}
		until := time.Now().Add(resendAfter)
		if until.After(end) {
			until = end
		}
		conn.SetReadDeadline(until)
		reply, err := readDatagram(conn, q[:2])
		if !errors.Is(err, os.ErrDeadlineExceeded) || !until.Before(end) {
			return reply, err
		}
	}
}

func readDatagram(conn net.Conn, id []byte) ([]byte, error) {
	buf := make([]byte, 0xffff)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if n >= 2 && bytes.Equal(buf[:2], id) {
			return buf[:n], nil
		}
	}
}

func (c Client) tcp(ctx context.Context, q []byte) ([]byte, error) {
	conn, err := c.dial(ctx, "tcp")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return exchangeFramed(conn, q)
}

// dial connects and lets all that follows end with ctx.
func (c Client) dial(ctx context.Context, network string) (net.Conn, error) {
	d := net.Dialer{Control: c.Control}
	if c.From.IsValid() {
		d.LocalAddr = c.localAddr(network)
	}
	conn, err := d.DialContext(ctx, network, c.Addr.String())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	return conn, nil
}

func (c Client) localAddr(network string) net.Addr {
	if network == "udp" {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.From, 0))
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.From, 0))
}

// dialQUIC connects from a socket of its own. hangUp ends the connection and closes the socket.
func (c Client) dialQUIC(ctx context.Context, alpn string, cfg *quic.Config) (conn *quic.Conn, hangUp func(), err error) {
	local := ":0"
	if c.From.IsValid() {
		local = netip.AddrPortFrom(c.From, 0).String()
	}
	lc := net.ListenConfig{Control: c.Control}
	pc, err := lc.ListenPacket(ctx, "udp", local)
	if err != nil {
		return nil, nil, err
	}
	qt := &quic.Transport{Conn: pc}
	closeSocket := func() { qt.Close(); pc.Close() }
	if conn, err = qt.Dial(ctx, net.UDPAddrFromAddrPort(c.Addr), c.tlsConfig(alpn), cfg); err != nil {
		closeSocket()
		return nil, nil, err
	}
	return conn, func() {
		const noError = 0 // See RFC 9250, Section 4.3. HTTP/3 has closed the connection before.
		conn.CloseWithError(noError, "")
		closeSocket()
	}, nil
}

// exchangeFramed sends q with a length prefix in one write and reads one reply. See RFC 1035, Section 4.2.2.
func exchangeFramed(rw io.ReadWriter, q []byte) ([]byte, error) {
	if _, err := rw.Write(frame(q)); err != nil {
		return nil, err
	}
	return readFramed(rw)
}

func frame(q []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...) }

func readFramed(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, fmt.Errorf("read the length of the reply: %w", err)
	}
	reply := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, reply); err != nil {
		return nil, fmt.Errorf("read the reply: %w", err)
	}
	return reply, nil
}

func (c Client) dot(ctx context.Context, q []byte) ([]byte, error) {
	conn, err := c.dialTLS(ctx, "dot")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return exchangeFramed(conn, q)
}

func (c Client) dialTLS(ctx context.Context, alpn string) (*tls.Conn, error) {
	conn, err := c.dial(ctx, "tcp")
	if err != nil {
		return nil, err
	}
	tc := tls.Client(conn, c.tlsConfig(alpn))
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return tc, nil
}

// tlsConfig leaves the judgement to verify, because a client that discovered the resolver by its address checks that
// address and not the name it connects with.
func (c Client) tlsConfig(alpn string) *tls.Config {
	return &tls.Config{
		ServerName: c.SNI, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, // in favour of:
		VerifyConnection: func(cs tls.ConnectionState) error {
			if c.Verify == nil {
				return errors.New("nobody verifies the server")
			}
			if err := c.Verify(cs); err != nil {
				return err
			}
			// A DoT server need not know of ALPN. See RFC 7858, Section 3.2.
			if cs.NegotiatedProtocol != alpn && (alpn != "dot" || cs.NegotiatedProtocol != "") {
				return fmt.Errorf("the server does not speak %s here: it chose ALPN %q", alpn, cs.NegotiatedProtocol)
			}
			return nil
		},
	}
}

// doh asks over HTTP/3, over HTTP/2, or over HTTP/1.1 if that is the protocol id.
func (c Client) doh(ctx context.Context, t resolver.Transport, q []byte) ([]byte, error) {
	rt, hangUp := c.roundTripper(t)
	defer hangUp()
	return c.roundTripHTTP(ctx, rt, q)
}

// roundTripper returns what requests go over. hangUp ends its connections.
func (c Client) roundTripper(t resolver.Transport) (_ http.RoundTripper, hangUp func()) {
	if t == resolver.DoH3 {
		return c.roundTripper3()
	}
	alpn := c.ALPN
	if alpn == "" {
		alpn = "h2"
	}
	rt := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.dialTLS(ctx, alpn)
		},
	}
	return rt, rt.CloseIdleConnections
}

func (c Client) roundTripper3() (_ http.RoundTripper, hangUp func()) {
	end := func() {}
	rt := &http3.Transport{
		Dial: func(ctx context.Context, _ string, _ *tls.Config, cfg *quic.Config) (*quic.Conn, error) {
			conn, hangUp, err := c.dialQUIC(ctx, "h3", cfg)
			if err == nil {
				end = hangUp
			}
			return conn, err
		},
	}
	return rt, func() { rt.Close(); end() }
}

const mediaType = "application/dns-message"

// roundTripHTTP is one DoH request. See RFC 8484, Section 4.
func (c Client) roundTripHTTP(ctx context.Context, rt http.RoundTripper, q []byte) ([]byte, error) {
	req, err := c.request(ctx, q)
	if err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: HTTP status %s", req.Method, req.URL.Path, resp.Status)
	}
	if got := resp.Header.Get("Content-Type"); got != mediaType {
		return nil, fmt.Errorf("%s %s: content type %q; want %s", req.Method, req.URL.Path, got, mediaType)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 0xffff))
}

// request builds the URL from the template, with the query in it for GET, and in the body for POST.
func (c Client) request(ctx context.Context, q []byte) (*http.Request, error) {
	template, value, method := c.Path, base64.RawURLEncoding.EncodeToString(q), http.MethodGet
	var body io.Reader
	if template == "" {
		template = svcb.DefaultDoHPath
	}
	if c.POST {
		value, method, body = "", http.MethodPost, bytes.NewReader(q)
	}
	path, err := svcb.ExpandDoHPath(template, value)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.authority()+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", mediaType)
	if c.POST {
		req.Header.Set("Content-Type", mediaType)
	}
	return req, nil
}

// authority is host and port, the latter only if it is not the default one.
func (c Client) authority() string {
	host := c.Host
	if host == "" {
		host = c.Addr.Addr().WithZone("").String()
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if c.Addr.Port() == 443 {
		return host
	}
	return fmt.Sprintf("%s:%d", host, c.Addr.Port())
}

// doq sends one query on a stream of its own and ends the stream. See RFC 9250, Section 4.2.
func (c Client) doq(ctx context.Context, q []byte) ([]byte, error) {
	conn, hangUp, err := c.dialQUIC(ctx, "doq", &quic.Config{MaxIncomingStreams: -1})
	if err != nil {
		return nil, err
	}
	defer hangUp()
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		stream.SetDeadline(deadline)
	}
	if _, err := stream.Write(frame(q)); err != nil {
		return nil, err
	}
	if err := stream.Close(); err != nil {
		return nil, err
	}
	return readFramed(stream)
}
