package main

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

func TestDevCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	addrs := []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd00::53")}
	ca, err := writeDevCA(dir, "dns.isp.example", addrs, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := loadCertificate(filepath.Join(dir, devLeafCert), filepath.Join(dir, devLeafKey), "dns.isp.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if want := (identity{name: "dns.isp.example", addrs: addrs}); !want.isOf(cert.Leaf) {
		t.Errorf("got a certificate for %v and %v; want %v", cert.Leaf.DNSNames, cert.Leaf.IPAddresses, want)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(mustRead(t, filepath.Join(dir, devCACert)))) {
		t.Fatal("ca.pem holds no certificate")
	}
	for _, name := range []string{"dns.isp.example", "[10.0.0.53]", "[fd00::53]"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, file := range []string{devCACert, devCAKey, devLeafCert, devLeafKey} {
		if st, err := os.Stat(filepath.Join(dir, file)); err != nil || st.Mode() != 0o600 {
			t.Errorf("%s: got mode %v, error %v; want 0600", file, st.Mode(), err)
		}
	}
	var text bytes.Buffer
	ca.explain(&text)
	if !strings.Contains(text.String(), "dns.isp.example, 10.0.0.53, fd00::53, valid until") {
		t.Errorf("got %q; want what the certificate is for", text.String())
	}
}

// TestDevCAWithOpenSSL has another implementation judge the chain and the constraints.
func TestDevCAWithOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		skip(t, "openssl is not installed")
	}
	for name, addrs := range map[string][]netip.Addr{
		"with-addresses": {netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")},
		"name-only":      nil,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := writeDevCA(dir, "dns.isp.example", addrs, time.Now()); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", "sslserver",
				"-verify_hostname", "dns.isp.example", "-CAfile", filepath.Join(dir, devCACert), filepath.Join(dir, devLeafCert)).CombinedOutput()
			if err != nil {
				t.Errorf("openssl verify: %v\n%s", err, out)
			}
		})
	}
}

// TestDevCAIsConstrained signs for others with the key of the authority.
func TestDevCAIsConstrained(t *testing.T) {
	name, addr := "dns.isp.example", netip.MustParseAddr("192.0.2.53")
	tests := map[string]struct {
		permitted []netip.Addr
		leaf      devCA
	}{
		"other-name":              {[]netip.Addr{addr}, devCA{name: "www.example.com", addrs: []netip.Addr{addr}}},
		"other-address":           {[]netip.Addr{addr}, devCA{name: name, addrs: []netip.Addr{netip.MustParseAddr("192.0.2.54")}}},
		"other-family":            {[]netip.Addr{addr}, devCA{name: name, addrs: []netip.Addr{netip.MustParseAddr("2001:db8::53")}}},
		"address-of-none":         {nil, devCA{name: name, addrs: []netip.Addr{addr}}},
		"address-of-none-in-ipv6": {nil, devCA{name: name, addrs: []netip.Addr{netip.MustParseAddr("2001:db8::53")}}},
	}
	for testName, test := range tests {
		t.Run(testName, func(t *testing.T) {
			now := time.Now()
			key, _, err := newPrivateKey()
			if err != nil {
				t.Fatal(err)
			}
			parse := func(template, parent *x509.Certificate) *x509.Certificate {
				t.Helper()
				der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
				if err != nil {
					t.Fatal(err)
				}
				cert, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				return cert
			}
			template := devCA{name: name, addrs: test.permitted}.root(now)
			root := parse(template, template)
			test.leaf.until = now.Add(time.Hour)
			leaf := parse(test.leaf.leaf(now), root)
			roots := x509.NewCertPool()
			roots.AddCert(root)
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
				t.Error("got it accepted; want it refused by the constraints")
			}
		})
	}
}

func TestDevCARefuses(t *testing.T) {
	for _, file := range []string{devCACert, devCAKey, devLeafCert, devLeafKey} {
		t.Run(file, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, file), "mine")
			_, err := writeDevCA(dir, "dns.isp.example", nil, time.Now())
			if err == nil || !strings.Contains(err.Error(), file+" exists and is left as it is") {
				t.Errorf("got error %v; want it left as it is", err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || mustRead(t, filepath.Join(dir, file)) != "mine" {
				t.Errorf("got %v, error %v; want nothing changed", entries, err)
			}
		})
	}
	if _, err := writeDevCA(t.TempDir(), "10.0.0.53", nil, time.Now()); err == nil {
		t.Error("an address as name: got no error; want one")
	}
}

func TestDevCACommand(t *testing.T) {
	dir := t.TempDir()
	execute := func(args ...string) (stderr string, err error) {
		cmd := newConfigInitCommand()
		var out, errOut bytes.Buffer
		cmd.SetArgs(args)
		cmd.SetOut(&out)
		cmd.SetErr(&errOut)
		err = cmd.Execute()
		return errOut.String(), err
	}
	config := filepath.Join(dir, "cfrd.yaml")
	stderr, err := execute("--output", config, "--dev-ca")
	if err != nil || !strings.Contains(stderr, "dns.isp.example, 10.0.0.53, 2001:db8::53, valid until") {
		t.Errorf("got error %v, %q; want a certificate for the reference configuration", err, stderr)
	}
	if _, err := checkFiles(config); err != nil {
		t.Errorf("the reference configuration with it: %v", err)
	}
	sub := filepath.Join(dir, "ca")
	stderr, err = execute("--dev-ca", sub, "--name", "dns.lab.example", "--address", "192.168.1.53,fd00::53")
	if err != nil || !strings.Contains(stderr, "dns.lab.example, 192.168.1.53, fd00::53") || !strings.Contains(stderr, sub+"/cert.pem") {
		t.Errorf("got error %v, %q; want a certificate for what was asked", err, stderr)
	}
	for name, args := range map[string][]string{
		"again":              {"--dev-ca", sub},
		"directory-alone":    {sub + "2"},
		"no-address":         {"--dev-ca", sub + "2", "--address", "lab"},
		"two-directories":    {"--dev-ca", sub + "2", sub + "3"},
		"name-is-no-name":    {"--dev-ca", sub + "2", "--name", "lab"},
		"directory-is-afile": {"--dev-ca", config},
	} {
		if _, err := execute(args...); err == nil {
			t.Errorf("%s: got no error; want one", name)
		}
	}
}

// checkFiles loads the certificate that a configuration names.
func checkFiles(path string) (any, error) {
	cfg, err := config.Read(path, config.ModeAll)
	if err != nil {
		return nil, err
	}
	return loadCertificate(cfg.TLS.Certificate, cfg.TLS.Key, cfg.Name, time.Now())
}
