package resolver

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// A second server on an address that is in use is told so, although SO_REUSEPORT would let it share.
func TestAddressInUse(t *testing.T) {
	s := startServer(t, nil)
	a := s.Addrs()
	cert, _ := testCertificate(t)
	for name, listen := range map[string]Listen{
		"Do53": {Do53: a.Do53}, "DoT": {DoT: a.DoT}, "DoH": {DoH: a.DoH}, "DoQ": {DoQ: a.DoQ},
	} {
		_, err := newServer(Config{Listen: listen, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, newFake())
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: got %v; want address in use", name, err)
			continue
		}
		if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "127.0.0.1:") {
			t.Errorf("%s: got %q; want protocol and address named", name, err)
		}
	}
}

func TestPortZero(t *testing.T) {
	s := startServer(t, nil)
	for name, list := range map[string][]netip.AddrPort{
		"Do53": s.Addrs().Do53, "DoT": s.Addrs().DoT, "DoH": s.Addrs().DoH, "DoQ": s.Addrs().DoQ,
	} {
		if len(list) == 0 || slices.ContainsFunc(list, func(a netip.AddrPort) bool { return a.Port() == 0 }) {
			t.Errorf("%s: got %v; want addresses with ports", name, list)
		}
	}
	// That TCP and UDP have the same one is what TestSameQuestionSameAnswer relies on.
}

// 0.0.0.0 and [::] can be listed side by side, and DoT and DoQ have one port.
func TestSamePort(t *testing.T) {
	port, tlsPort := netns.Port(t), netip.AddrPortFrom(loopback.Addr(), netns.Port(t))
	s := startServer(t, func(c *Config) {
		c.Listen.Do53 = []netip.AddrPort{
			netip.AddrPortFrom(netip.IPv4Unspecified(), port),
			netip.AddrPortFrom(netip.IPv6Unspecified(), port),
		}
		c.Listen.DoT = []netip.AddrPort{tlsPort}
		c.Listen.DoQ = []netip.AddrPort{tlsPort}
	})
	if got := s.Addrs(); len(got.Do53) != 2 || got.DoT[0] != got.DoQ[0] {
		t.Errorf("got %v", got)
	}
}

func TestNeedsCertificate(t *testing.T) {
	if _, err := newServer(Config{Listen: everywhere()}, newFake()); err == nil {
		t.Error("got nil; want an error")
	}
}
