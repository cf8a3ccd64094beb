package resolver

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// sockets returns the names of the sockets that this process has open.
func sockets(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(name, "socket:") {
			names = append(names, name)
		}
	}
	return names
}

// newSockets returns how many sockets there are that before does not have.
func newSockets(t *testing.T, before []string) (n int) {
	t.Helper()
	for _, name := range sockets(t) {
		if !slices.Contains(before, name) {
			n++
		}
	}
	return n
}

func listenEverywhere(t *testing.T) Config {
	cert, _ := testCertificate(t)
	return Config{
		Listen:   everywhere(),
		TLS:      &tls.Config{Certificates: []tls.Certificate{cert}},
		Settings: Settings{Upstreams: []Upstream{{Addr: netip.MustParseAddrPort("192.0.2.1:53"), Exchanger: dnstest.Records()}}},
	}
}

// TestCloseWithoutRun: a server that never runs gives everything back.
func TestCloseWithoutRun(t *testing.T) {
	cfg := listenEverywhere(t)
	before := sockets(t)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if newSockets(t, before) < 6 { // two each of Do53 and DoH, one each of DoT and DoQ
		t.Error("got too few sockets; want all listeners")
	}
	s.Close()
	if n := newSockets(t, before); n != 0 {
		t.Errorf("got %d sockets after Close; want none", n)
	}
	if s.backend.(*forwarder).tasks.ctx.Err() == nil {
		t.Error("the forwarder goes on")
	}
	s.Close() // does nothing
}

// TestLateListenerLeaksNone: whichever listener cannot be bound, none of the others stays.
func TestLateListenerLeaksNone(t *testing.T) {
	pc, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ln, err := net.Listen("tcp4", loopback.String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	takenUDP := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	takenTCP := ln.Addr().(*net.TCPAddr).AddrPort()
	for name, change := range map[string]func(*Listen){
		"Do53":       func(l *Listen) { l.Do53 = append(l.Do53, takenTCP) },
		"Do53-UDP":   func(l *Listen) { l.Do53 = append(l.Do53, takenUDP) },
		"DoT":        func(l *Listen) { l.DoT = append(l.DoT, takenTCP) },
		"DoH":        func(l *Listen) { l.DoH = append(l.DoH, takenTCP) },
		"DoH-HTTP/3": func(l *Listen) { l.DoH = append(l.DoH, takenUDP) },
		"DoQ":        func(l *Listen) { l.DoQ = append(l.DoQ, takenUDP) },
	} {
		cfg := listenEverywhere(t)
		change(&cfg.Listen)
		before := sockets(t)
		if _, err := New(cfg); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: got %v; want address in use", name, err)
		}
		if n := newSockets(t, before); n != 0 {
			t.Errorf("%s: got %d sockets left; want none", name, n)
		}
	}
}
