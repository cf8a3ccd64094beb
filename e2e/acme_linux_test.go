package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// acmeConfig returns the configuration of a cfrd with further lines of tls.acme. Its store is a folder of its own.
func (l *lab) acmeConfig(ca *authority, store string, lines ...string) string {
	l.t.Helper()
	// Without a profile Pebble takes any.
	if !slices.ContainsFunc(lines, func(s string) bool { return strings.HasPrefix(s, "profile: ") }) {
		lines = append(lines, "profile: default")
	}
	return fmt.Sprintf(`name: %s
clients: [10.0.0.0/26, "2001:db8:1::/64", 127.0.0.0/8]
listen: %s
tls:
  acme:
    directory: %s
    ca: %s
    storage: %s
    email: noc@isp.example
    agree: true
    %s
upstreams: ["udp://%s"]
log: {level: debug}
`, adn, defaultListen, pebbleDirectory, ca.file, filepath.Join(l.dir, store), strings.Join(lines, "\n    "), unbound4)
}

const bothAddresses = `addresses: ["` + resolver4 + `", "` + resolver6 + `"]`

// presented returns the certificate that DoT presents without SNI, as clients of discovery by address see it.
func (l *lab) presented() (*x509.Certificate, error) {
	c, err := l.customer.dial("tcp", "", net.JoinHostPort(resolver4, "853"))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true}) // verified by the caller
	if err := tc.HandshakeContext(l.t.Context()); err != nil {
		return nil, err
	}
	return tc.ConnectionState().PeerCertificates[0], nil
}

// waitCertificate waits until a certificate is presented that want likes.
func (l *lab) waitCertificate(what string, want func(*x509.Certificate) bool) (leaf *x509.Certificate) {
	l.t.Helper()
	poll(l.t, 45*time.Second, what, func() (err error) {
		if leaf, err = l.presented(); err == nil && !want(leaf) {
			err = fmt.Errorf("got one for %v and %v, until %v", leaf.DNSNames, leaf.IPAddresses, leaf.NotAfter)
		}
		return err
	})
	return leaf
}

// whichever likes every certificate.
func whichever(*x509.Certificate) bool { return true }

// wantSubjects fails t unless leaf is for the resolver's name and addrs, no more and no less.
func wantSubjects(t testing.TB, leaf *x509.Certificate, addrs ...string) {
	t.Helper()
	var got []string
	for _, ip := range leaf.IPAddresses {
		got = append(got, ip.String())
	}
	slices.Sort(got)
	slices.Sort(addrs)
	if !slices.Equal(leaf.DNSNames, []string{adn}) || !slices.Equal(got, addrs) {
		t.Errorf("got a certificate for %v and %v; want %s and %v", leaf.DNSNames, got, adn, addrs)
	}
}

// advertises reports whether clients that ask addr are told of encrypted transports.
func (l *lab) advertises(addr string) bool {
	l.t.Helper()
	return strings.Contains(l.customer.must("dig", "+short", "@"+addr, "_dns.resolver.arpa", "SVCB"), adn)
}

// TestACMEChallenges has one certificate issued in each of the three ways, to a cfrd whose store is empty.
func TestACMEChallenges(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.startPublicDNS()
	authority := l.startPebble(ca)
	tests := map[string]struct {
		lines []string
		addrs []string
	}{
		"tls-alpn-01": {[]string{bothAddresses, "profile: shortlived"}, []string{resolver4, resolver6}},
		"http-01":     {[]string{bothAddresses, "challenges: [http-01]"}, []string{resolver4, resolver6}},
		"dns-01":      {[]string{"challenges: [dns-01]"}, nil},
		// The private address is left out where none are written.
		"defaults": {nil, []string{resolver6}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := l.in(t)
			d := l.startCfrd(l.acmeConfig(ca, name, test.lines...))
			leaf := l.waitCertificate("a certificate", whichever)
			wantSubjects(t, leaf, test.addrs...)
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: authority.roots(), Intermediates: l.chain(), DNSName: adn}); err != nil {
				t.Errorf("the chain: %v", err)
			}
			if got, want := leaf.NotAfter.Sub(leaf.NotBefore) < 7*24*time.Hour, name == "tls-alpn-01"; got != want {
				t.Errorf("got a life of %v; want that of the profile", leaf.NotAfter.Sub(leaf.NotBefore))
			}
			// Without the IPv6 address in the certificate nothing is advertised there. 10.0.0.53 is private.
			if got, want := l.advertises(resolver6), slices.Contains(test.addrs, resolver6); got != want {
				t.Errorf("advertised at %s: got %t; want %t", resolver6, got, want)
			}
			if !l.advertises(resolver4) {
				t.Errorf("advertised at %s: got false; want true", resolver4)
			}
			if got := d.metric(`cfrd_certificate_updates_total{result="applied"}`); got != "1" {
				t.Errorf("got %s applied; want 1", got)
			}
			d.stop()

			// The next start has it from the store.
			d = l.startCfrd(l.acmeConfig(ca, name, test.lines...))
			again, err := l.presented()
			if err != nil || !again.Equal(leaf) {
				t.Errorf("after a restart: got error %v, another certificate: %t; want the same", err, err == nil)
			}
			l.wantPrivate(name)
			d.stop()
		})
	}
}

// in returns the lab for a subtest.
func (l *lab) in(t testing.TB) *lab {
	sub := *l
	sub.t = t
	sub.customer.t, sub.provider.t, sub.internet.t = t, t, t
	return &sub
}

// stop ends the daemon as a service manager does.
func (d *daemon) stop() {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	if err := d.wait(15 * time.Second); err != nil {
		d.t.Errorf("cfrd ended: %v", err)
	}
}

// chain returns the certificates that come along with the leaf.
func (l *lab) chain() *x509.CertPool {
	l.t.Helper()
	c, err := l.customer.dial("tcp", "", net.JoinHostPort(resolver4, "853"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	if err := tc.HandshakeContext(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for _, cert := range tc.ConnectionState().PeerCertificates[1:] {
		pool.AddCert(cert)
	}
	return pool
}

// wantPrivate fails t if others can read what is in the store.
func (l *lab) wantPrivate(store string) {
	l.t.Helper()
	err := filepath.WalkDir(filepath.Join(l.dir, store), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 && !strings.HasSuffix(path, ".lock") {
			l.t.Errorf("%s has mode %v; want it for its owner only", path, info.Mode())
		}
		return err
	})
	if err != nil {
		l.t.Error(err)
	}
}

// TestACMERenewal renews because the authority says so, then without an address, and then because time is over.
func TestACMERenewal(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.startPublicDNS()
	authority := l.startPebble(ca)
	d := l.startCfrd(l.acmeConfig(ca, "acme", bothAddresses))
	first := l.waitCertificate("a certificate", whichever)

	authority.renewNow(first)
	d.reload() // asks the authority again
	second := l.waitCertificate("the renewed certificate", func(leaf *x509.Certificate) bool { return !leaf.Equal(first) })
	wantSubjects(t, second, resolver4, resolver6)
	if !l.advertises(resolver6) {
		t.Errorf("advertised at %s: got false; want true", resolver6)
	}

	l.write("cfrd.yaml", l.acmeConfig(ca, "acme", `addresses: ["`+resolver4+`"]`))
	d.reload()
	third := l.waitCertificate("the certificate without the address", func(leaf *x509.Certificate) bool { return len(leaf.IPAddresses) == 1 })
	wantSubjects(t, third, resolver4)
	if l.advertises(resolver6) {
		t.Errorf("advertised at %s after the renewal without it: got true; want false", resolver6)
	}
	if !l.advertises(resolver4) {
		t.Errorf("advertised at %s after the renewal with it: got false; want true", resolver4)
	}

	l.write("cfrd.yaml", l.acmeConfig(ca, "acme", bothAddresses, "profile: brief"))
	d.reload()
	brief := l.waitCertificate("a certificate of 24 s", func(leaf *x509.Certificate) bool {
		return leaf.NotAfter.Sub(leaf.NotBefore) < time.Minute
	})
	l.waitCertificate("its renewal", func(leaf *x509.Certificate) bool { return !leaf.Equal(brief) && time.Now().Before(brief.NotAfter) })
	poll(t, 5*time.Second, "five certificates", func() error {
		if n := strings.Count(d.output.String(), `"message":"new certificate"`); n < 5 {
			return fmt.Errorf("got %d by the log", n)
		}
		return nil
	})
}

// TestACMEFailingAuthority has the authority fail at the first start, and again at a renewal.
func TestACMEFailingAuthority(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.startPublicDNS()
	authority := l.startPebble(ca)
	authority.kill()

	d := l.startCfrd(l.acmeConfig(ca, "acme", bothAddresses))
	d.waitWarning("no new certificate")
	if out := l.customer.must("dig", "+short", "@"+resolver4, "www.internet.example"); strings.TrimSpace(out) != "198.51.100.80" {
		t.Errorf("Do53 without a certificate: got %q; want 198.51.100.80", out)
	}
	if _, err := l.presented(); err == nil || !strings.Contains(err.Error(), "remote error: tls:") {
		t.Errorf("DoT without a certificate: got error %v; want an alert", err)
	}
	for _, addr := range []string{resolver4, resolver6} {
		if l.advertises(addr) {
			t.Errorf("advertised at %s without a certificate: got true; want false", addr)
		}
	}
	d.wantReady("there is no certificate yet", "renewal failed")

	authority.restart()
	d.reload()
	first := l.waitCertificate("a certificate once the authority is back", whichever)
	d.wantReady()

	authority.kill()
	l.write("cfrd.yaml", l.acmeConfig(ca, "acme", `addresses: ["`+resolver4+`"]`))
	d.reload()
	poll(t, 45*time.Second, "the failed renewal", func() error {
		if d.metric("cfrd_certificate_update_failing") != "1" {
			return errors.New("no failure counted")
		}
		return nil
	})
	if leaf, err := l.presented(); err != nil || !leaf.Equal(first) {
		t.Errorf("while the authority fails: got error %v; want the certificate from before", err)
	}
	if !l.advertises(resolver6) {
		t.Errorf("advertised at %s while the authority fails: got false; want true", resolver6)
	}
	d.wantReady("renewal failed")

	// It has forgotten the account too.
	authority.restart()
	d.reload()
	wantSubjects(t, l.waitCertificate("the renewal", func(leaf *x509.Certificate) bool { return !leaf.Equal(first) }), resolver4)
	d.wantReady()
}

// waitWarning waits for a line of the log.
func (d *daemon) waitWarning(text string) {
	d.t.Helper()
	poll(d.t, 45*time.Second, "a log line with "+text, func() error {
		if !strings.Contains(d.output.String(), text) {
			return errors.New("not there")
		}
		return nil
	})
}

// wantReady fails the test unless /readyz says yes with these warnings, in this order.
func (d *daemon) wantReady(warnings ...string) {
	d.t.Helper()
	var body string
	poll(d.t, 10*time.Second, "readiness", func() (err error) {
		if body, err = d.l.provider.try("curl", "-sf", "http://127.0.0.1:9153/readyz"); err != nil {
			return err
		}
		if got := strings.Count(body, "warning: "); got != len(warnings) {
			return fmt.Errorf("%d warnings in %q; want %d", got, body, len(warnings))
		}
		return nil
	})
	for _, want := range warnings {
		if !strings.Contains(body, want) {
			d.t.Errorf("/readyz: got %q; want a warning with %q", body, want)
		}
	}
}

// TestACMEStoreCannotBeWritten wants that said before anything is served.
func TestACMEStoreCannotBeWritten(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.write("blocked", "a file where the directory should be\n")
	d := l.launchCfrd(l.acmeConfig(ca, "blocked"))
	if err := d.wait(15 * time.Second); err == nil {
		t.Error("got a clean exit; want an error")
	}
	if want := "tls.acme.storage: " + filepath.Join(l.dir, "blocked") + " is not a directory"; !strings.Contains(d.output.String(), want) {
		t.Errorf("got %q; want %q", d.output, want)
	}
}

// TestChallengeIsPublic asks for the challenge as a stranger, who gets nothing else.
func TestChallengeIsPublic(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.startPublicDNS()
	l.startCfrd(l.acmeConfig(ca, "acme", "challenges: [dns-01, http-01]"))
	dig := func(name, qtype string) string {
		t.Helper()
		return l.customer.must("dig", "-b", stranger4, "+norecurse", "@"+resolver4, name, qtype)
	}
	if out := dig("_acme-challenge."+adn, "SOA"); !strings.Contains(out, "NOERROR") || !strings.Contains(out, " aa") {
		t.Errorf("SOA of the challenge: got\n%s\nwant an authoritative answer", out)
	}
	for _, name := range []string{adn, "www.internet.example", "_dns.resolver.arpa"} {
		if out := dig(name, "A"); !strings.Contains(out, "REFUSED") {
			t.Errorf("%s: got\n%s\nwant REFUSED", name, out)
		}
	}
	if got := l.customer.must("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://"+resolver4+"/.well-known/acme-challenge/none"); got != "404" {
		t.Errorf("port 80: got status %s; want 404", got)
	}
}

// TestACMEBesideTheRelay proves name and addresses on ports that the relay serves at all its addresses, 443 and 80.
func TestACMEBesideTheRelay(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.startPublicDNS()
	l.startPebble(ca)
	files := regexp.MustCompile(`(?m)^tls: .*$`)
	for _, challenge := range []string{"tls-alpn-01", "http-01"} {
		t.Run(challenge, func(t *testing.T) {
			l := l.in(t)
			d := l.startCfrd(files.ReplaceAllString(l.config(ca, settings{}), fmt.Sprintf(
				"tls: {acme: {directory: %q, ca: %q, storage: %q, agree: true, profile: default, challenges: [%s], %s}}",
				pebbleDirectory, ca.file, filepath.Join(l.dir, challenge), challenge, bothAddresses)))
			wantSubjects(t, l.waitCertificate("a certificate", whichever), resolver4, resolver6)
			d.stop()
		})
	}
}
