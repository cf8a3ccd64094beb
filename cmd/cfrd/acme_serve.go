package main

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

	"github.com/cfrd-project/cfrd/resolver"
)

// acmeService is what a node runs to have a certificate from an authority.
type acmeService struct {
	*renewer
	proofs  *challenges
	servers []*challengeServer // for HTTP-01
}

// newACMEService prepares certs for TLS-ALPN-01, which must be done before the resolver is given its TLS configuration.
func newACMEService(v *values, certs *certificates, log zerolog.Logger) (*acmeService, error) {
	cfg, proofs := v.TLS.ACME, newChallenges()
	store := newACMEStore(cfg)
	client, err := newACMEClient(cfg, store, proofs, log)
	if err != nil {
		return nil, fmt.Errorf("acme: %w", err)
	}
	certs.challenge = proofs.tlsConfig
	return &acmeService{renewer: newRenewer(certs, store, client, v.identity(), log), proofs: proofs}, nil
}

// bind binds what HTTP-01 is answered on. It must be done before the relay takes its ports on all addresses.
func (s *acmeService) bind(addrs []netip.AddrPort) error {
	for _, a := range addrs {
		server, err := newChallengeServer(listenNetwork(a, addrs), a, s.proofs)
		if err != nil {
			return err
		}
		s.servers = append(s.servers, server)
	}
	return nil
}

func (s *acmeService) close() {
	for _, server := range s.servers {
		server.ln.Close()
	}
}

// public returns the name at which DNS-01 is answered for who has settings v, or nil.
func (s *acmeService) public(v *values) *resolver.Public {
	if s == nil || !v.TLS.ACME.Uses(acme.ChallengeTypeDNS01) {
		return nil
	}
	return s.proofs.publicZone(v.Name)
}

// run renews, and answers HTTP-01, until ctx is done.
func (s *acmeService) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.renewer.run(ctx); return nil })
	for _, server := range s.servers {
		g.Go(func() error { return server.run(ctx) })
	}
	return g.Wait()
}

// Limits of what answers HTTP-01 to the whole Internet: proofs are short, and few come to look.
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

// listenNetwork narrows TCP to the family of addr. [::] takes IPv4 as well, unless 0.0.0.0 is among all.
func listenNetwork(addr netip.AddrPort, all []netip.AddrPort) string {
	switch {
	case addr.Addr().Is4():
		return "tcp4"
	case !addr.Addr().IsUnspecified() || slices.Contains(all, netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())):
		return "tcp6"
	}
	return "tcp"
}

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
	if err := shareAddress(ln.(*net.TCPListener)); err != nil {
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
			// Nothing of what strangers send is worth a line.
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
