package certs

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
)

// TestLoadRoots reads one authority, alone and with those of the system, and files that hold none.
func TestLoadRoots(t *testing.T) {
	dir := t.TempDir()
	leaf := certstest.Template{Names: []string{"dns.isp.example"}}.Write(t, dir)
	file := filepath.Join(dir, "cert.pem")
	for name, load := range map[string]func(string) (*x509.CertPool, error){"with-system": LoadRoots, "only": LoadOnlyRoots} {
		pool, err := load(file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		only := x509.NewCertPool()
		only.AddCert(leaf)
		if got := pool.Equal(only); name == "only" && !got {
			t.Errorf("%s: got other authorities, too", name)
		}
		if _, err := load(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got error %v; want that the file does not exist", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "text"), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(filepath.Join(dir, "text")); err == nil || !strings.Contains(err.Error(), "text holds no certificate") {
			t.Errorf("%s: got error %v; want one that names the file", name, err)
		}
	}
}

// TestReplaceCounts counts replacements by another certificate, and by none, but not by the same.
func TestReplaceCounts(t *testing.T) {
	holder, _ := testCertificates(t)
	cert := holder.Current()
	holder.Replace(cert)
	if got := holder.Stats().Applied; got != 0 {
		t.Errorf("the same: got %d replacements; want 0", got)
	}
	holder.Refuse(os.ErrPermission)
	holder.Replace(nil)
	if s := holder.Stats(); s.Applied != 1 || s.Refused != 1 || s.Failing || !s.Expiry.IsZero() || holder.Leaf() != nil {
		t.Errorf("none: got %+v; want one replacement after one that was refused", s)
	}
	var none *Holder
	if none.Leaf() != nil || none.Stats() != (Stats{}) || len(none.Warnings(cert.Leaf.NotBefore)) != 0 || none.Invalid(cert.Leaf.NotBefore) != "" {
		t.Error("got something of a resolver without encrypted transports; want nothing")
	}
}
