package resolver

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
)

// serveOther has the handler for other paths answer, which waits for nothing. Its request has no body.
func (h *h2Conn) serveOther(s *h2Stream) {
	r, err := h.otherRequest()
	if err != nil {
		h.refuse(s, http.StatusBadRequest)
		return
	}
	w := h2Recorder{header: http.Header{"Alt-Svc": h.altSvc}, bare: r.Method == http.MethodHead}
	if !h.record(&w, r) {
		h.abort(s, h2InternalError)
		return
	}
	h.sendRecorded(s, &w)
}

// record has the handler write to w, and reports false if it has not ended well. A fault of it costs one request.
func (h *h2Conn) record(w *h2Recorder, r *http.Request) (ok bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			h.log.Error().Bytes("stack", debug.Stack()).Msg("the handler for other paths panics")
		}
	}()
	h.other.ServeHTTP(w, r)
	w.WriteHeader(http.StatusOK)
	return w.size <= maxMessage
}

// otherRequest returns the request at hand as net/http has it.
func (h *h2Conn) otherRequest() (*http.Request, error) {
	f := &h.fields
	r := &http.Request{
		Method: f.method, Proto: "HTTP/2.0", ProtoMajor: 2, Header: f.header, Body: http.NoBody, TLS: h.tls,
		Host: f.authority, RequestURI: f.target, RemoteAddr: h.peer.client.String(),
	}
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	if r.Host == "" {
		r.Host = r.Header.Get("Host")
	}
	delete(r.Header, "Host")
	var err error
	if r.Method == http.MethodConnect {
		r.URL = &url.URL{Host: r.Host}
	} else if r.URL, err = url.ParseRequestURI(f.target); err != nil {
		return nil, err
	}
	ctx := context.WithValue(h.ctx, peerKey{}, h.peer)
	return r.WithContext(context.WithValue(ctx, http.LocalAddrContextKey, net.Addr(net.TCPAddrFromAddrPort(h.peer.local)))), nil
}

// sendRecorded sends what a handler has written.
func (h *h2Conn) sendRecorded(s *h2Stream, w *h2Recorder) {
	var flags uint8
	if w.body.Len() == 0 {
		flags = h2FlagEndStream
	}
	start := h.beginBlock(s.id, flags)
	h.appendStatus(w.status)
	h.out.reply = w.appendHeader(h.out.reply)
	h.appendDate()
	if len(h.out.reply)-start-h2FrameHeader > h2FrameSize {
		h.out.reply, h.resizeNext = h.out.reply[:start], true
		h.abort(s, h2InternalError)
		return
	}
	h.endBlock(start)
	if w.body.Len() == 0 {
		h.finished(s)
		return
	}
	h.send(s, w.body.Bytes())
}

// h2Recorder is an http.ResponseWriter that keeps the response.
type h2Recorder struct {
	header http.Header
	sent   http.Header // header as it was when the status was set, or nil
	status int
	bare   bool // a HEAD request: the body is counted only
	size   int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (w *h2Recorder) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. Only the first status counts, and informational ones are not sent.
func (w *h2Recorder) WriteHeader(status int) {
	if w.sent == nil && status >= http.StatusOK {
		w.status, w.sent = status, w.header.Clone()
	}
}

var errResponseTooLong = errors.New("response is too long")

// Write implements http.ResponseWriter.
func (w *h2Recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.size += len(b); w.size > maxMessage {
		return 0, errResponseTooLong
	}
	if w.size == len(b) && w.sent["Content-Type"] == nil {
		w.sent.Set("Content-Type", http.DetectContentType(b))
	}
	if w.bare {
		return len(b), nil
	}
	return w.body.Write(b)
}

// appendHeader appends the header in HPACK form, without what HTTP/2 does not have. See RFC 9113, Section 8.2.2.
func (w *h2Recorder) appendHeader(b []byte) []byte {
	for name, values := range w.sent {
		name = strings.ToLower(name)
		switch name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "date", "content-length":
			continue
		}
		for _, value := range values {
			if value = strings.TrimSpace(value); validName(name) && validValue(value) {
				b = appendHpackNamed(b, name, value)
			}
		}
	}
	if w.size > 0 {
		b = appendHpackIndexed(b, hpackContentLength, strconv.Itoa(w.size))
	}
	return b
}
