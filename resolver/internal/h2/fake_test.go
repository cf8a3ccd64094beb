package h2

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const (
	textPlain        = "text/plain"
	largeReply       = 60000
	testWriteTimeout = 5 * time.Second
	testMaxBody      = 1<<16 - 1
	testMaxHeader    = 16 << 10
	testWindow       = 2 << 16
)

// fakeHandler knows no protocol: it answers a GET with its path and a POST with its body, followed by a dot. The first
// label says how:
//
//	now     at once
//	slow    waits until release is closed or the request is given up
//	deaf    waits until release is closed
//	late    waits, but not for long
//	large   with largeReply octets
//	header  with a header that is too large
//	fault   without a status
//	body    asks for a body, whether there is one or not
//
// and what has none of these labels with 404.
type fakeHandler struct {
	release chan struct{}

	answering, maxAnswering atomic.Int64 // calls of Wait
}

func newFake() *fakeHandler { return &fakeHandler{release: make(chan struct{})} }

// withDefaults returns cfg with handler and what it lacks.
func withDefaults(cfg Config, handler Handler) Config {
	return Config{
		Handler:       handler,
		MaxConcurrent: cmp.Or(cfg.MaxConcurrent, 100),
		MaxHeader:     testMaxHeader,
		MaxBody:       testMaxBody,
		IdleTimeout:   cmp.Or(cfg.IdleTimeout, 10*time.Second),
		ReadTimeout:   cmp.Or(cfg.ReadTimeout, 5*time.Second),
		WriteTimeout:  testWriteTimeout,
	}
}

// label returns the first label of what is asked for.
func label(r *Request) string {
	name := strings.TrimPrefix(r.Path, "/")
	if r.Method == http.MethodPost {
		name = string(r.Body)
	}
	first, _, _ := strings.Cut(name, ".")
	return first
}

func (f *fakeHandler) Answer(r *Request, w *Response) Outcome {
	if r.Method == http.MethodPost {
		switch {
		case r.ContentType != textPlain:
			w.Status = http.StatusUnsupportedMediaType
			return Answered
		case !r.Complete:
			return NeedsBody
		case len(r.Body) == 0:
			w.Status = http.StatusBadRequest
			return Answered
		}
	}
	w.Status = http.StatusOK
	switch label(r) {
	case "slow", "late", "deaf":
		w.Status = 0
		return Pending
	case "body":
		return NeedsBody
	case "large":
		w.Body = append(w.Body, make([]byte, largeReply)...)
	case "header":
		w.Add(EncodeField("x", strings.Repeat("~", 2*maxFrame)))
	case "fault":
		w.Status = 0
	case "now":
		f.reply(r, w)
	default:
		w.Status = http.StatusNotFound
	}
	return Answered
}

func (f *fakeHandler) reply(r *Request, w *Response) {
	w.Status = http.StatusOK
	if r.Method == http.MethodPost {
		w.Body = append(w.Body, r.Body...)
	} else {
		w.Body = append(w.Body, r.Path[1:]...)
	}
	w.Body = append(w.Body, '.')
}

func (f *fakeHandler) Wait(ctx context.Context, r *Request, w *Response) {
	n := f.answering.Add(1)
	defer f.answering.Add(-1)
	for old := f.maxAnswering.Load(); n > old && !f.maxAnswering.CompareAndSwap(old, n); old = f.maxAnswering.Load() {
	}
	switch label(r) {
	case "slow":
		select {
		case <-f.release:
		case <-ctx.Done():
		}
	case "deaf":
		<-f.release
	}
	f.reply(r, w)
}

// fakeLower calls f before each read.
type fakeLower struct {
	net.Conn
	f func() error
}

func (l *fakeLower) BeforeRead(f func() error) { l.f = f }
func (l *fakeLower) CloseWrite() error         { return nil }
func (l *fakeLower) Hold([]byte)               {}
func (l *fakeLower) Release() ([]byte, error)  { return nil, nil }

func (l *fakeLower) Read(b []byte) (int, error) {
	if l.f != nil {
		if err := l.f(); err != nil {
			return 0, err
		}
	}
	return l.Conn.Read(b)
}

// writeCounter counts writes to a connection whose client sends all of in, and then a FIN.
type writeCounter struct {
	net.Conn
	in     io.Reader
	f      func() error // or nil
	out    bytes.Buffer
	writes int
}

func (w *writeCounter) Read(b []byte) (int, error) {
	if w.f != nil {
		if err := w.f(); err != nil {
			return 0, err
		}
	}
	return w.in.Read(b)
}

func (w *writeCounter) BeforeRead(f func() error)        { w.f = f }
func (w *writeCounter) CloseWrite() error                { return nil }
func (w *writeCounter) Hold([]byte)                      {}
func (w *writeCounter) Release() ([]byte, error)         { return nil, nil }
func (w *writeCounter) SetReadDeadline(time.Time) error  { return nil }
func (w *writeCounter) SetWriteDeadline(time.Time) error { return nil }
func (w *writeCounter) Close() error                     { return nil }

func (w *writeCounter) Write(b []byte) (int, error) {
	w.writes++
	return w.out.Write(b)
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// chunks is a reader of b in pieces, the lengths of which are in cuts.
type chunks struct{ b, cuts []byte }

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := len(c.b)
	if len(c.cuts) > 0 {
		n = min(n, 1+int(c.cuts[0]))
		c.cuts = c.cuts[1:]
	}
	n = copy(p, c.b[:n])
	c.b = c.b[n:]
	return n, nil
}
