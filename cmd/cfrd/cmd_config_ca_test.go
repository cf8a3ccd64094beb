package main

import (
	"bytes"
	"crypto/x509"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

func TestPrivateCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	addrs := []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd00::53")}
	ca, err := writePrivateCA(dir, "dns.isp.example", addrs, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := certs.Load(filepath.Join(dir, certs.FileCert), filepath.Join(dir, certs.FileKey), "dns.isp.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got := certs.Addresses(cert.Leaf); !slices.Equal(got, []string{"10.0.0.53", "fd00::53"}) || !slices.Equal(cert.Leaf.DNSNames, []string{"dns.isp.example"}) {
		t.Errorf("got a certificate for %v and %v; want it for the name and both addresses", cert.Leaf.DNSNames, got)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(mustRead(t, filepath.Join(dir, certs.FileCACert)))) {
		t.Fatal("ca.pem holds no certificate")
	}
	for _, name := range []string{"dns.isp.example", "[10.0.0.53]", "[fd00::53]"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for file, want := range map[string]os.FileMode{
		certs.FileCACert: 0o644, certs.FileCAKey: 0o600, certs.FileCert: 0o644, certs.FileKey: 0o600,
	} {
		if st, err := os.Stat(filepath.Join(dir, file)); err != nil || st.Mode() != want {
			t.Errorf("%s: got mode %v, error %v; want %v", file, st.Mode(), err, want)
		}
	}
	var text bytes.Buffer
	explainPrivateCA(&text, dir, ca)
	if !strings.Contains(text.String(), "dns.isp.example, 10.0.0.53, fd00::53, valid until") {
		t.Errorf("got %q; want what the certificate is for", text.String())
	}
}

// TestPrivateCAWithOpenSSL has another implementation judge the chain and the constraints.
func TestPrivateCAWithOpenSSL(t *testing.T) {
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
			if _, err := writePrivateCA(dir, "dns.isp.example", addrs, time.Now()); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", "sslserver",
				"-verify_hostname", "dns.isp.example", "-CAfile", filepath.Join(dir, certs.FileCACert), filepath.Join(dir, certs.FileCert)).CombinedOutput()
			if err != nil {
				t.Errorf("openssl verify: %v\n%s", err, out)
			}
		})
	}
}

func TestPrivateCARefuses(t *testing.T) {
	for _, file := range []string{certs.FileCACert, certs.FileCAKey, certs.FileCert, certs.FileKey} {
		t.Run(file, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, file), "mine")
			_, err := writePrivateCA(dir, "dns.isp.example", nil, time.Now())
			if err == nil || !strings.Contains(err.Error(), file+" exists and is left as it is") {
				t.Errorf("got error %v; want it left as it is", err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || mustRead(t, filepath.Join(dir, file)) != "mine" {
				t.Errorf("got %v, error %v; want nothing changed", entries, err)
			}
		})
	}
	if _, err := writePrivateCA(t.TempDir(), "10.0.0.53", nil, time.Now()); err == nil {
		t.Error("an address as name: got no error; want one")
	}
}

func TestPrivateCACommand(t *testing.T) {
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
	return certs.Load(cfg.TLS.Certificate, cfg.TLS.Key, cfg.Name, time.Now())
}
