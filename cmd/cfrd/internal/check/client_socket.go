package check

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

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

// readDatagram returns the first datagram that begins with id.
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

// tcp asks over a TCP connection. See RFC 7766.
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

// localAddr returns the source address in the form that net.Dialer takes for network.
func (c Client) localAddr(network string) net.Addr {
	if network == "udp" {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.From, 0))
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.From, 0))
}

// exchangeFramed sends q with a length prefix in one write and reads one reply. See RFC 1035, Section 4.2.2.
func exchangeFramed(rw io.ReadWriter, q []byte) ([]byte, error) {
	if _, err := rw.Write(frame(q)); err != nil {
		return nil, err
	}
	return readFramed(rw)
}

// frame returns q with its length before it. See RFC 1035, Section 4.2.2.
func frame(q []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...) }

// readFramed reads one message with its length before it.
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

// dot asks over TLS. See RFC 7858.
func (c Client) dot(ctx context.Context, q []byte) ([]byte, error) {
	conn, err := c.dialTLS(ctx, "dot")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return exchangeFramed(conn, q)
}

// dialTLS connects and makes the handshake for one application protocol.
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
