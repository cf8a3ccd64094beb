// Package acme gets one certificate of a name and its addresses from an authority that speaks ACME (RFC 8555, RFC 8738),
// and renews it when the authority advises (RFC 9773) or ahead of time.
//
// Service proves control by TLS-ALPN-01 (RFC 8737) through the listeners of DoH, by HTTP-01 on port 80, and by DNS-01
// with a zone of its own that the resolver answers from. It keeps the account and the certificate in a directory that
// several processes may share, and hands each certificate to a certs.Holder, which serves it; it serves none itself, and
// keeps the old one being served while the authority fails.
//
// Package main calls New before it binds the resolver, then Bind, and runs Run on a goroutine; Update and Public may be
// called from any.
package acme

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/reuseport"
	"github.com/cfrd-project/cfrd/resolver"
)

// Config says how to get a certificate. Email, CA, UserAgent and Log may be zero.
type Config struct {
	Directory  string   // the https URL of the authority's directory; "" means that of Let's Encrypt
	Email      string   // where the authority may write to
	CA         string   // a file of authorities in PEM form that may certify the directory, in addition to the system's
	Storage    string   // the directory that keeps the account and the certificate across restarts
	Challenges []string // the types that may be used: tls-alpn-01, http-01, dns-01
	UserAgent  string   // the User-Agent of requests to the authority
	Log        zerolog.Logger
}

// Service keeps a certs.Holder supplied with a certificate.
type Service struct {
	*renewer
	proofs  *challenges
	dns     bool               // DNS-01 may be used
	servers []*challengeServer // of HTTP-01
}

// New returns a Service that supplies holder with a certificate for want. It must be called before the first handshake,
// because holder answers TLS-ALPN-01. The error is about Config.CA.
func New(cfg Config, want Identity, holder *certs.Holder) (*Service, error) {
	proofs, kept := newChallenges(), newStore(cfg)
	client, err := newClient(cfg, kept, proofs)
	if err != nil {
		return nil, fmt.Errorf("acme: %w", err)
	}
	holder.AnswerChallenges(proofs.tlsConfig)
	return &Service{
		renewer: newRenewer(holder, kept, client, want, cfg.Log),
		proofs:  proofs,
		dns:     slices.Contains(cfg.Challenges, acme.ChallengeTypeDNS01),
	}, nil
}

// Bind binds the addresses on which HTTP-01 is answered. The relay can bind their port on all addresses after that, but
// not before.
func (s *Service) Bind(addrs []netip.AddrPort) error {
	for _, a := range addrs {
		server, err := newChallengeServer(listenNetwork(a, addrs), a, s.proofs)
		if err != nil {
			return err
		}
		s.servers = append(s.servers, server)
	}
	return nil
}

// Close closes the listeners of Bind. It is for a Service that never runs, or has run.
func (s *Service) Close() {
	for _, server := range s.servers {
		server.ln.Close()
	}
}

// Public returns the zone below the resolver name in which DNS-01 is answered, which everybody may ask, or nil if that
// challenge is not used or s is nil.
func (s *Service) Public(name string) *resolver.Public {
	if s == nil || !s.dns {
		return nil
	}
	return s.proofs.publicZone(name)
}

// Run renews, and answers HTTP-01, until ctx is done. Any error is one of a listener of HTTP-01.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.renewer.run(ctx); return nil })
	for _, server := range s.servers {
		g.Go(func() error { return server.run(ctx) })
	}
	return g.Wait()
}

// Limits of the servers that answer HTTP-01 to the whole Internet. Proofs are short, and only authorities fetch them.
const (
	challengeConnections = 64
	challengeHeaderBytes = 8 << 10
	challengeTimeout     = 10 * time.Second
)

// challengeServer answers HTTP-01 on one address.
type challengeServer struct {
	ln  net.Listener
	srv *http.Server
}

// listenNetwork returns the network that binds addr, which is one of all: TCP in the family of addr. [::] takes IPv4
// as well, unless 0.0.0.0 is among all.
func listenNetwork(addr netip.AddrPort, all []netip.AddrPort) string {
	switch {
	case addr.Addr().Is4():
		return "tcp4"
	case !addr.Addr().IsUnspecified() || slices.Contains(all, netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())):
		return "tcp6"
	}
	return "tcp"
}

// newChallengeServer binds addr for h, in a way that lets the relay bind the same port on all addresses.
func newChallengeServer(network string, addr netip.AddrPort, h http.Handler) (*challengeServer, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), network, addr.String())
	if err != nil {
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			err = errno
		}
		return nil, fmt.Errorf("bind %s for HTTP-01: %w", addr, err)
	}
	if err := reuseport.Share(ln.(*net.TCPListener)); err != nil {
		ln.Close()
		return nil, fmt.Errorf("bind %s for HTTP-01: %w", addr, err)
	}
	return &challengeServer{
		ln: netutil.LimitListener(ln, challengeConnections),
		srv: &http.Server{
			Handler:        h,
			ReadTimeout:    challengeTimeout,
			WriteTimeout:   challengeTimeout,
			IdleTimeout:    challengeTimeout,
			MaxHeaderBytes: challengeHeaderBytes,
			// The server is open to everybody, so that what goes wrong with a request is not worth a line of log.
			ErrorLog: stdlog.New(io.Discard, "", 0),
		},
	}, nil
}

// run serves until ctx is done.
func (s *challengeServer) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { s.srv.Close() })()
	if err := s.srv.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("HTTP-01: %w", err)
	}
	return nil
}
