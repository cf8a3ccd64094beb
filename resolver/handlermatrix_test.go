package resolver

import (
	"context"
	"crypto/tls"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// startReal runs a server on all transports, with h behind it instead of a fake, until the test ends.
func startReal(t *testing.T, h *forwarder) *testServer {
	t.Helper()
	cert, roots := testCertificate(t)
	s, err := newServer(Config{Listen: everywhere(), TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ts := &testServer{Server: s, roots: roots, stop: stop, done: make(chan error, 1)}
	go func() { ts.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := ts.wait(); err != nil {
			t.Errorf("Run: got %v; want nil", err)
		}
	})
	return ts
}

// clientsOn returns settings in which the clients of prefix may ask.
func clientsOn(prefix string) Config {
	return Config{Settings: Settings{Clients: []netip.Prefix{netip.MustParsePrefix(prefix)}}}
}

// Every malformed message, over every transport: the RCODE that its file names, or a closed connection, and nothing
// for the upstream.
func TestMalformedOverAll(t *testing.T) {
	up := dnstest.Records()
	s := startReal(t, testHandler(t, clientsOn("127.0.0.0/8"), up))
	overAll(t, func(t *testing.T, tr transport) {
		ask := tr.dial(t, s)
		for _, c := range dnstest.Malformed(t) {
			name, want, msg := c.Name, c.Want, c.Msg
			switch {
			case want == "pending", len(msg) < 2, tr.is == UDP && want == "dropped":
				continue // TestMalformed has them; over UDP there would be nothing to wait for
			case want == "dropped":
				if out, err := tr.dial(t, s)(t.Context(), msg); err == nil {
					t.Errorf("%s: got %x; want no reply", name, out)
				}
				continue
			}
			out, err := ask(t.Context(), msg)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if channels[tr.is]&wire.Padded != 0 {
				out = dnstest.Unpadded(t, out)
			}
			if got := dnstest.Rcode(t, msg, out); got != want {
				t.Errorf("%s: got %s; want %s", name, got, want)
			}
		}
	})
	if got := up.Asked.Load(); got != 0 {
		t.Errorf("got %d queries upstream; want none", got)
	}
}

// Who may not ask is refused also what is in the cache.
func TestDeniedOverAll(t *testing.T) {
	h := testHandler(t, clientsOn("127.0.0.0/8"), dnstest.Records("www.example. 300 IN A 198.51.100.1"))
	s := startReal(t, h)
	m := dnstest.Query("www.example.", dns.TypeA)
	overAll(t, func(t *testing.T, tr transport) {
		for prefix, want := range map[string]int{"127.0.0.0/8": dns.RcodeSuccess, "192.0.2.0/24": dns.RcodeRefused} {
			set := *h.settings.Load()
			set.clients, _ = newPrefixSet([]netip.Prefix{netip.MustParsePrefix(prefix)})
			h.settings.Store(&set)
			out, err := tr.dial(t, s)(t.Context(), dnstest.Pack(t, m))
			if err != nil {
				t.Fatal(err)
			}
			r := dnstest.Unpack(t, out)
			if r.Rcode != want || len(r.Answer) != 1 && want == dns.RcodeSuccess || len(r.Answer) != 0 && want != dns.RcodeSuccess {
				t.Errorf("clients %s: got\n%v\nwant RCODE %d", prefix, r, want)
			}
		}
	})
}
