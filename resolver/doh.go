package resolver

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/rs/zerolog"
)

const (
	dnsMessage = "application/dns-message"
	// maxHeader bounds the headers of a request, and with them the message in a GET.
	maxHeader = 16 << 10
	// maxQueryString is checked before a query string is looked into. What is longer belongs into a POST.
	maxQueryString = 8 << 10
)

// doh answers DNS queries in HTTP requests: those of HTTP/1.1 and HTTP/3 as an http.Handler, those of HTTP/2 through
// h2Conn. See RFC 8484.
type doh struct {
	*frontend
	path  string
	other http.Handler // for other paths, or nil

	altSvc, contentType, allow, retryAfter, closing, noStore []string // header values, never changed

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // requests under way
}

// newDoH returns a handler for path that announces HTTP/3 on port. See RFC 9114, Section 3.1.1.
func newDoH(f *frontend, path string, port uint16) *doh {
	return &doh{
		frontend:    f,
		path:        path,
		altSvc:      []string{fmt.Sprintf(`h3=":%d"; ma=86400`, port)},
		contentType: []string{dnsMessage},
		allow:       []string{"GET, POST"},
		retryAfter:  []string{"1"},
		closing:     []string{"close"},
		noStore:     []string{"no-store"},
	}
}

// peer is the connection that a request came over.
type peer struct {
	client, local netip.AddrPort
	transport     Transport
}

type peerKey struct{}

// begin reports false when d is closed, and else that end must be called.
func (d *doh) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.work.Add(1)
	}
	return !d.closed
}

// drain refuses further requests and waits for those under way.
func (d *doh) drain() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.work.Wait()
}

// ServeHTTP implements http.Handler.
func (d *doh) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, ok := r.Context().Value(peerKey{}).(*peer)
	if !ok || !d.begin() {
		d.refuse(w, r, http.StatusServiceUnavailable)
		return
	}
	defer d.work.Done()
	if p.transport == DoH {
		w.Header()["Alt-Svc"] = d.altSvc
	}
	if d.other != nil && r.URL.Path != d.path {
		d.leaveBody(w.Header(), r)
		d.other.ServeHTTP(w, r)
		return
	}
	j := d.newJob(&query{client: p.client, local: p.local, transport: p.transport})
	defer d.free(j)
	status := d.read(r, j)
	if status == http.StatusOK {
		status = d.answer(r.Context(), j)
	}
	if status != http.StatusOK {
		d.refuse(w, r, status)
		return
	}
	d.reply(w, r, j)
}

// read reads the message of r into j and returns a status.
func (d *doh) read(r *http.Request, j *job) int {
	if r.URL.Path != d.path {
		return http.StatusNotFound
	}
	var status int
	switch r.Method {
	case http.MethodGet:
		j.msg, status = readGET(r.URL.RawQuery, j.msg[:0])
	case http.MethodPost:
		j.msg, status = readPOST(r, j.msg[:0])
	default:
		status = http.StatusMethodNotAllowed
	}
	j.q.msg = j.msg
	return status
}

// readGET appends the message in a query string to b. Its length is checked before anything else.
func readGET(rawQuery string, b []byte) ([]byte, int) {
	if len(rawQuery) > maxQueryString {
		return b, http.StatusRequestURITooLong
	}
	for param := range strings.SplitSeq(rawQuery, "&") {
		encoded, ok := strings.CutPrefix(param, "dns=")
		if !ok {
			continue
		}
		b, err := base64.RawURLEncoding.AppendDecode(b, []byte(encoded))
		if err != nil || len(b) == 0 {
			return b, http.StatusBadRequest
		}
		return b, http.StatusOK
	}
	return b, http.StatusBadRequest
}

// readPOST appends the body of r to b.
func readPOST(r *http.Request, b []byte) ([]byte, int) {
	if !isDNSMessage(r.Header.Get("Content-Type")) {
		return b, http.StatusUnsupportedMediaType
	}
	if r.ContentLength > maxMessage {
		return b, http.StatusRequestEntityTooLarge
	}
	b, err := readAll(r.Body, b, maxMessage)
	switch {
	case errors.Is(err, errTooLong):
		return b, http.StatusRequestEntityTooLarge
	case isTimeout(err):
		return b, http.StatusRequestTimeout
	case err != nil || len(b) == 0:
		return b, http.StatusBadRequest
	}
	return b, http.StatusOK
}

func isDNSMessage(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), dnsMessage)
}

// answer has the query in j answered and returns a status. What is not a DNS query is a bad request; errors of DNS are
// none of HTTP. See RFC 8484, Section 4.2.1.
func (d *doh) answer(ctx context.Context, j *job) int {
	var did outcome
	j.reply, did = d.h.answerNow(&j.q, j.reply[:0])
	if did == pending {
		if !d.takeSlot(j.q.client.Addr()) {
			return http.StatusServiceUnavailable
		}
		j.reply = d.wait(ctx, &j.q, j.reply)
		d.giveSlot(j.q.client.Addr())
	}
	if did == dropped || len(j.reply) == 0 {
		return http.StatusBadRequest
	}
	return http.StatusOK
}

// reply writes the reply in j. See RFC 8484, Section 5.1, for Cache-Control.
func (d *doh) reply(w http.ResponseWriter, r *http.Request, j *job) {
	h := w.Header()
	h["Content-Type"] = d.contentType
	h["Cache-Control"] = d.noStore
	if j.q.ttl > 0 {
		h["Cache-Control"] = []string{"max-age=" + strconv.FormatUint(uint64(j.q.ttl), 10)}
	}
	h["Content-Length"] = []string{strconv.Itoa(len(j.reply))}
	if r.Method == http.MethodGet {
		d.leaveBody(h, r)
	}
	_, _ = w.Write(j.reply) // an error means that the client has gone
}

// refuse writes a reply that has only a status.
func (d *doh) refuse(w http.ResponseWriter, r *http.Request, status int) {
	h := w.Header()
	switch status {
	case http.StatusMethodNotAllowed:
		h["Allow"] = d.allow
	case http.StatusServiceUnavailable:
		h["Retry-After"] = d.retryAfter
	}
	d.leaveBody(h, r)
	w.WriteHeader(status)
}

// leaveBody keeps net/http from waiting for a body that we do not read, which it does in HTTP/1.1 before it sends the
// reply, to use the connection again.
func (d *doh) leaveBody(h http.Header, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		h["Connection"] = d.closing
	}
}

// dohTCP serves a doh over HTTP/1.1, by net/http, and over HTTP/2, by h2Conn.
type dohTCP struct {
	*doh
	ln  dohListener
	srv *http.Server
}

func newDoHTCP(d *doh, ln *net.TCPListener, conf *tls.Config) *dohTCP {
	l := d.limits
	s := &dohTCP{doh: d, ln: dohListener{&listener{ln, d.frontend, DoH}}}
	s.srv = &http.Server{
		Handler:           d,
		TLSConfig:         withProtos(conf, "h2", "http/1.1"),
		ReadHeaderTimeout: l.ReadTimeout,
		ReadTimeout:       l.ReadTimeout,
		WriteTimeout:      l.ReadTimeout + l.QueryTimeout + writeTimeout,
		IdleTimeout:       l.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
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
	s.srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		"h2": func(_ *http.Server, c *tls.Conn, _ http.Handler) { s.serveH2(stop, kill, c) },
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
		if _, err := netip.ParseAddrPort(strings.TrimSuffix(word, ":")); err == nil {
			words[i] = "client"
		}
	}
	event.Msg(strings.Join(words, " "))
	return len(b), nil
}
