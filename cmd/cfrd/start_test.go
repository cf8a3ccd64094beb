package main

import (
	"context"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/check"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/resolver"
)

// serve runs `cfrd serve` with the lab's configuration until the test ends, and returns what it logs.
func (l *lab) serve(t *testing.T) *logBuffer {
	t.Helper()
	l.write(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	log, done := &logBuffer{}, make(chan error, 1)
	go func() { done <- runDaemon(ctx, l.path(), config.ModeAll, log) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	eventually(t, "serving", func() bool { return log.contains(`"message":"serving"`) })
	return log
}

// try sends one question over a transport.
func (l *lab) try(t *testing.T, tr resolver.Transport, name string, qtype uint16) (*dns.Msg, error) {
	t.Helper()
	port := map[resolver.Transport]uint16{
		resolver.UDP: 8053, resolver.TCP: 8053, resolver.DoT: 8853, resolver.DoQ: 8853, resolver.DoH: 8443, resolver.DoH3: 8443,
	}[tr]
	c := check.Client{Addr: netip.AddrPortFrom(l.addr, port), Verify: check.VerifyNames(l.roots, l.addr.String())}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return c.Exchange(ctx, tr, check.Question(name, qtype))
}

// encrypted are the transports that need a certificate.
var encrypted = []resolver.Transport{resolver.DoT, resolver.DoH, resolver.DoH3, resolver.DoQ}

// advertised returns what discovery without encryption says of encrypted transports, in all its places.
func (l *lab) advertised(t *testing.T) (records []string) {
	t.Helper()
	for _, q := range []dns.Question{
		{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB},
		{Name: "_dns.dns.isp.example.", Qtype: dns.TypeSVCB},
		{Name: "dns.isp.example.", Qtype: dns.TypeHTTPS},
	} {
		reply, err := l.try(t, resolver.TCP, q.Name, q.Qtype)
		if err != nil {
			t.Fatal(err)
		}
		for _, rr := range reply.Answer {
			records = append(records, rr.String())
		}
	}
	return records
}

// wantEncrypted asks over every encrypted transport.
func (l *lab) wantEncrypted(t *testing.T) {
	t.Helper()
	for _, tr := range encrypted {
		if _, err := l.try(t, tr, "www.isp.example.", dns.TypeA); err != nil {
			t.Errorf("over %s: %v", tr, err)
		}
	}
	if len(l.advertised(t)) == 0 {
		t.Error("discovery names no encrypted transport; want all")
	}
}

// wantNoEncrypted makes sure that everything works that needs no certificate, and that nothing leads clients to the rest.
func (l *lab) wantNoEncrypted(t *testing.T, log *logBuffer, why string) {
	t.Helper()
	for _, tr := range []resolver.Transport{resolver.UDP, resolver.TCP} {
		if reply, err := l.try(t, tr, "www.isp.example.", dns.TypeA); err != nil || len(reply.Answer) != 1 {
			t.Errorf("over %s: got %v, error %v; want an address", tr, reply, err)
		}
	}
	for _, tr := range []resolver.Transport{resolver.DoT, resolver.DoH} {
		_, err := l.try(t, tr, "www.isp.example.", dns.TypeA)
		if err == nil || !strings.Contains(err.Error(), "tls: ") {
			t.Errorf("over %s: got error %v; want an alert", tr, err)
		}
	}
	if got := l.advertised(t); len(got) != 0 {
		t.Errorf("discovery says %q; want nothing", got)
	}
	if !log.contains(why) || !log.contains("encrypted transports wait for one") {
		t.Errorf("got log %q; want %q in it", log.lines(), why)
	}
	eventually(t, "an upstream that answers", func() bool {
		status, body := l.get(t, "/readyz")
		return status == http.StatusOK && strings.Contains(body, "warning: there is no certificate yet") &&
			strings.Contains(body, why)
	})
}

// TestStartsWithoutCertificate starts with each kind of certificate that cannot be used, and then has a good one put in its
// place.
func TestStartsWithoutCertificate(t *testing.T) {
	expired := certstest.Template{Names: []string{"dns.isp.example"}, NotAfter: time.Now().Add(-time.Minute)}
	future := certstest.Template{Names: []string{"dns.isp.example"}, NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)}
	tests := map[string]struct {
		breakIt func(t *testing.T, dir string)
		why     string
	}{
		"expired":       {func(t *testing.T, dir string) { expired.Write(t, dir) }, "expired on"},
		"not-valid-yet": {func(t *testing.T, dir string) { future.Write(t, dir) }, "is not valid before"},
		"missing": {
			func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "cert.pem")) }, "no such file",
		},
		"key-missing": {
			func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "key.pem")) }, "no such file",
		},
		"unreadable": {
			func(t *testing.T, dir string) {
				remove(t, filepath.Join(dir, "cert.pem"))
				if err := os.Mkdir(filepath.Join(dir, "cert.pem"), 0o700); err != nil {
					t.Fatal(err)
				}
			},
			"is a directory",
		},
		"half-written": {
			func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "cert.pem"), "-----BEGIN") }, "failed to find any PEM data",
		},
		"other-name": {
			func(t *testing.T, dir string) { certstest.Template{Names: []string{"www.isp.example"}}.Write(t, dir) }, "is not for dns.isp.example",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.serveUpstream(t)
			test.breakIt(t, l.dir)
			log := l.serve(t)
			l.wantNoEncrypted(t, log, test.why)
			if _, err := checkConfig(l.path(), config.ModeAll); err == nil || !strings.Contains(err.Error(), test.why) {
				t.Errorf("config check: got error %v; want %q in it", err, test.why)
			}

			if err := os.RemoveAll(filepath.Join(l.dir, "cert.pem")); err != nil {
				t.Fatal(err)
			}
			l.roots.AddCert(certstest.Template{Names: []string{"dns.isp.example"}, Addrs: []netip.Addr{l.addr}}.Write(t, l.dir))
			eventually(t, "a ready node without warnings", func() bool {
				_, body := l.get(t, "/readyz")
				return body == "ready\n"
			})
			l.wantEncrypted(t)
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// TestCertificateBecomesValidAndExpires has the clock pass both ends of a certificate while its files stay as they are.
func TestCertificateBecomesValidAndExpires(t *testing.T) {
	l := newLab(t)
	l.serveUpstream(t)
	soon := certstest.Template{Names: []string{"dns.isp.example"}, Addrs: []netip.Addr{l.addr}}
	soon.NotBefore = time.Now().Add(4 * time.Second).Truncate(time.Second)
	soon.NotAfter = soon.NotBefore.Add(6 * time.Second)
	l.roots.AddCert(soon.Write(t, l.dir))
	log := l.serve(t)
	if got := l.advertised(t); len(got) != 0 && time.Now().Before(soon.NotBefore) {
		t.Errorf("before: discovery says %q; want nothing", got)
	}
	eventually(t, "discovery of the encrypted transports", func() bool { return len(l.advertised(t)) > 0 })
	if _, err := l.try(t, resolver.DoT, "www.isp.example.", dns.TypeA); err != nil && time.Now().Before(soon.NotAfter) {
		t.Errorf("once discovery names DoT: %v", err)
	}
	eventually(t, "the end of that", func() bool { return len(l.advertised(t)) == 0 })
	eventually(t, "the reason in the log", func() bool { return log.contains("the certificate is not valid now; discovery does not name") })
}

// TestReloadKeepsWaiting reloads while there is no certificate, which is no reason to refuse the rest; and refuses a reload
// that would give up a certificate that works.
func TestReloadKeepsWaiting(t *testing.T) {
	l := newLab(t)
	good := mustRead(t, filepath.Join(l.dir, "cert.pem"))
	remove(t, filepath.Join(l.dir, "cert.pem"))
	n, _ := l.start(t)
	l.config["clients"] = "[127.0.0.0/8, 192.0.2.0/24]"
	l.write(t)
	if err := n.reload(l.path()); err != nil {
		t.Fatalf("while waiting: %v", err)
	}
	if got := n.certs.Complaint(); !strings.Contains(got, "no such file") {
		t.Errorf("after the reload: /readyz says %q; want why there is no certificate", got)
	}
	writeFile(t, filepath.Join(l.dir, "cert.pem"), good)
	if err := n.reload(l.path()); err != nil {
		t.Fatalf("with a certificate: %v", err)
	}
	l.wantEncrypted(t)
	remove(t, filepath.Join(l.dir, "cert.pem"))
	if err := n.reload(l.path()); err == nil || !strings.Contains(err.Error(), "tls.certificate") {
		t.Errorf("without the certificate again: got error %v; want it refused", err)
	}
	l.wantEncrypted(t)
}
