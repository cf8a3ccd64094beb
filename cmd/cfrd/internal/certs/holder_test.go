package certs

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
)

func TestLoadCertificateErrors(t *testing.T) {
	now := time.Now()
	tests := map[string]struct {
		cert certstest.Template
		want string
	}{
		"expired": {
			certstest.Template{Names: []string{"dns.isp.example"}, NotAfter: now.Add(-time.Minute)},
			"expired on",
		},
		"not-yet-valid": {
			certstest.Template{Names: []string{"dns.isp.example"}, NotBefore: now.Add(time.Minute)},
			"is not valid before",
		},
		"other-name": {
			certstest.Template{Names: []string{"other.example"}, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53")}},
			"is not for dns.isp.example, the resolver's name, but for other.example, 192.0.2.53",
		},
		"no-name": {
			certstest.Template{},
			"but for no subject alternative name",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			test.cert.Write(t, dir)
			_, err := Load(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", now)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want one with %q", err, test.want)
			}
		})
	}
}

func TestLoadCertificateOfOtherKey(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	certstest.Template{Names: []string{"dns.isp.example"}}.Write(t, a)
	certstest.Template{Names: []string{"dns.isp.example"}}.Write(t, b)
	_, err := Load(filepath.Join(a, "cert.pem"), filepath.Join(b, "key.pem"), "dns.isp.example", time.Now())
	if err == nil || !strings.Contains(err.Error(), "private key does not match") {
		t.Errorf("got error %v; want a mismatch", err)
	}
}

func TestUncovered(t *testing.T) {
	covered, missing := netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")
	private := netip.MustParseAddr("10.0.0.53")
	leaf := certstest.Template{Addrs: []netip.Addr{covered}}.Write(t, t.TempDir())
	got := Uncovered(leaf, []netip.Addr{covered, missing, private})
	if len(got) != 1 || got[0] != missing {
		t.Errorf("got %v; want %v: private addresses are discovered without it", got, missing)
	}
}

func testCertificates(t *testing.T) (*Holder, *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	leaf := certstest.Template{Names: []string{"dns.isp.example"}}.Write(t, dir)
	cert, err := Load(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return NewHolder(cert), pool
}

// handshake connects a client to a listener with config server, and returns what the client saw.
func handshake(t *testing.T, server, client *tls.Config) tls.ConnectionState {
	t.Helper()
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(s, server)
		_, err := conn.Write([]byte{0})
		done <- err
	}()
	conn := tls.Client(c, client)
	// The read takes the session ticket in as well, which comes before the octet.
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState()
}

// TestResumptionAcrossListeners resumes a session of one clone of the configuration at another, as long as the key of
// its ticket has not been forgotten.
func TestResumptionAcrossListeners(t *testing.T) {
	holder, pool := testCertificates(t)
	dot, doq := holder.TLSConfig().Clone(), holder.TLSConfig().Clone()
	client := &tls.Config{RootCAs: pool, ServerName: "dns.isp.example", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	if handshake(t, dot, client).DidResume {
		t.Fatal("first handshake: got a resumed session; want a new one")
	}
	for range TicketKeys - 1 {
		holder.Rotate()
	}
	first := client.Clone() // keeps the session, whatever tickets come next
	first.ClientSessionCache = frozenCache{client.ClientSessionCache}
	if !handshake(t, doq, first).DidResume {
		t.Error("at another listener: got a new session; want it resumed")
	}
	holder.Rotate()
	if handshake(t, doq, first).DidResume {
		t.Error("after the key was forgotten: got a resumed session; want a new one")
	}
}

// frozenCache is a session cache that takes nothing in.
type frozenCache struct{ tls.ClientSessionCache }

func (frozenCache) Put(string, *tls.ClientSessionState) {}

// TestTicketsRotate has the clock run until the first key is forgotten.
func TestTicketsRotate(t *testing.T) {
	holder, _ := testCertificates(t)
	synctest.Test(t, func(t *testing.T) {
		go holder.RotateTickets(t.Context())
		// In the bubble it is another year than that of the certificate.
		client := &tls.Config{InsecureSkipVerify: true, ServerName: "dns.isp.example", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		handshake(t, holder.TLSConfig(), client)
		client.ClientSessionCache = frozenCache{client.ClientSessionCache}
		for n := range TicketKeys {
			synctest.Wait()
			if !handshake(t, holder.TLSConfig(), client).DidResume {
				t.Errorf("after %d rotations: got a new session; want it resumed", n)
			}
			time.Sleep(TicketKeyLife)
		}
		synctest.Wait()
		if handshake(t, holder.TLSConfig(), client).DidResume {
			t.Errorf("after %d rotations: got a resumed session; want a new one", TicketKeys)
		}
	})
}

func TestCertificateWithoutSNI(t *testing.T) {
	holder, pool := testCertificates(t)
	state := handshake(t, holder.TLSConfig(), &tls.Config{
		InsecureSkipVerify: true, // crypto/tls cannot verify without a name; the test does it below
		RootCAs:            pool,
	})
	if err := state.PeerCertificates[0].VerifyHostname("dns.isp.example"); err != nil {
		t.Errorf("got another certificate: %v", err)
	}
}

func TestCertificateWarnings(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	leaf := certstest.Template{Names: []string{"dns.isp.example"}, NotBefore: start, NotAfter: start.AddDate(0, 0, 40)}
	tests := map[string]struct {
		now  time.Time
		want []string
	}{
		"fresh":        {start.AddDate(0, 0, 1), nil},
		"renewal-late": {start.AddDate(0, 0, 31), []string{"warning: the certificate expires on 2026-02-10 00:00:00: renew it"}},
		"expired":      {start.AddDate(0, 0, 41), nil}, // which invalid reports
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			leaf.Write(t, dir)
			cert, err := Load(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", start)
			if err != nil {
				t.Fatal(err)
			}
			c := NewHolder(cert)
			if got := c.Warnings(test.now); !slices.Equal(got, test.want) {
				t.Errorf("got %q; want %q", got, test.want)
			}
			if got, want := c.Invalid(test.now) != "", name == "expired"; got != want {
				t.Errorf("invalid: got %t; want %t", got, want)
			}
		})
	}
}
