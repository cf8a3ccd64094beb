package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// withACME makes the lab get its certificate from an authority that is not there.
func (l *lab) withACME(more string) {
	l.config["tls"] = `{acme: {directory: "https://` + l.addr.String() + `:9/dir", storage: acme, agree: true` + more + `}}`
	l.config["listen"] = strings.ReplaceAll(l.config["listen"], ":8443", ":443")
	l.config["listen"] = strings.ReplaceAll(l.config["listen"], ":8053", ":53")
}

// TestNodeWithoutACertificate starts with an empty store and an authority that is down.
func TestNodeWithoutACertificate(t *testing.T) {
	l := newLab(t)
	l.serveUpstream(t)
	l.withACME(", challenges: [tls-alpn-01, dns-01, http-01]")
	n, log := l.start(t)
	m, _, err := new(dns.Client).ExchangeContext(t.Context(), queryFor("www.isp.example.", dns.TypeA), l.addr.String()+":53")
	if err != nil || len(m.Answer) != 1 {
		t.Errorf("Do53: got error %v, %v; want an answer", err, m)
	}
	if _, err := tls.Dial("tcp", l.addr.String()+":8853", &tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("DoT: got a handshake; want none")
	}
	eventually(t, "the failed order", func() bool { return log.contains("no new certificate; what is served stays") })
	eventually(t, "readiness", func() bool { return len(n.notReady()) == 0 })
	status, body := l.get(t, "/readyz")
	if status != http.StatusOK || !strings.Contains(body, "warning: there is no certificate yet") || !strings.Contains(body, "renewal failed") {
		t.Errorf("/readyz: got %d %q; want 200 with two warnings", status, body)
	}
	if s := n.certs.Stats(); s.Refused == 0 || !s.Next.After(time.Now()) || !s.Expiry.IsZero() {
		t.Errorf("got %+v; want a failure, and a time for the next attempt", s)
	}
	l.wantPublic(t, dialFrom("udp", loopback(t)))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.addr.String()+"/.well-known/acme-challenge/none", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("port 80: got %v, error %v; want 404", resp, err)
	}
	if err == nil {
		resp.Body.Close()
	}
}

// wantPublic asks for the challenge's zone.
func (l *lab) wantPublic(t *testing.T, d *net.Dialer) {
	t.Helper()
	c := &dns.Client{Dialer: d}
	m, _, err := c.ExchangeContext(t.Context(), queryFor("_acme-challenge.dns.isp.example.", dns.TypeSOA), l.addr.String()+":53")
	if err != nil || len(m.Answer) != 1 || !m.Authoritative {
		t.Errorf("zone of the challenge: got error %v, %v; want its SOA", err, m)
	}
}

// TestNodeWithStoredCertificate starts with what an earlier run has kept, and reloads.
func TestNodeWithStoredCertificate(t *testing.T) {
	l := newLab(t)
	l.withACME("")
	l.write(t)
	cfg, err := config.Read(l.path(), config.ModeAll)
	if err != nil {
		t.Fatal(err)
	}
	bundle := mustRead(t, filepath.Join(l.dir, "cert.pem")) + mustRead(t, filepath.Join(l.dir, "key.pem"))
	dir := filepath.Join(cfg.TLS.ACME.Storage, "certificates", l.addr.String()+"-9-dir", "dns.isp.example")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "dns.isp.example.pem"), bundle)
	v, err := loadValues(cfg, config.ModeAll, time.Now())
	if err != nil || v.certificate == nil {
		t.Fatalf("got error %v, certificate %v; want the one in the store", err, v)
	}
	v, err = loadValues(cfg, config.ModeAll, time.Now().Add(2*time.Hour))
	if err != nil || v.certificate != nil || !slices.ContainsFunc(v.Warnings, func(s string) bool { return strings.Contains(s, "expired on") }) {
		t.Errorf("when it has expired: got error %v, certificate %v, warnings %q; want a warning only", err, v.certificate, v.Warnings)
	}
}

// TestLoadACMEErrors has configurations that name files which are not as they should be.
func TestLoadACMEErrors(t *testing.T) {
	tests := map[string]struct{ more, file, want string }{
		"store-is-a-file": {"", "acme", "tls.acme.storage: "},
		"no-ca":           {", ca: none.pem", "", "tls.acme.ca: open "},
		"ca-is-no-pem":    {", ca: isp.zone", "", "tls.acme.ca: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.withACME(test.more)
			if test.file != "" {
				writeFile(t, filepath.Join(l.dir, test.file), "")
			}
			l.write(t)
			_, err := checkConfig(l.path(), config.ModeAll)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want one with %q", err, test.want)
			}
		})
	}
}

// TestACMEWords holds the words of the configuration to those of the protocol's library.
func TestACMEWords(t *testing.T) {
	for want, got := range map[string]config.Challenge{
		acme.ChallengeTypeTLSALPN01: config.ChallengeTLSALPN01,
		acme.ChallengeTypeHTTP01:    config.ChallengeHTTP01,
		acme.ChallengeTypeDNS01:     config.ChallengeDNS01,
	} {
		if string(got) != want {
			t.Errorf("got challenge %q; want %q", got, want)
		}
	}
	if got, want := (config.ACME{}).DirectoryURL(), certmagic.LetsEncryptProductionCA; got != want {
		t.Errorf("got default directory %q; want %q", got, want)
	}
}
