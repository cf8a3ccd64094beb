package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
)

// authority gives certificates.
type authority interface {
	// order returns a certificate for id with its chain and its key, in PEM form. It says that it replaces old, or
	// nothing if old is nil.
	order(ctx context.Context, id Identity, old *x509.Certificate) ([]byte, error)
	// window returns when the authority wants leaf to be renewed, and when to ask again. See RFC 9773, Section 4.
	window(ctx context.Context, leaf *x509.Certificate) (acme.RenewalInfo, error)
}

// httpTimeout bounds one request to the authority.
const httpTimeout = 30 * time.Second

// client is an authority that speaks ACME.
//
// certmagic would order one certificate for each name, which leaves a client that discovers by address with one that
// lacks the name, or the other way round; so that orders are placed with acmez, and certmagic keeps what comes of them.
type client struct {
	client *acmez.Client
	store  store
	email  string
}

// newClient returns the client of the authority of cfg, which proves control by proofs.
func newClient(cfg Config, store store, proofs *challenges) (*client, error) {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: httpTimeout,
		IdleConnTimeout:     httpTimeout,
	}
	if cfg.CA != "" {
		roots, err := certs.LoadRoots(cfg.CA)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return &client{
		client: &acmez.Client{
			Client: &acme.Client{
				Directory:  cfg.directory(),
				UserAgent:  cfg.UserAgent,
				HTTPClient: &http.Client{Transport: transport, Timeout: httpTimeout},
				Logger:     slog.New(details{zerolog.NewSlogHandler(cfg.Log)}),
			},
			ChallengeSolvers: proofs.solvers(cfg.Challenges),
		},
		store: store,
		email: cfg.Email,
	}, nil
}

// details turns everything that acmez logs into debug lines. The outcome of an order is logged by whoever placed it.
type details struct{ slog.Handler }

// Enabled implements slog.Handler.
func (d details) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (d details) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (d details) WithAttrs(attrs []slog.Attr) slog.Handler {
	return details{d.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (d details) WithGroup(name string) slog.Handler { return details{d.Handler.WithGroup(name)} }

// account returns the account of the kept key, which the authority makes if it has none. See RFC 8555, Section 7.3.1.
func (c *client) account(ctx context.Context) (acme.Account, error) {
	key, err := c.store.accountKey(ctx)
	if err != nil {
		return acme.Account{}, fmt.Errorf("account key: %w", err)
	}
	account := acme.Account{TermsOfServiceAgreed: true, PrivateKey: key}
	if c.email != "" {
		account.Contact = []string{"mailto:" + c.email}
	}
	return c.client.NewAccount(ctx, account)
}

// order implements authority.
func (c *client) order(ctx context.Context, id Identity, old *x509.Certificate) ([]byte, error) {
	account, err := c.account(ctx)
	if err != nil {
		return nil, err
	}
	key, keyPEM, err := certs.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := acmez.NewCSR(key, id.subjects())
	if err != nil {
		return nil, err
	}
	params, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return nil, err
	}
	params.Profile = id.Profile
	// Only for who publishes renewal windows; to others the field is unknown. See RFC 9773, Section 5.
	if dir, err := c.client.GetDirectory(ctx); err == nil && dir.RenewalInfo != "" {
		params.Replaces = old
	}
	chains, err := c.client.ObtainCertificate(ctx, params)
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, errors.New("the authority gave no certificate")
	}
	return slices.Concat(chains[0].ChainPEM, keyPEM), nil
}

// window implements authority.
func (c *client) window(ctx context.Context, leaf *x509.Certificate) (acme.RenewalInfo, error) {
	return c.client.GetRenewalInfo(ctx, leaf)
}

// isRateLimited reports whether an authority has had enough of us. See RFC 8555, Section 6.6.
func isRateLimited(err error) bool {
	problem, ok := errors.AsType[acme.Problem](err)
	return ok && problem.Type == acme.ProblemTypeRateLimited
}
