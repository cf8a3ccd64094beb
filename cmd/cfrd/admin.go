package main

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"
)

// Limits of the admin server: a scraper, a probe and a person need few connections and no time.
const (
	adminConnections   = 64
	adminHeaderBytes   = 16 << 10
	adminReadTimeout   = 10 * time.Second
	adminWriteTimeout  = 2 * time.Minute // longer than a CPU profile of 30 s, with room for one of a minute
	adminIdleTimeout   = 2 * time.Minute
	adminDrainTimeout  = 2 * time.Second
	adminScrapesAtOnce = 4
)

// adminServer serves metrics and health on the admin address.
type adminServer struct {
	ln  net.Listener
	srv *http.Server
}

// newAdminServer binds addr for a server that answers with h.
func newAdminServer(addr netip.AddrPort, h http.Handler, log zerolog.Logger) (*adminServer, error) {
	ln, err := net.Listen("tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("bind admin %s: %w", addr, errors.Unwrap(err))
	}
	return &adminServer{
		ln: netutil.LimitListener(ln, adminConnections),
		srv: &http.Server{
			Handler:        h,
			ReadTimeout:    adminReadTimeout,
			WriteTimeout:   adminWriteTimeout,
			IdleTimeout:    adminIdleTimeout,
			MaxHeaderBytes: adminHeaderBytes,
			ErrorLog:       stdlog.New(debugWriter{log}, "", 0),
		},
	}, nil
}

// run serves until ctx is done.
func (a *adminServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminDrainTimeout)
		defer cancel()
		if a.srv.Shutdown(ctx) != nil {
			a.srv.Close()
		}
	})
	defer stop()
	if err := a.srv.Serve(a.ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// close gives up the address of a server that is not going to run.
func (a *adminServer) close() { a.ln.Close() }

// handler returns the pages of the admin address.
func (n *node) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(newRegistry(n), promhttp.HandlerOpts{
		MaxRequestsInFlight: adminScrapesAtOnce,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if reasons := n.notReady(); len(reasons) > 0 {
			plain(w, http.StatusServiceUnavailable, reasons...)
			return
		}
		plain(w, http.StatusOK, append([]string{"ready"}, n.certs.Warnings(time.Now())...)...)
	})
	if n.values.Admin.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// plain writes a response of lines of text.
func plain(w http.ResponseWriter, status int, lines ...string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, strings.Join(lines, "\n"))
}

// notReady returns why clients should not be sent here, one reason a line.
func (n *node) notReady() (reasons []string) {
	switch n.phase.Load() {
	case phaseStarting:
		reasons = append(reasons, "starting")
	case phaseDraining:
		reasons = append(reasons, "draining")
	}
	if n.dns != nil && !n.upstreamHealthy() {
		reasons = append(reasons, "no upstream answers")
	}
	if n.relay != nil && !n.relay.Healthy() {
		reasons = append(reasons, "the relay takes no new flows")
	}
	if why := n.certs.Invalid(time.Now()); why != "" {
		reasons = append(reasons, why)
	}
	return reasons
}

// upstreamHealthy reports whether at least one upstream answers.
func (n *node) upstreamHealthy() bool {
	for _, u := range n.dns.Stats().Upstreams {
		if u.Healthy {
			return true
		}
	}
	return false
}

// debugWriter turns what net/http says about its peers into debug lines.
type debugWriter struct{ log zerolog.Logger }

// Write implements io.Writer. It never fails.
func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug().Msg(strings.TrimSpace(string(p)))
	return len(p), nil
}
