package resolver

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"testing"

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
}
