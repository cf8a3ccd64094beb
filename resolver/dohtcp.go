package resolver

import (
	"context"
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/resolver/internal/h2"
)

// HTTP2Server says which implementation of HTTP/2 serves DoH.
type HTTP2Server uint8

// Values of HTTP2Server.
const (
	HTTP2Own     HTTP2Server = iota // internal/h2, which takes less time per answer
	HTTP2Library                    // net/http, for when the other one has a fault that cannot wait
)

// dohTCP serves a doh over TCP: HTTP/1.1 by net/http, and HTTP/2 by internal/h2 or, with HTTP2Library, by net/http too.
type dohTCP struct {
	*doh
	ln  dohListener
	srv *http.Server

	implementation HTTP2Server
	h2             *h2.Server
}

func newDoHTCP(d *doh, ln *net.TCPListener, conf *tls.Config) *dohTCP {
	l := d.limits
	s := &dohTCP{
		doh: d, ln: dohListener{&listener{ln, d.frontend, DoH}},
		implementation: l.HTTP2, h2: newH2(d),
	}
	s.srv = &http.Server{
		Handler:           d,
		TLSConfig:         withProtos(conf, "h2", "http/1.1"),
		ReadHeaderTimeout: l.ReadTimeout,
		ReadTimeout:       l.ReadTimeout,
		WriteTimeout:      l.ReadTimeout + l.QueryTimeout + writeTimeout,
		IdleTimeout:       l.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: l.InFlightPerConn},
		ErrorLog:          log.New(errorLog{d.log}, "", 0),
		ConnContext:       withPeer,
	}
	return s
}

// withPeer spares the handler to parse addresses for each request.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	tc, ok := c.(*tls.Conn)
	if !ok {
		return ctx
	}
	if c, ok := tc.NetConn().(*dohConn); ok {
		return context.WithValue(ctx, peerKey{}, &peer{c.client, c.local, DoH})
	}
	return ctx
}

func (s *dohTCP) close() { s.ln.Close() }

func (s *dohTCP) serve(stop, kill context.Context) error {
	defer s.drain()
	s.srv.BaseContext = func(net.Listener) context.Context { return kill }
	if s.implementation == HTTP2Own {
		s.srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
			"h2": func(_ *http.Server, c *tls.Conn, _ http.Handler) { s.serveH2(stop, kill, c) },
		}
	}
	served := make(chan error, 1)
	go func() { served <- s.srv.ServeTLS(s.ln, "", "") }()
	var err error
	select {
	case err = <-served:
	case <-stop.Done():
		_ = s.srv.Shutdown(kill) // an error means that kill was first
		err = <-served
	}
	s.srv.Close()
	return unlessClosed(err)
}

// serveH2 serves a connection that has agreed on HTTP/2.
func (s *dohTCP) serveH2(stop, kill context.Context, tc *tls.Conn) {
	c, ok := tc.NetConn().(*dohConn)
	if !ok || !s.begin() {
		return
	}
	defer s.requests.Done()
	state := tc.ConnectionState()
	s.h2.Serve(stop, kill, tc, c, newH2Peer(kill, &peer{c.client, c.local, DoH}, &state))
}

// dohListener accepts connections for net/http.
type dohListener struct{ *listener }

// Accept implements net.Listener.
func (l dohListener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, err
	}
	return &dohConn{conn: c}, nil
}

// dohConn is a connection below TLS. It implements h2.Lower.
type dohConn struct {
	*conn
	beforeRead func() error // or nil

	mu      sync.Mutex // TLS writes also on its own account: alerts, key updates
	holding bool
	held    []byte
}

// BeforeRead implements h2.Lower.
func (c *dohConn) BeforeRead(f func() error) { c.beforeRead = f }

// Read implements net.Conn.
func (c *dohConn) Read(b []byte) (int, error) {
	if c.beforeRead != nil {
		if err := c.beforeRead(); err != nil {
			return 0, err
		}
	}
	return c.TCPConn.Read(b)
}

// Write implements net.Conn.
func (c *dohConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holding {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	return c.TCPConn.Write(b)
}

// Hold implements h2.Lower.
func (c *dohConn) Hold(buf []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding, c.held = true, buf
}

// Release implements h2.Lower.
func (c *dohConn) Release() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf := c.held
	c.holding, c.held = false, nil
	_, err := c.TCPConn.Write(buf)
	return buf, err
}

// errorLog takes what net/http complains of: faults of clients, and of us. Neither addresses nor what a client sent,
// which net/http quotes, are passed on.
type errorLog struct{ log zerolog.Logger }

func (l errorLog) Write(b []byte) (int, error) {
	text, _, _ := strings.Cut(string(b), `"`)
	event := l.log.Debug()
	if strings.Contains(text, "panic serving") {
		event = l.log.Error()
	}
	words := strings.Fields(text)
	for i, word := range words {
		if hasAddress(word) {
			words[i] = "client"
		}
	}
	event.Msg(strings.Join(words, " "))
	return len(b), nil
}

// hasAddress reports whether word is an address, with or without a port, or several as net.OpError writes them:
// "192.0.2.1:443->198.51.100.1:4711:".
func hasAddress(word string) bool {
	for part := range strings.SplitSeq(word, "->") {
		part = strings.TrimLeft(part, "(")
		for _, text := range []string{part, strings.TrimRight(part, ":,;)")} {
			_, err1 := netip.ParseAddr(text)
			_, err2 := netip.ParseAddrPort(text)
			if err1 == nil || err2 == nil {
				return true
			}
		}
	}
	return false
}
