package resolver

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/cfrd-project/cfrd/resolver/internal/h2"
)

const (
	dnsMessage = "application/dns-message"
	// maxHeader bounds the headers of a request, and with them the message in a GET.
	maxHeader = 16 << 10
	// maxQueryString is checked before a query string is looked into. A longer message belongs in a POST.
	maxQueryString = 8 << 10
	// maxBody bounds the body of a request, whatever its path.
	maxBody = maxMessage
)

// doh answers DNS queries in HTTP requests. What DoH makes of method, path, media type, status and Cache-Control is
// decided here, once: net/http (HTTP/1.1), quic-go (HTTP/3) and internal/h2 (HTTP/2) are adapted to it by ServeHTTP and
// dohH2. See RFC 8484.
type doh struct {
	*frontend
	path  string
	other http.Handler // for other paths, or nil
	media []*mediaType

	altSvc, allow, retryAfter, noStore headerField
	exchanges                          sync.Pool // of *dohExchange, for ServeHTTP

	mu       sync.Mutex
	closed   bool
	requests sync.WaitGroup // requests of ServeHTTP, and connections of HTTP/2
}

// mediaType is a kind of message that clients may send, and how one is answered: the functions are handler.answerNow and
// frontend.answerWaiting, or do for another kind of message what those do for DNS.
type mediaType struct {
	name          string
	contentType   headerField // of the response
	answerNow     func(q *query, dst []byte) ([]byte, outcome)
	answerWaiting func(ctx context.Context, q *query, dst []byte) []byte
}

// newDoH returns a handler for path that announces HTTP/3 on port. See RFC 9114, Section 3.1.1.
func newDoH(f *frontend, path string, port uint16) *doh {
	return &doh{
		frontend: f,
		path:     path,
		// Another kind of message, such as that of Oblivious DoH (RFC 9230), is one more element.
		media: []*mediaType{
			{dnsMessage, newHeaderField("Content-Type", dnsMessage), f.h.answerNow, f.answerWaiting},
		},
		altSvc:     newHeaderField("Alt-Svc", fmt.Sprintf(`h3=":%d"; ma=86400`, port)),
		allow:      newHeaderField("Allow", "GET, POST"),
		retryAfter: newHeaderField("Retry-After", "1"),
		noStore:    newHeaderField("Cache-Control", "no-store"),
		exchanges:  sync.Pool{New: func() any { return new(dohExchange) }},
	}
}

// peer is the connection that a request came over.
type peer struct {
	client, local netip.AddrPort
	transport     Transport
}

type peerKey struct{}

// dohExchange is a DoH request and its response, whatever the version of HTTP.
type dohExchange struct {
	// of the request, set by an adapter
	method, path, query, contentType string
	complete                         bool   // the whole request is here
	canWait                          bool   // h2.Pending has the request answered; else the adapter refuses it
	body                             []byte // if complete
	q                                query  // but for msg

	// set by doh
	media  *mediaType
	get    []byte // the message of a GET
	status int
	reply  []byte
}

// message returns the message of x, which read has found to be right.
func (x *dohExchange) message() []byte {
	if x.method == http.MethodPost {
		return x.body
	}
	return x.get
}

// forget drops what x knows of a client, so that only buffers outlive a request.
func (x *dohExchange) forget() {
	x.path, x.query, x.contentType, x.q = "", "", "", query{}
}

// begin reports false when d is closed, and else that requests.Done must be called.
func (d *doh) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.requests.Add(1)
	}
	return !d.closed
}

// drain refuses further requests and waits for those under way.
func (d *doh) drain() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.requests.Wait()
}

// isOther reports whether a request for path is for the other handler.
func (d *doh) isOther(path string) bool { return d.other != nil && path != d.path }

// answer answers x at once, or says what has to come first. What is not a DNS query is a bad request; errors of DNS are
// none of HTTP. See RFC 8484, Section 4.2.1.
func (d *doh) answer(x *dohExchange) h2.Outcome {
	x.reply = x.reply[:0]
	switch x.status = d.read(x); x.status {
	case http.StatusOK:
	case http.StatusContinue:
		return h2.NeedsBody
	default:
		return h2.Answered
	}
	x.q.msg = x.message()
	var did outcome
	x.reply, did = x.media.answerNow(&x.q, x.reply)
	switch {
	case did == pending && (!x.canWait || d.takeSlot(x.q.client.Addr())):
		return h2.Pending
	case did == pending:
		x.status = http.StatusServiceUnavailable
	case did == dropped || len(x.reply) == 0:
		x.status = http.StatusBadRequest
	}
	return h2.Answered
}

// answerLater answers x after answer has returned h2.Pending.
func (d *doh) answerLater(ctx context.Context, x *dohExchange) {
	x.q.msg = x.message()
	x.reply = x.media.answerWaiting(ctx, &x.q, x.reply[:0])
	if len(x.reply) == 0 {
		x.status = http.StatusBadRequest
	}
}

// read finds the message of x and returns a status: 200 if it is there, 100 if it is in a body that is to come.
func (d *doh) read(x *dohExchange) (status int) {
	if x.path != d.path {
		return http.StatusNotFound
	}
	switch x.method {
	case http.MethodGet:
		x.media = d.media[0] // see RFC 8484, Section 4.1: GET has no other
		x.get, status = readGET(x.query, x.get[:0])
		return status
	case http.MethodPost:
		return d.readPOST(x)
	}
	return http.StatusMethodNotAllowed
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

func (d *doh) readPOST(x *dohExchange) int {
	x.media = d.mediaOf(x.contentType)
	switch {
	case x.media == nil:
		return http.StatusUnsupportedMediaType
	case !x.complete:
		return http.StatusContinue
	case len(x.body) == 0:
		return http.StatusBadRequest
	}
	return http.StatusOK
}

// mediaOf returns the media type with the name in contentType, or nil.
func (d *doh) mediaOf(contentType string) *mediaType {
	name, _, _ := strings.Cut(contentType, ";")
	name = strings.TrimSpace(name)
	for _, m := range d.media {
		if strings.EqualFold(name, m.name) {
			return m
		}
	}
	return nil
}

// readBody appends the body of r to b and returns a status.
func readBody(r *http.Request, b []byte) ([]byte, int) {
	if r.ContentLength > maxBody {
		return b, http.StatusRequestEntityTooLarge
	}
	b, err := readAll(r.Body, b, maxBody)
	switch {
	case errors.Is(err, errTooLong):
		return b, http.StatusRequestEntityTooLarge
	case isTimeout(err):
		return b, http.StatusRequestTimeout
	case err != nil:
		return b, http.StatusBadRequest
	}
	return b, http.StatusOK
}

// headerField is a header field as each version of HTTP wants it.
type headerField struct {
	name   string   // in canonical form
	values []string // shared by responses and never changed
	h2     h2.Field
}

func newHeaderField(name, value string) headerField {
	return headerField{name, []string{value}, h2.EncodeField(name, value)}
}

// header is the header of a response of some version of HTTP.
type header interface {
	set(f *headerField)
	setMaxAge(seconds uint32)
}

// maxAge is the Cache-Control of an answer, but for its number. Answers differ between clients, so that a cache between
// us and several of them must not keep one. See RFC 8484, Section 5.1, and RFC 9111, Section 5.2.2.7.
const maxAge = "private, max-age="

// setHeader sets the header of the response in x.
func (d *doh) setHeader(h header, x *dohExchange) {
	if x.q.transport == DoH {
		h.set(&d.altSvc)
	}
	switch x.status {
	case http.StatusOK:
		h.set(&x.media.contentType)
		if x.q.ttl > 0 {
			h.setMaxAge(x.q.ttl)
		} else {
			h.set(&d.noStore)
		}
	case http.StatusMethodNotAllowed:
		h.set(&d.allow)
	case http.StatusServiceUnavailable:
		h.set(&d.retryAfter)
	}
}
