package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/check"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/reuseport"
	"github.com/cfrd-project/cfrd/e2e/netns"
	"github.com/cfrd-project/cfrd/resolver"
)

// withRelay adds a relay to the lab, which steers steered.example, and returns its port.
func (l *lab) withRelay(t *testing.T) (port uint16) {
	t.Helper()
	port = netns.Port(t)
	pool := netip.MustParsePrefix("127.200.0.0/24")
	l.config["steer"] = "{allow_special: [127.0.0.0/8], rules: [{suffixes: [steered.example]}]}"
	l.config["relay"] = fmt.Sprintf("{ports: [%d], table: {prefixes: [%s], store: leases.db}, egress: [127.210.0.0/16], "+
		"allow_special: [127.0.0.0/8], limits: {drain_timeout: 1s, dial_timeout: 1s}}", port, pool)
	return port
}

// echoTCP sends everything back that comes to the lab's address and port, until the test ends.
func (l *lab) echoTCP(t *testing.T, port uint16) {
	t.Helper()
	// The relay's wildcard listener has the same port.
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.addr, port)))
	if err != nil {
		t.Fatal(err)
	}
	if err := reuseport.Share(ln); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// ask sends one question over a transport and returns the reply.
func (l *lab) ask(t *testing.T, tr resolver.Transport, name string) *dns.Msg {
	t.Helper()
	ports := map[resolver.Transport]uint16{
		resolver.UDP: 8053, resolver.TCP: 8053, resolver.DoT: 8853, resolver.DoQ: 8853, resolver.DoH: 8443, resolver.DoH3: 8443,
	}
	c := check.Client{Addr: netip.AddrPortFrom(l.addr, ports[tr]), Verify: check.VerifyNames(l.roots, l.addr.String())}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := c.Exchange(ctx, tr, check.Question(name, dns.TypeA))
	if err != nil {
		t.Fatalf("%s over %s: %v", name, tr, err)
	}
	return reply
}

// TestNothingJoinsClientsToDestinations makes customers' journeys at the most verbose level, those that work and those
// that fail, and then reads everything that was written down.
func TestNothingJoinsClientsToDestinations(t *testing.T) {
	l := newLab(t)
	l.config["clients"] = "[127.0.0.0/16]"
	port := l.withRelay(t)
	l.echoTCP(t, port)
	l.serveUpstream(t)
	n, log := l.start(t)

	client := netip.MustParseAddr("127.0.0.1") // what the kernel takes for loopback destinations
	secrets := []string{"secret", "steered.example", l.addr.String() + ":" + fmt.Sprint(port)}
	for tr := range resolver.NumTransports {
		if reply := l.ask(t, tr, fmt.Sprintf("secret-%s.example.", tr)); reply.Rcode != dns.RcodeSuccess {
			t.Errorf("over %s: got %s; want NOERROR", tr, dns.RcodeToString[reply.Rcode])
		}
		l.ask(t, tr, "secret.nonexistent.")
	}
	secrets = append(secrets, l.journey(t, port)...)
	l.provoke(t, client)

	_, metrics := l.get(t, "/metrics")
	for line := range strings.Lines(metrics) {
		if strings.Contains(line, client.String()) || containsAny(line, secrets) {
			t.Errorf("metric names a client, a name or a destination: %s", line)
		}
	}
	for _, line := range log.lines() {
		if strings.Contains(line, client.String()) && containsAny(line, secrets) {
			t.Errorf("log line joins a client to a destination: %s", line)
		}
	}
	if n.dns.Stats().Steered == 0 || n.relay.Stats().Flows[0] == 0 {
		t.Error("nothing was steered and relayed, so that this test shows nothing")
	}
}

// journey goes to a steered name through the relay, and returns the relay addresses that it met.
func (l *lab) journey(t *testing.T, port uint16) (secrets []string) {
	t.Helper()
	for tr := range resolver.NumTransports {
		reply := l.ask(t, tr, "www.steered.example.")
		if len(reply.Answer) != 1 {
			t.Fatalf("over %s: got %v; want one address", tr, reply.Answer)
		}
		addr, _ := netip.AddrFromSlice(reply.Answer[0].(*dns.A).A)
		secrets = append(secrets, addr.Unmap().String())
		l.throughRelay(t, netip.AddrPortFrom(addr.Unmap(), port))
	}
	return secrets
}

// throughRelay sends an octet to the relay's address and waits for it to come back.
func (l *lab) throughRelay(t *testing.T, relay netip.AddrPort) {
	t.Helper()
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", relay.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("through the relay: %v", err)
	}
}

// provoke does what is refused: a query of a host that is not a client, garbage, and half a TLS handshake.
func (l *lab) provoke(t *testing.T, client netip.Addr) {
	t.Helper()
	q, err := check.Question("secret-refused.example.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	stranger := netip.MustParseAddr("127.1.2.3") // not in clients
	for _, from := range []netip.Addr{client, stranger} {
		for network, port := range map[string]uint16{"udp": 8053, "tcp": 8853} {
			c, err := dialFrom(network, from).DialContext(t.Context(), network, netip.AddrPortFrom(l.addr, port).String())
			if err != nil {
				t.Fatal(err)
			}
			for _, octets := range [][]byte{q, q[:len(q)-3], []byte("secret\n")} {
				_, _ = c.Write(octets)
			}
			c.Close()
		}
	}
}

func containsAny(s string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}
