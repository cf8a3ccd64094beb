package e2e

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// buildPebbleOnce builds Pebble, the test authority of Let's Encrypt, beside the binary under test, unless E2E_PEBBLE
// says where one is.
var buildPebbleOnce = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("E2E_PEBBLE"); bin != "" {
		return bin, nil
	}
	if os.Getenv("E2E_CFRD") != "" {
		return "", errors.New("E2E_CFRD is set and E2E_PEBBLE is not; e2e/test.sh builds both")
	}
	cfrd, err := buildOnce()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(filepath.Dir(cfrd), "pebble")
	cmd := exec.Command("go", "build", "-o", bin, "github.com/letsencrypt/pebble/v2/cmd/pebble")
	cmd.Dir = "tools"
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

// pebble is an ACME authority on the internet, which validates as real ones do, on ports 80, 443 and 53.
type pebble struct {
	*process
	l     *lab
	ca    *authority // of its own HTTPS
	certs string     // its configuration
}

const (
	pebbleDirectory  = "https://" + origin4 + ":14000/dir"
	pebbleManagement = "https://" + origin4 + ":15000"
)

// startPebble starts an authority that looks names up with the Unbound of startPublicDNS.
func (l *lab) startPebble(ca *authority) *pebble {
	l.t.Helper()
	if _, err := buildPebbleOnce(); err != nil {
		skip(l.t, "Pebble cannot be built: %v", err)
	}
	cert, key := ca.issue("pebble", "pebble.example", origin4)
	p := &pebble{l: l, ca: ca, certs: l.write("pebble.json", fmt.Sprintf(`{"pebble": {
  "listenAddress": "%[1]s:14000", "managementListenAddress": "%[1]s:15000",
  "certificate": %[2]q, "privateKey": %[3]q,
  "httpPort": 80, "tlsPort": 443, "keyAlgorithm": "ecdsa", "retryAfter": {"authz": 1, "order": 1},
  "profiles": {
    "default": {"description": "90 days", "validityPeriod": 7776000},
    "shortlived": {"description": "6 days", "validityPeriod": 518400},
    "brief": {"description": "for the renewal that is seen in a test", "validityPeriod": 24}}}}`, origin4, cert, key))}
	p.restart()
	return p
}

// restart starts Pebble, which forgets everything when it ends, its own keys as well.
func (p *pebble) restart() {
	p.l.t.Helper()
	bin, err := buildPebbleOnce()
	if err != nil {
		p.l.t.Fatal(err)
	}
	p.process = p.l.internet.start("env", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "PEBBLE_AUTHZREUSE=0",
		bin, "-config", p.certs, "-dnsserver", unbound4+":53")
	poll(p.l.t, 15*time.Second, "Pebble", func() error {
		_, err := p.manage("/roots/0")
		return err
	})
}

// manage asks the management interface.
func (p *pebble) manage(path string, args ...string) (string, error) {
	return p.l.internet.try("curl", append([]string{"-sf", "--cacert", p.ca.file, pebbleManagement + path}, args...)...)
}

// roots returns the authority that signs what Pebble gives.
func (p *pebble) roots() *x509.CertPool {
	p.l.t.Helper()
	text, err := p.manage("/roots/0")
	if err != nil {
		p.l.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(text)) {
		p.l.t.Fatalf("Pebble's root is no certificate: %s", text)
	}
	return pool
}

// renewNow has Pebble advise to renew the certificate leaf at once. See RFC 9773.
func (p *pebble) renewNow(leaf *x509.Certificate) {
	p.l.t.Helper()
	window := fmt.Sprintf(`{"suggestedWindow": {"start": %q, "end": %q}}`,
		time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), time.Now().Add(-time.Minute).UTC().Format(time.RFC3339))
	body, err := json.Marshal(map[string]string{"certificate": pemBlock("CERTIFICATE", leaf.Raw), "ariResponse": window})
	if err != nil {
		p.l.t.Fatal(err)
	}
	if out, err := p.manage("/set-renewal-info/", "-X", "POST", "-d", string(body)); err != nil {
		p.l.t.Fatalf("set the renewal window: %v %s", err, out)
	}
}

// startPublicDNS starts an Unbound that knows the resolver's name as the Internet does: its addresses, and that the
// zone of its challenges is delegated to it.
func (l *lab) startPublicDNS() {
	l.t.Helper()
	need(l.t, "unbound")
	l.internet.start("unbound", "-d", "-p", "-c", l.write("public.conf", fmt.Sprintf(`
server:
  interface: %[1]s
  access-control: 0.0.0.0/0 allow
  outgoing-interface: %[1]s
  outgoing-interface: %[2]s
  do-daemonize: no
  use-syslog: no
  logfile: ""
  username: ""
  chroot: ""
  directory: %[3]q
  pidfile: ""
  num-threads: 1
  module-config: "iterator"
  local-zone: "%[4]s." typetransparent
  local-zone: "." typetransparent
  local-data: ". 3600 NS ns.root.example."
  local-data: "%[4]s. 60 A %[5]s"
  local-data: "%[4]s. 60 AAAA %[6]s"
  local-zone: "internet.example." static
  local-data: "internet.example. 60 SOA ns.internet.example. nobody.invalid. 1 2 3 4 5"
  local-data: "www.internet.example. 60 A 198.51.100.80"
remote-control:
  control-enable: no
stub-zone:
  name: "_acme-challenge.%[4]s"
  stub-addr: %[5]s
  stub-no-cache: yes
`, unbound4, origin6, l.dir, adn, resolver4, resolver6)))
	poll(l.t, 10*time.Second, "Unbound", func() error {
		out, err := l.internet.try("dig", "+short", "+tries=1", "+time=1", "@"+unbound4, "www.internet.example")
		if err == nil && !strings.Contains(out, "198.51.100.80") {
			err = fmt.Errorf("no answer: %s", out)
		}
		return err
	})
}
