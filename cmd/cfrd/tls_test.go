package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoadCertificateErrors(t *testing.T) {
	now := time.Now()
	tests := map[string]struct {
		cert certificateTemplate
		want string
	}{
		"expired": {
			certificateTemplate{names: []string{"dns.isp.example"}, notAfter: now.Add(-time.Minute)},
			"expired on",
		},
		"not-yet-valid": {
			certificateTemplate{names: []string{"dns.isp.example"}, notBefore: now.Add(time.Minute)},
			"is not valid before",
		},
		"other-name": {
			certificateTemplate{names: []string{"other.example"}, addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53")}},
			"is not for dns.isp.example, the resolver's name, but for other.example, 192.0.2.53",
		},
		"no-name": {
			certificateTemplate{},
			"but for no subject alternative name",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			test.cert.write(t, dir)
			_, err := loadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", now)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want one with %q", err, test.want)
			}
		})
	}
}

func TestLoadCertificateOfOtherKey(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	certificateTemplate{names: []string{"dns.isp.example"}}.write(t, a)
	certificateTemplate{names: []string{"dns.isp.example"}}.write(t, b)
	_, err := loadCertificate(filepath.Join(a, "cert.pem"), filepath.Join(b, "key.pem"), "dns.isp.example", time.Now())
	if err == nil || !strings.Contains(err.Error(), "private key does not match") {
		t.Errorf("got error %v; want a mismatch", err)
	}
}

func TestUncovered(t *testing.T) {
	covered, missing := netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")
	private := netip.MustParseAddr("10.0.0.53")
	leaf := certificateTemplate{addrs: []netip.Addr{covered}}.write(t, t.TempDir())
	got := uncovered(leaf, []netip.Addr{covered, missing, private})
	if len(got) != 1 || got[0] != missing {
		t.Errorf("got %v; want %v: private addresses are discovered without it", got, missing)
	}
}

func testCertificates(t *testing.T) (*certificates, *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	leaf := certificateTemplate{names: []string{"dns.isp.example"}}.write(t, dir)
	cert, err := loadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return newCertificates(cert), pool
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
	certs, pool := testCertificates(t)
	dot, doq := certs.config().Clone(), certs.config().Clone()
	client := &tls.Config{RootCAs: pool, ServerName: "dns.isp.example", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	if handshake(t, dot, client).DidResume {
		t.Fatal("first handshake: got a resumed session; want a new one")
	}
	for range ticketKeys - 1 {
		certs.rotate()
	}
	first := client.Clone() // keeps the session, whatever tickets come next
	first.ClientSessionCache = frozenCache{client.ClientSessionCache}
	if !handshake(t, doq, first).DidResume {
		t.Error("at another listener: got a new session; want it resumed")
	}
	certs.rotate()
	if handshake(t, doq, first).DidResume {
		t.Error("after the key was forgotten: got a resumed session; want a new one")
	}
}

// frozenCache is a session cache that takes nothing in.
type frozenCache struct{ tls.ClientSessionCache }

func (frozenCache) Put(string, *tls.ClientSessionState) {}

func TestCertificateWithoutSNI(t *testing.T) {
	certs, pool := testCertificates(t)
	state := handshake(t, certs.config(), &tls.Config{
		InsecureSkipVerify: true, // crypto/tls cannot verify without a name; the test does it below
		RootCAs:            pool,
	})
	if err := state.PeerCertificates[0].VerifyHostname("dns.isp.example"); err != nil {
		t.Errorf("got another certificate: %v", err)
	}
}
