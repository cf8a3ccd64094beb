package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/acme"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
)

// identity returns what the authority is asked to certify.
func (v *values) identity() acme.Identity {
	return acme.NewIdentity(v.Name, v.CertificateAddresses(), v.TLS.ACME.Profile)
}

// acmeConfig returns how the certificate is to be got.
func (v *values) acmeConfig(log zerolog.Logger) acme.Config {
	a := v.TLS.ACME
	cfg := acme.Config{
		Directory: a.DirectoryURL(),
		Email:     a.Email,
		CA:        a.CA,
		Storage:   a.Storage,
		UserAgent: "cfrd/" + version(),
		Log:       log,
	}
	for _, c := range a.EnabledChallenges() {
		cfg.Challenges = append(cfg.Challenges, string(c))
	}
	return cfg
}

// loadACME reads the certificate of an earlier run. There need not be one.
func (l *loader) loadACME(now time.Time) {
	if a := l.TLS.ACME; a.CA != "" {
		if _, err := certs.LoadRoots(a.CA); err != nil {
			l.problems.Add("tls.acme.ca", "%s", err)
		}
	}
	if err := acme.CheckStorage(l.TLS.ACME.Storage); err != nil {
		l.problems.Add("tls.acme.storage", "%s: what an authority gives could not be kept", err)
		return
	}
	cert, err := acme.Stored(l.acmeConfig(zerolog.Nop()), l.identity(), now)
	switch {
	case err == nil:
		l.certificate = cert
	case !errors.Is(err, fs.ErrNotExist):
		l.Warnings = append(l.Warnings, fmt.Sprintf("tls.acme.storage: the certificate that is kept there is not used: %s", certs.OneLine(err)))
	}
}
