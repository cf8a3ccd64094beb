package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// identity is what a certificate is to say.
type identity struct {
	name    string
	addrs   []netip.Addr
	profile string // of the authority's, "" for its default
}

// identity returns what to ask the authority for.
func (v *values) identity() identity {
	return identity{
		name:    strings.ToLower(strings.TrimSuffix(v.Name, ".")),
		addrs:   v.CertificateAddresses(),
		profile: v.TLS.ACME.Profile,
	}
}

// loadACME reads the certificate of an earlier run. There need not be one.
func (l *loader) loadACME(now time.Time) {
	if a := l.TLS.ACME; a.CA != "" {
		if _, err := loadRoots(a.CA); err != nil {
			l.problems.Add("tls.acme.ca", "%s", err)
		}
	}
	if err := checkWritable(l.TLS.ACME.Storage); err != nil {
		l.problems.Add("tls.acme.storage", "%s: what an authority gives could not be kept", err)
		return
	}
	id := l.identity()
	cert, err := newACMEStore(l.TLS.ACME).load(id.name)
	if err == nil {
		err = checkLeaf(cert.Leaf, id.name, now)
	}
	switch {
	case err == nil:
		l.certificate = cert
	case !isNotExist(err):
		l.Warnings = append(l.Warnings, fmt.Sprintf("tls.acme.storage: the certificate that is kept there is not used: %s", oneLine(err)))
	}
}

// checkWritable makes a file where dir is, or will be made, and removes it.
func checkWritable(dir string) error {
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
