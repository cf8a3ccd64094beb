package resolver

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/quic-go/quic-go"
)

func refusedQUIC(t *testing.T, s *testServer, addr netip.AddrPort, proto string) {
	t.Helper()
	_, err := quic.DialAddr(t.Context(), addr.String(), s.clientTLS(proto), nil)
	te, ok := errors.AsType[*quic.TransportError](err)
	if !ok || te.ErrorCode != quic.ConnectionRefused {
		t.Errorf("got %v; want CONNECTION_REFUSED", err)
	}
}
