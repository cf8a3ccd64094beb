package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// authority is the certificate authority of a lab.
type authority struct {
	l    *lab
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // PEM of the certificate
}

// newAuthority makes a CA and writes its certificate to ca.pem.
func (l *lab) newAuthority() *authority {
	l.t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cfrd e2e CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key := newKey(l.t)
	der := sign(l.t, tmpl, tmpl, key, key)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		l.t.Fatal(err)
	}
	return &authority{l: l, cert: cert, key: key, file: l.write("ca.pem", pemBlock("CERTIFICATE", der))}
}

// issue writes NAME.pem and NAME.key, for host names and addresses.
func (a *authority) issue(name string, hosts ...string) (certFile, keyFile string) {
	a.l.t.Helper()
	return a.issueAt(name, time.Now().Add(-time.Hour), time.Now().Add(12*time.Hour), hosts...)
}

func (a *authority) issueAt(name string, from, to time.Time, hosts ...string) (certFile, keyFile string) {
	t := a.l.t
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: hosts[0]},
		NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	key := newKey(t)
	der := sign(t, tmpl, a.cert, key, a.key)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return a.l.write(name+".pem", pemBlock("CERTIFICATE", der)), a.l.write(name+".key", pemBlock("PRIVATE KEY", pkcs8))
}

// pool returns a pool with only the CA in it.
func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, tmpl, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func pemBlock(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// exampleZone is what the internet says of the names under example. The rules of cfrdConfig steer cdn.example, the
// prefix 203.0.113.0/24 and names with ECH; bank.example is an exception.
const exampleZone = `$ORIGIN example.
$TTL 300
@               SOA   ns hostmaster 1 3600 600 86400 60
@               NS    ns
ns              A     198.51.100.54
www.cdn         A     198.51.100.2
www.cdn         AAAA  2001:db8:2::2
www.cdn         HTTPS 1 . alpn=h2,http/1.1 ipv4hint=198.51.100.2 ipv6hint=2001:db8:2::2
_4443._https.www.cdn HTTPS 1 www.cdn alpn=h2 port=4443 ipv4hint=198.51.100.2 ipv6hint=2001:db8:2::2
v4only.cdn      A     198.51.100.2
quic.cdn        A     198.51.100.2
alias.cdn       CNAME www.cdn
shop            CNAME www.cdn
www.bank        CNAME www.cdn
direct          A     198.51.100.2
direct          AAAA  2001:db8:2::2
prefixed        A     203.0.113.5
ech             A     198.51.100.2
ech             HTTPS 1 . alpn=h2 ipv4hint=198.51.100.2 ech="AEX+DQBBaQAgACCv8mvUYkoxvQQDgXCBTBGyJKpcrLWhEzd3JQeYwNBQPgAEAAEAAQASY292ZXIuZXhhbXBsZS50ZXN0AAA="
private.cdn     A     10.1.2.3
bogus           A     198.51.100.2
`

// serveZones signs the zone example. with ldns-signzone and serves it with NSD, then starts a validating Unbound in
// front of it, over Do53 and DoT. The record of bogus.example is changed after signing.
func (l *lab) serveZones(ca *authority) {
	t := l.t
	t.Helper()
	need(t, "nsd", "unbound", "ldns-keygen", "ldns-signzone")
	l.write("zones/example.zone", exampleZone)
	zones := filepath.Join(l.dir, "zones")
	key := strings.TrimSpace(runIn(t, zones, "ldns-keygen", "-a", "ECDSAP256SHA256", "-k", "example"))
	runIn(t, zones, "ldns-signzone", "-n", "example.zone", key)
	signed := l.read("zones/example.zone.signed")
	bad := regexp.MustCompile(`(?m)^(bogus\.example\.\s+\d+\s+IN\s+A\s+).*$`).ReplaceAllString(signed, "${1}198.51.100.3")
	if bad == signed {
		t.Fatalf("the signed zone has no record of bogus.example:\n%s", signed)
	}
	l.write("zones/example.zone.signed", bad)

	l.startNSD("example", filepath.Join(zones, "example.zone.signed"))

	cert, keyFile := ca.issue("unbound", "unbound.isp.example", unbound4)
	l.internet.start("unbound", "-d", "-p", "-c", l.write("unbound.conf", fmt.Sprintf(`
server:
  interface: %[1]s@53
  interface: %[1]s@853
  tls-port: 853
  tls-service-pem: %[2]q
  tls-service-key: %[3]q
  access-control: 0.0.0.0/0 allow
  outgoing-interface: %[1]s
  do-ip6: no
  do-daemonize: no
  use-syslog: no
  verbosity: 1
  log-queries: yes
  logfile: ""
  username: ""
  chroot: ""
  directory: %[4]q
  pidfile: ""
  num-threads: 1
  module-config: "validator iterator"
  trust-anchor-file: %[5]q
  trust-anchor-signaling: no
  root-key-sentinel: no
  qname-minimisation: no
  target-fetch-policy: "0 0 0 0 0"
  local-zone: "." typetransparent
  local-data: ". 3600 NS ns.root.example."
remote-control:
  control-enable: no
stub-zone:
  name: example
  stub-addr: %[6]s
`, unbound4, cert, keyFile, l.dir, filepath.Join(zones, key+".ds"), nsd4)))

	poll(t, 15*time.Second, "Unbound validates", func() error {
		out, err := l.internet.try("dig", "+tries=1", "+time=2", "@"+unbound4, "www.cdn.example", "A", "+dnssec")
		if err != nil {
			return err
		}
		if !regexp.MustCompile(`flags:[^;]* ad`).MatchString(out) {
			return fmt.Errorf("no AD flag in:\n%s", out)
		}
		return nil
	})
}

func runIn(t testing.TB, dir, program string, args ...string) string {
	t.Helper()
	path, err := lookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			err = fmt.Errorf("%w\n%s", err, ee.Stderr)
		}
		t.Fatalf("%s: %v", program, err)
	}
	return string(out)
}

// startNSD serves one zone on the internet's host.
func (l *lab) startNSD(zone, file string) *process {
	l.t.Helper()
	return l.internet.start("nsd", "-d", "-c", l.write("nsd-"+zone+".conf", fmt.Sprintf(`
server:
  ip-address: %s
  username: ""
  chroot: ""
  zonesdir: %q
  database: ""
  pidfile: ""
  xfrdfile: ""
  zonelistfile: %q
  xfrdir: %q
  server-count: 1
remote-control:
  control-enable: no
zone:
  name: %s
  zonefile: %s
`, nsd4, l.dir, filepath.Join(l.dir, "nsd-"+zone+".list"), l.dir, zone, file)))
}

// page is what the origins serve.
const page = "<!doctype html><title>origin</title><p id=p>the page of the origin</p>\n"

// serveHTTPS starts nginx as the origin of every name under example., on port 443 and 80. Its log has one line per
// request: client address, port, name.
func (l *lab) serveHTTPS(ca *authority) {
	l.t.Helper()
	need(l.t, "nginx")
	cert, key := ca.issue("origin", "www.cdn.example", "*.cdn.example", "shop.example", "www.bank.example", "direct.example",
		"prefixed.example", "ech.example")
	l.write("www/index.html", page)
	l.write("www/big", strings.Repeat("0123456789abcdef", 1<<16)) // 1 MiB
	l.internet.must("ip", "addr", "add", "203.0.113.5/32", "dev", "lo")
	l.provider.must("ip", "route", "add", "203.0.113.0/24", "via", origin4)
	l.internet.start("nginx", "-p", l.dir, "-e", "stderr", "-c", l.write("nginx.conf", fmt.Sprintf(`
daemon off;
user root;
master_process off;
pid %[1]s/nginx.pid;
error_log stderr;
events {}
http {
  log_format who '$remote_addr $remote_port $host $request_uri';
  access_log %[1]s/origin.log who;
  client_body_temp_path %[1]s/nginx-body; proxy_temp_path %[1]s/nginx-proxy; fastcgi_temp_path %[1]s/nginx-f;
  uwsgi_temp_path %[1]s/nginx-u; scgi_temp_path %[1]s/nginx-s;
  types { text/html html; }
  default_type text/html;
  server {
    listen 0.0.0.0:80; listen [::]:80 ipv6only=on;
    listen 0.0.0.0:443 ssl http2; listen [::]:443 ssl http2 ipv6only=on;
    ssl_certificate %[2]s; ssl_certificate_key %[3]s;
    root %[1]s/www;
  }
}
`, l.dir, cert, key)))
	poll(l.t, 10*time.Second, "nginx", func() error {
		_, err := l.internet.try("curl", "-sf", "-o", "/dev/null", "http://"+origin4+"/")
		return err
	})
	os.Truncate(filepath.Join(l.dir, "origin.log"), 0)
}

// originClients returns the addresses that asked nginx for the page of host, once it has logged at least one.
func (l *lab) originClients(host string) []netip.Addr {
	l.t.Helper()
	var addrs []netip.Addr
	poll(l.t, 5*time.Second, "the origin's log of "+host, func() error {
		addrs = addrs[:0]
		for line := range strings.Lines(l.read("origin.log")) {
			if f := strings.Fields(line); len(f) == 4 && f[2] == host {
				addrs = append(addrs, netip.MustParseAddr(f[0]))
			}
		}
		if len(addrs) == 0 {
			return errors.New("no request")
		}
		return nil
	})
	return addrs
}

// wantEgress fails t unless every address is one of the relay's sources.
func wantEgress(t testing.TB, addrs []netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		if !netip.MustParsePrefix(egress4).Contains(a) && !netip.MustParsePrefix(egress6).Contains(a) {
			t.Errorf("the origin saw %v; want an address of %s or %s", a, egress4, egress6)
		}
	}
}

// daemon is a running cfrd.
type daemon struct {
	*process
	l *lab
}

// cfrdCertificate issues the certificate that covers what DDR clients check.
func (l *lab) cfrdCertificate(ca *authority) (cert, key string) {
	return ca.issue("cfrd", adn, resolver4, resolver6)
}

// startCfrd runs the binary on the provider's host and waits until it is ready.
func (l *lab) startCfrd(config string, args ...string) *daemon {
	l.t.Helper()
	l.answerProbes()
	d := l.launchCfrd(config, args...)
	d.waitReady()
	return d
}

// launchCfrd runs the binary on the provider's host.
func (l *lab) launchCfrd(config string, args ...string) *daemon {
	l.t.Helper()
	all := append([]string{"serve", "--config", l.write("cfrd.yaml", config)}, args...)
	return &daemon{process: l.provider.start(cfrd(l.t), all...), l: l}
}

func (d *daemon) waitReady() {
	d.t.Helper()
	poll(d.t, 20*time.Second, "cfrd is ready", func() error {
		select {
		case <-d.done:
			d.t.Fatalf("cfrd ended: %v\n%s", d.err, d.output)
		default:
		}
		_, err := d.l.provider.try("curl", "-sf", "http://127.0.0.1:9153/readyz")
		return err
	})
}

// metric returns the value of one metric line, by its name and labels as Prometheus prints them.
func (d *daemon) metric(name string) string {
	d.t.Helper()
	for line := range strings.Lines(d.l.provider.must("curl", "-sf", "http://127.0.0.1:9153/metrics")) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// tlsConfig verifies servers by the lab's CA.
func (a *authority) tlsConfig(name string, alpn ...string) *tls.Config {
	return &tls.Config{RootCAs: a.pool(), ServerName: name, NextProtos: alpn}
}

// reload sends SIGHUP and waits until the new configuration is in force or was refused.
func (d *daemon) reload() {
	d.t.Helper()
	before := strings.Count(d.output.String(), "reload")
	d.signal(syscall.SIGHUP)
	poll(d.t, 10*time.Second, "reload", func() error {
		if strings.Count(d.output.String(), "reload") == before {
			return errors.New("nothing about it in the log")
		}
		return nil
	})
}
