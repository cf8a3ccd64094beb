package resolver

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

func refusedQUIC(t *testing.T, s *testServer, addr netip.AddrPort, proto string) {
	t.Helper()
	conf := s.clientTLS(proto)
	// A post-quantum hello takes two packets, and the second one would be another attempt.
	conf.CurvePreferences = []tls.CurveID{tls.X25519}
	_, err := quic.DialAddr(t.Context(), addr.String(), conf, nil)
	te, ok := errors.AsType[*quic.TransportError](err)
	if !ok || te.ErrorCode != quic.ConnectionRefused {
		t.Errorf("got %v; want CONNECTION_REFUSED", err)
	}
	outlastQUIC(t, addr)
}

// outlastQUIC returns when the server at addr has taken in all that was sent to it before. A client that was refused
// may have repeated its first packet by then, which would be a connection as soon as there is room for one. Packets are
// taken in turn, and one of an unknown version is answered. See RFC 9000, Section 6.1.
func outlastQUIC(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	c, err := net.Dial("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	unknown := make([]byte, 1200)
	copy(unknown, []byte{0xc0, 0x0a, 0x0a, 0x0a, 0x0a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1, 2, 3, 4, 5, 6, 7, 8})
	if _, err := c.Write(unknown); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1200)); err != nil {
		t.Errorf("no answer to an unknown version: %v", err)
	}
}
