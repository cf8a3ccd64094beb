package acme

import (
	"crypto/ecdsa"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
)

func TestStoreKeepsTheAccount(t *testing.T) {
	dir := t.TempDir()
	store := newStore(Config{Storage: dir})
	first, err := store.accountKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, err := store.accountKey(t.Context())
	if err != nil || !first.Public().(*ecdsa.PublicKey).Equal(again.Public()) {
		t.Errorf("got error %v, or another key; want the same", err)
	}
	other, err := newStore(Config{Storage: dir, Directory: "https://ca.example/dir"}).accountKey(t.Context())
	if err != nil || first.Public().(*ecdsa.PublicKey).Equal(other.Public()) {
		t.Errorf("another authority: got error %v, or the same key; want another", err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if info, ierr := d.Info(); ierr == nil && path != dir && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: got mode %v; want it for the owner only", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestStoreWithABrokenCertificate(t *testing.T) {
	store := newStore(Config{Storage: t.TempDir()})
	if err := store.save(t.Context(), "dns.isp.example", []byte("half a")); err != nil {
		t.Fatal(err)
	}
	if _, err := store.load("dns.isp.example"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v; want one about what is in the file", err)
	}
}

func TestCheckStorage(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), "")
	tests := map[string]struct{ path, want string }{
		"there":        {dir, ""},
		"to-be-made":   {filepath.Join(dir, "a", "b"), ""},
		"a-file":       {filepath.Join(dir, "file"), "file is not a directory"},
		"below-a-file": {filepath.Join(dir, "file", "a"), "file is not a directory"},
		"proc":         {"/proc/self", "permission denied|no such file|not permitted|operation not supported|no such process"},
		"below-proc":   {"/proc/cfrd", "permission denied|no such file|not permitted|operation not supported"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := CheckStorage(test.path)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got error %v; want none", err)
			case test.want != "" && (err == nil || !slices.ContainsFunc(strings.Split(test.want, "|"), func(s string) bool {
				return strings.Contains(err.Error(), s)
			})):
				t.Errorf("got error %v; want %q", err, test.want)
			}
		})
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("got %v, error %v; want nothing left behind", entries, err)
	}
}

// TestStoreLayout pins where a certificate is kept: an upgrade must find what the version before has kept.
func TestStoreLayout(t *testing.T) {
	for directory, want := range map[string]string{
		"":                       "certificates/acme-v02.api.letsencrypt.org-directory/dns.isp.example/dns.isp.example.pem",
		"https://ca.example/dir": "certificates/ca.example-dir/dns.isp.example/dns.isp.example.pem",
	} {
		if got := newStore(Config{Directory: directory}).bundleKey("dns.isp.example"); got != want {
			t.Errorf("%q: got %s; want %s", directory, got, want)
		}
	}
}

// TestStored has a certificate that was kept, until it expires.
func TestStored(t *testing.T) {
	cfg, want := Config{Storage: t.TempDir()}, testIdentity()
	if _, err := Stored(cfg, want, time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: got error %v; want that it does not exist", err)
	}
	dir := t.TempDir()
	leaf := certstest.Template{Names: []string{want.Name}}.Write(t, dir)
	var bundle []byte
	for _, file := range []string{"cert.pem", "key.pem"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(bundle, text...)
	}
	if err := newStore(cfg).save(t.Context(), want.Name, bundle); err != nil {
		t.Fatal(err)
	}
	cert, err := Stored(cfg, want, time.Now())
	if err != nil || !cert.Leaf.Equal(leaf) {
		t.Errorf("got error %v; want the certificate", err)
	}
	if cert, err := Stored(cfg, want, time.Now().Add(2*time.Hour)); err == nil || cert != nil {
		t.Errorf("when it has expired: got error %v; want one, and no certificate", err)
	}
}
