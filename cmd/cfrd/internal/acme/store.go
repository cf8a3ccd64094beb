package acme

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
)

// store keeps what must survive a restart: the account's key, and the certificate with its key. It lies below the
// authority's name, so that the account of one is not shown to another.
type store struct {
	*certmagic.FileStorage
	issuer string
}

// newStore returns the store of cfg.Storage for the authority of cfg. It touches no file.
func newStore(cfg Config) store {
	issuer := (&certmagic.ACMEIssuer{CA: cfg.directory()}).IssuerKey()
	return store{&certmagic.FileStorage{Path: cfg.Storage}, issuer}
}

// directory returns the URL of the authority's directory.
func (cfg Config) directory() string {
	if cfg.Directory == "" {
		return certmagic.LetsEncryptProductionCA
	}
	return cfg.Directory
}

// Stored returns the certificate of want.Name that an earlier run has kept, if clients accept it at the time now. The
// error of one that was never kept is fs.ErrNotExist.
func Stored(cfg Config, want Identity, now time.Time) (*tls.Certificate, error) {
	cert, err := newStore(cfg).load(want.Name)
	if err != nil {
		return nil, err
	}
	if err := certs.CheckLeaf(cert.Leaf, want.Name, now); err != nil {
		return nil, err
	}
	return cert, nil
}

// bundleKey is where chain and key of name are kept, in one file: two could not be replaced at once.
func (s store) bundleKey(name string) string {
	return path.Join(certmagic.StorageKeys.CertsSitePrefix(s.issuer, name), certmagic.StorageKeys.Safe(name)+".pem")
}

// load returns the certificate of name. The error of one that was never saved is fs.ErrNotExist.
func (s store) load(name string) (*tls.Certificate, error) {
	bundle, err := s.Load(context.Background(), s.bundleKey(name))
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(bundle, bundle)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.bundleKey(name), certs.OneLine(err))
	}
	return &cert, nil
}

// save keeps chain and key of name, in PEM form.
func (s store) save(ctx context.Context, name string, bundle []byte) error {
	return s.Store(ctx, s.bundleKey(name), bundle)
}

// accountKey returns the key of the account at the authority, and makes it first if there is none.
func (s store) accountKey(ctx context.Context) (crypto.Signer, error) {
	name := path.Join("acme", certmagic.StorageKeys.Safe(s.issuer), "account.key")
	text, err := s.Load(ctx, name)
	if err == nil {
		return certmagic.PEMDecodePrivateKey(text)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, text, err := certs.NewKey()
	if err != nil {
		return nil, err
	}
	return key, s.Store(ctx, name, text)
}

// lock keeps other processes from ordering, until unlock is called or the process ends. It waits until ctx is done. The
// lock of certmagic is not used, because it outlives a process that is killed.
func (s store) lock(ctx context.Context) (unlock func(), err error) {
	dir := s.Path
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		locked, err := tryLock(f)
		if locked {
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-tick.C:
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
}

// CheckStorage returns why nothing could be kept in dir, which need not exist yet: it makes a file where dir is, or will
// be made, and removes it.
func CheckStorage(dir string) error {
	for {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
		if err == nil || filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	f, err := os.CreateTemp(dir, ".cfrd-*")
	if err != nil {
		return err
	}
	name := f.Name()
	f.Close()
	return os.Remove(name)
}
