package resolver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// What violates RFC 9250 ends the connection with DOQ_PROTOCOL_ERROR.
func TestDoQProtocolErrors(t *testing.T) {
	s := startServer(t, nil)
	query := wireQuery(t, "now.example", 0)
	response := bytes.Clone(query)
	response[2] |= 0x80
	for name, sent := range map[string][]byte{
		"id-not-zero":   frame(wireQuery(t, "now.example", 1)),
		"no-length":     {0},
		"nothing":       {},
		"cut-short":     frame(query)[:20],
		"trailing":      append(frame(query), 0),
		"second-query":  append(frame(query), frame(query)...),
		"empty-message": {0, 0},
		"short-message": frame(query[:wire.HeaderLen-1]),
		"a-response":    frame(response),
		"too-long":      append(frame(make([]byte, maxMessage)), make([]byte, 1000)...),
	} {
		t.Run(name, func(t *testing.T) {
			c := quicConn(t, s, s.Addrs().DoQ[0], "doq")
			str, err := c.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			str.Write(sent)
			str.Close()
			if got := closeCode(t, c); got != doqProtocolError {
				t.Errorf("got error code %d; want %d", got, doqProtocolError)
			}
		})
	}
}

// closeCode waits for the server to close c and returns its error code.
func closeCode(t *testing.T, c *quic.Conn) quic.ApplicationErrorCode {
	t.Helper()
	select {
	case <-c.Context().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the connection does not end")
	}
	ae, ok := errors.AsType[*quic.ApplicationError](context.Cause(c.Context()))
	if !ok || !ae.Remote {
		t.Fatalf("got %v; want an application error of the server", context.Cause(c.Context()))
	}
	return ae.ErrorCode
}

// DoQ has no unidirectional streams; HTTP/3 cannot do without. (A4)
func TestUnidirectionalStreams(t *testing.T) {
	s := startServer(t, nil)
	if _, err := quicConn(t, s, s.Addrs().DoQ[0], "doq").OpenUniStream(); err == nil {
		t.Error("doq: got a stream; want none")
	}
	if _, err := quicConn(t, s, s.Addrs().DoH[0], "h3").OpenUniStream(); err != nil {
		t.Errorf("h3: %v", err)
	}
}

// Streams that stall end with ReadTimeout, and in the meantime others are served. (A1, A2)
func TestDoQStalledStreams(t *testing.T) {
	const conns, limit = 5, 50
	s := startServer(t, func(c *Config) {
		c.Limits = Limits{InFlightPerConn: limit, ReadTimeout: 500 * time.Millisecond}
	})
	good := dialDoQ(t, s)
	if _, err := good(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
		t.Fatal(err)
	}
	var stalled []*quic.Stream
	var conn []*quic.Conn
	for range conns {
		conn = append(conn, quicConn(t, s, s.Addrs().DoQ[0], "doq"))
	}
	goroutines := runtime.NumGoroutine()
	for _, c := range conn {
		for range limit {
			str, err := c.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := str.Write([]byte{0xff}); err != nil {
				t.Fatal(err)
			}
			stalled = append(stalled, str)
		}
	}
	if _, err := good(t.Context(), wireQuery(t, "now.example", 2)); err != nil {
		t.Error(err)
	}
	if got, most := runtime.NumGoroutine()-goroutines, conns*(doqReaders+2); got > most {
		t.Errorf("got %d more goroutines; want at most %d", got, most)
	}
	_, err := io.Copy(io.Discard, stalled[0])
	if se, ok := errors.AsType[*quic.StreamError](err); !ok || se.ErrorCode != doqUnspecifiedError {
		t.Errorf("the first stalled stream: got %v; want it reset with code %d", err, doqUnspecifiedError)
	}
}

// What a stream that is opened and cancelled has cost is given back. (A7)
func TestDoQCancel(t *testing.T) {
	const limit = 10
	s := startServer(t, func(c *Config) {
		c.Limits = Limits{InFlightPerConn: limit, QueryTimeout: time.Hour}
	})
	c := quicConn(t, s, s.Addrs().DoQ[0], "doq")
	for range 20 * limit { // more than there is credit for, unless it comes back
		str, err := c.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := str.Write(frame(wireQuery(t, "slow.example", 0))); err != nil {
			t.Fatal(err)
		}
		str.Close()
		str.CancelRead(doqRequestCancelled)
	}
	if got := s.fake.maxAnswering.Load(); got > limit {
		t.Errorf("got %d queries under way; want at most %d", got, limit)
	}
	eventually(t, "nothing is in flight", func() bool { return s.Stats().InFlight == 0 })
	if _, err := askDoQ(t.Context(), c, wireQuery(t, "now.example", 1)); err != nil {
		t.Error(err)
	}
}

// Streams that fail leave nothing behind on a connection that lives on. (A6)
func TestDoQFailedStreams(t *testing.T) {
	s := startServer(t, nil)
	c := quicConn(t, s, s.Addrs().DoQ[0], "doq")
	fail := func(n int) {
		for range n {
			str, err := c.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := str.Write([]byte{0}); err != nil {
				t.Fatal(err)
			}
			abort(str, doqRequestCancelled)
		}
		if _, err := askDoQ(t.Context(), c, wireQuery(t, "now.example", 1)); err != nil {
			t.Fatal(err)
		}
	}
	fail(2000)
	before := heap()
	fail(10000)
	if got := heap() - before; got > 4<<20 {
		t.Errorf("got %d octets more after 10000 failed streams; want about none", got)
	}
}

// PING frames do not make a connection one that is used.
func TestDoQIdle(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Limits.IdleTimeout = 300 * time.Millisecond })
	c, err := quic.DialAddr(t.Context(), s.Addrs().DoQ[0].String(), s.clientTLS("doq"),
		&quic.Config{KeepAlivePeriod: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseWithError(0, "")
	if _, err := askDoQ(t.Context(), c, wireQuery(t, "now.example", 1)); err != nil {
		t.Fatal(err)
	}
	if got := closeCode(t, c); got != doqNoError {
		t.Errorf("got error code %d; want %d", got, doqNoError)
	}
	eventually(t, "it is not counted", func() bool { return s.Stats().Connections[DoQ] == 0 })
}

// A crowd has to prove its addresses first, which honest clients do without noticing.
func TestQUICRetry(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Limits.ConnectionsPerClient = 3 })
	for range 3 {
		if _, err := dialDoQ(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
			t.Error(err)
		}
	}
	if got := s.Stats().Connections[DoQ]; got != 3 {
		t.Errorf("got %d connections; want 3", got)
	}
}

func FuzzDoQStream(f *testing.F) {
	f.Add([]byte{0, 12, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := readAll(bytes.NewReader(in), nil, prefixLen+maxMessage)
		if tooLong := len(in) > prefixLen+maxMessage; errors.Is(err, errTooLong) != tooLong {
			t.Errorf("got %v for %d octets", err, len(in))
		} else if !tooLong && !bytes.Equal(b, in) {
			t.Errorf("got %x; want %x", b, in)
		}
		if cap(b) > max(1024, 2*len(in)) {
			t.Errorf("got %d octets held for %d", cap(b), len(in))
		}
	})
}
