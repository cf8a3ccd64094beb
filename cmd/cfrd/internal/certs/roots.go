package certs

import (
	"crypto/x509"
	"fmt"
	"os"
)

// LoadRoots returns the authorities of the system and those of a file in PEM form. The error names the file.
func LoadRoots(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	return pool, appendRoots(pool, file)
}

// LoadOnlyRoots returns the authorities of a file in PEM form, and no others. The error names the file.
func LoadOnlyRoots(file string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	return pool, appendRoots(pool, file)
}

// appendRoots adds the authorities in file, in PEM form, to pool.
func appendRoots(pool *x509.CertPool, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return nil
}
