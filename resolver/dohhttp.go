package resolver

import (
	"bytes"
	"io"
	"net/http"
	"strconv"

	"github.com/cfrd-project/cfrd/resolver/internal/h2"
)

// ServeHTTP implements http.Handler, for HTTP/1.1 and HTTP/3, and for HTTP/2 with HTTP2Library.
func (d *doh) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, ok := r.Context().Value(peerKey{}).(*peer)
	if !ok || !d.begin() {
		httpHeader(w.Header()).set(&d.retryAfter)
		leaveBody(w.Header(), r)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer d.requests.Done()
	x := d.newExchange(p, r)
	defer d.freeExchange(x)
	if d.isOther(r.URL.Path) {
		d.serveOther(w, r, x)
		return
	}
	did := d.answer(x)
	if did == h2.NeedsBody && x.readBody(r) {
		did = d.answer(x)
	}
	if did == h2.Pending {
		d.answerLater(r.Context(), x)
	}
	d.respond(w, r, x)
}

func (d *doh) newExchange(p *peer, r *http.Request) *dohExchange {
	x := d.exchanges.Get().(*dohExchange)
	x.method, x.path, x.query, x.contentType = r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type")
	x.complete, x.canWait = r.ContentLength == 0, true
	x.body = x.body[:0]
	x.q = query{client: p.client, local: p.local, transport: p.transport}
	return x
}

// freeExchange ends x, whose buffers may be reused at once.
func (d *doh) freeExchange(x *dohExchange) {
	if cap(x.body) > maxPooled {
		x.body = nil
	}
	if cap(x.reply) > maxPooled {
		x.reply = nil
	}
	x.forget()
	d.exchanges.Put(x)
}

// readBody completes x with the body of r, or makes it a failure.
func (x *dohExchange) readBody(r *http.Request) bool {
	x.body, x.status = readBody(r, x.body)
	x.complete = x.status == http.StatusOK
	return x.complete
}

// respond writes the response in x.
func (d *doh) respond(w http.ResponseWriter, r *http.Request, x *dohExchange) {
	h := w.Header()
	d.setHeader(httpHeader(h), x)
	if !x.complete {
		leaveBody(h, r)
	}
	if x.status != http.StatusOK {
		w.WriteHeader(x.status)
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(x.reply))}
	_, _ = w.Write(x.reply) // an error means that the client reads no more
}

// serveOther has the handler for other paths answer, once the body is there.
func (d *doh) serveOther(w http.ResponseWriter, r *http.Request, x *dohExchange) {
	if !x.complete && !x.readBody(r) {
		d.respond(w, r, x)
		return
	}
	if x.q.transport == DoH {
		httpHeader(w.Header()).set(&d.altSvc)
	}
	r = r.WithContext(r.Context()) // a copy: the server still needs its own
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(x.body)), int64(len(x.body)), nil
	d.other.ServeHTTP(w, r)
}

// closeValue has HTTP/1.1 end a connection.
var closeValue = []string{"close"}

// leaveBody keeps net/http from waiting for a body that nobody reads, which it does in HTTP/1.1 before it sends the
// response, to use the connection again.
func leaveBody(h http.Header, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		h["Connection"] = closeValue
	}
}

// httpHeader is the header of a response of net/http or quic-go.
type httpHeader http.Header

func (h httpHeader) set(f *headerField) { h[f.name] = f.values }

func (h httpHeader) setMaxAge(seconds uint32) {
	h["Cache-Control"] = []string{maxAge + strconv.FormatUint(uint64(seconds), 10)}
}
