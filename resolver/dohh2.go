package resolver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"

	"github.com/cfrd-project/cfrd/resolver/internal/h2"
)

// dohH2 adapts doh to HTTP/2. It implements h2.Handler.
type dohH2 struct{ *doh }

// h2Peer is the h2.Request.Peer of a connection.
type h2Peer struct {
	peer
	request *http.Request // what requests for other paths have in common
}

var (
	cacheControl       = h2.EncodeName("Cache-Control")
	errResponseTooLong = errors.New("response is too long")
)

// newH2 returns the HTTP/2 server of d.
func newH2(d *doh) *h2.Server {
	return h2.New(h2.Config{
		Handler:       dohH2{d},
		KeepHeader:    d.isOther,
		MaxConcurrent: d.limits.InFlightPerConn,
		MaxHeader:     maxHeader,
		MaxBody:       maxBody,
		IdleTimeout:   d.limits.IdleTimeout,
		ReadTimeout:   d.limits.ReadTimeout,
		WriteTimeout:  writeTimeout,
	})
}

// Answer implements h2.Handler.
func (d dohH2) Answer(r *h2.Request, w *h2.Response) h2.Outcome {
	if d.isOther(r.Path) {
		return d.serveOther(r, w)
	}
	x, ok := r.State.(*dohExchange)
	if !ok {
		x = new(dohExchange)
		r.State = x
	}
	p := r.Peer.(*h2Peer)
	x.method, x.path, x.query, x.contentType = r.Method, r.Path, r.Query(), r.ContentType
	x.complete, x.canWait, x.body, x.reply = r.Complete, r.CanWait, r.Body, w.Body
	x.q = query{client: p.client, local: p.local, transport: p.transport}
	did := d.answer(x)
	if did == h2.Answered {
		d.respond(w, x)
	}
	if did != h2.Pending || !x.canWait {
		x.body, x.reply = nil, nil // they belong to the connection
		x.forget()
	}
	return did
}

// Wait implements h2.Handler.
func (d dohH2) Wait(ctx context.Context, r *h2.Request, w *h2.Response) {
	x := r.State.(*dohExchange)
	x.body, x.reply = r.Body, w.Body
	d.answerLater(ctx, x)
	d.respond(w, x)
	x.body, x.reply = nil, nil // they belong to the connection
	x.forget()
}

func (d dohH2) respond(w *h2.Response, x *dohExchange) {
	w.Status = x.status
	d.setHeader(h2Header{w}, x)
	if w.Body = x.reply; x.status != http.StatusOK {
		w.Body = w.Body[:0]
	}
}

// h2Header is the header of a response of HTTP/2.
type h2Header struct{ w *h2.Response }

func (h h2Header) set(f *headerField) { h.w.Add(f.h2) }

func (h h2Header) setMaxAge(seconds uint32) { h.w.AddUint(cacheControl, maxAge, uint64(seconds)) }

// serveOther has the handler for other paths answer, once the body is there. It waits for nothing, so that it may be
// called here.
func (d dohH2) serveOther(r *h2.Request, w *h2.Response) h2.Outcome {
	if !r.Complete {
		return h2.NeedsBody
	}
	w.Add(d.altSvc.h2)
	req, err := otherRequest(r)
	if err != nil {
		w.Status = http.StatusBadRequest
		return h2.Answered
	}
	rec := recorder{header: make(http.Header), body: w.Body}
	if d.record(&rec, req) {
		rec.writeTo(w)
	}
	return h2.Answered
}

// record has the handler write to rec, and reports false if it has not ended well. A fault of it costs one request.
func (d dohH2) record(rec *recorder, r *http.Request) (ok bool) {
	defer func() {
		if p := recover(); p != nil && p != any(http.ErrAbortHandler) {
			d.log.Error().Bytes("stack", debug.Stack()).Msg("the handler for other paths panics")
		}
	}()
	d.other.ServeHTTP(rec, r)
	rec.WriteHeader(http.StatusOK)
	return !rec.tooLong
}

// otherRequest returns r as net/http has it.
func otherRequest(r *h2.Request) (*http.Request, error) {
	p := r.Peer.(*h2Peer)
	u := &url.URL{Host: r.Authority}
	if r.Method != http.MethodConnect {
		var err error
		if u, err = url.ParseRequestURI(r.Target); err != nil {
			return nil, err
		}
	}
	req := p.request.WithContext(p.request.Context())
	req.Method, req.URL, req.RequestURI, req.Header, req.Host = r.Method, u, r.Target, r.Header, r.Authority
	if req.Header == nil {
		req.Header = make(http.Header)
	}
	if req.Host == "" {
		req.Host = req.Header.Get("Host")
	}
	delete(req.Header, "Host")
	req.Body, req.ContentLength = http.NoBody, int64(len(r.Body))
	if len(r.Body) > 0 {
		req.Body = io.NopCloser(bytes.NewReader(r.Body))
	}
	return req, nil
}

// newH2Peer returns the peer of a connection whose requests end with ctx.
func newH2Peer(ctx context.Context, p *peer, state *tls.ConnectionState) *h2Peer {
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, net.Addr(net.TCPAddrFromAddrPort(p.local)))
	r := &http.Request{Proto: "HTTP/2.0", ProtoMajor: 2, TLS: state, RemoteAddr: p.client.String()}
	return &h2Peer{*p, r.WithContext(ctx)}
}

// recorder is an http.ResponseWriter that keeps the response.
type recorder struct {
	header  http.Header
	sent    http.Header // header as it was when the status was set, or nil
	status  int
	body    []byte
	tooLong bool
}

// Header implements http.ResponseWriter.
func (rec *recorder) Header() http.Header { return rec.header }

// WriteHeader implements http.ResponseWriter. Only the first status counts, and informational ones are not sent.
func (rec *recorder) WriteHeader(status int) {
	if rec.sent == nil && status >= http.StatusOK {
		rec.status, rec.sent = status, rec.header.Clone()
	}
}

// Write implements http.ResponseWriter.
func (rec *recorder) Write(b []byte) (int, error) {
	rec.WriteHeader(http.StatusOK)
	if len(rec.body)+len(b) > maxMessage {
		rec.tooLong = true
		return 0, errResponseTooLong
	}
	if len(rec.body) == 0 && rec.sent["Content-Type"] == nil {
		rec.sent.Set("Content-Type", http.DetectContentType(b))
	}
	rec.body = append(rec.body, b...)
	return len(b), nil
}

// writeTo hands the response over to w.
func (rec *recorder) writeTo(w *h2.Response) {
	for name, values := range rec.sent {
		for _, value := range values {
			if value = strings.TrimSpace(value); h2.ValidField(name, value) {
				w.Add(h2.EncodeField(name, value))
			}
		}
	}
	w.Status, w.Body = rec.status, rec.body
}
