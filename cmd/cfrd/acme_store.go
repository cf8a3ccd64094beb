package main

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// acmeStore keeps what must survive a restart: the account's key, and the certificate with its key. It lies below the
// authority's name, so that the account of one is not shown to another.
type acmeStore struct {
	*certmagic.FileStorage
	issuer string
}

func newACMEStore(cfg config.ACME) acmeStore {
	issuer := (&certmagic.ACMEIssuer{CA: cfg.DirectoryURL()}).IssuerKey()
	return acmeStore{&certmagic.FileStorage{Path: cfg.Storage}, issuer}
}

// bundleKey is where chain and key of name are kept, in one file: two could not be replaced at once.
func (s acmeStore) bundleKey(name string) string {
	return path.Join(certmagic.StorageKeys.CertsSitePrefix(s.issuer, name), certmagic.StorageKeys.Safe(name)+".pem")
}

// load returns the certificate of name. The error of one that was never saved is fs.ErrNotExist.
func (s acmeStore) load(name string) (*tls.Certificate, error) {
	bundle, err := s.Load(context.Background(), s.bundleKey(name))
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(bundle, bundle)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.bundleKey(name), oneLine(err))
	}
	return &cert, nil
}

// save keeps chain and key of name, in PEM form.
func (s acmeStore) save(ctx context.Context, name string, bundle []byte) error {
	return s.Store(ctx, s.bundleKey(name), bundle)
}

// accountKey returns the key by which the authority knows us, and makes it first if there is none.
func (s acmeStore) accountKey(ctx context.Context) (crypto.Signer, error) {
	name := path.Join("acme", certmagic.StorageKeys.Safe(s.issuer), "account.key")
	text, err := s.Load(ctx, name)
	if err == nil {
		return certmagic.PEMDecodePrivateKey(text)
	}
	if !isNotExist(err) {
		return nil, err
	}
	key, text, err := newPrivateKey()
	if err != nil {
		return nil, err
	}
	return key, s.Store(ctx, name, text)
}

// lock keeps other processes from ordering, until unlock is called or the process ends. It waits until ctx is done.
// (That of certmagic outlives a process that is killed, and complains by itself.)
func (s acmeStore) lock(ctx context.Context) (unlock func(), err error) {
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

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// newPrivateKey returns a key of ECDSA on P-256, which all clients take, and its PEM form.
func newPrivateKey() (crypto.Signer, []byte, error) {
	key, err := certmagic.StandardKeyGenerator{KeyType: certmagic.P256}.GenerateKey()
	if err != nil {
		return nil, nil, err
	}
	text, err := certmagic.PEMEncodePrivateKey(key)
	return key.(crypto.Signer), text, err
}

// loadRoots returns the system's authorities and those of a file.
func loadRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return pool, nil
}
