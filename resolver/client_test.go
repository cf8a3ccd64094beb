package resolver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// asker sends a message and returns the reply. It may be called concurrently, with different IDs, over one connection
// where the transport allows it.
type asker func(ctx context.Context, msg []byte) ([]byte, error)

// transport is a way to ask a server.
type transport struct {
	name string
	is   Transport
	dial func(testing.TB, *testServer) asker
	// stream says that a message without an answer ends the connection.
	stream bool
}

var transports = []transport{
	{name: "udp", is: UDP, dial: dialUDP},
	{name: "tcp", is: TCP, dial: dialTCP, stream: true},
	{name: "dot", is: DoT, dial: dialDoT, stream: true},
	{name: "doh1-get", is: DoH, dial: dialDoH(1, http.MethodGet)},
	{name: "doh1-post", is: DoH, dial: dialDoH(1, http.MethodPost)},
	{name: "doh2-get", is: DoH, dial: dialDoH(2, http.MethodGet)},
	{name: "doh2-post", is: DoH, dial: dialDoH(2, http.MethodPost)},
	{name: "doh2-library-get", is: DoH, dial: dialDoHAt(libraryDoH, 2, http.MethodGet)},
	{name: "doh2-library-post", is: DoH, dial: dialDoHAt(libraryDoH, 2, http.MethodPost)},
	{name: "doh3-get", is: DoH3, dial: dialDoH(3, http.MethodGet)},
	{name: "doh3-post", is: DoH3, dial: dialDoH(3, http.MethodPost)},
	{name: "doq", is: DoQ, dial: dialDoQ, stream: true},
}

// overAll runs body as a subtest for each transport.
func overAll(t *testing.T, body func(t *testing.T, tr transport)) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) { body(t, tr) })
	}
}

func (s *testServer) clientTLS(protos ...string) *tls.Config {
	return &tls.Config{RootCAs: s.roots, NextProtos: protos, ServerName: "127.0.0.1"}
}

// mux matches replies to queries by ID over one connection.
type mux struct {
	send func([]byte) error

	mu      sync.Mutex
	waiting map[uint16]chan []byte
	err     error
}

func newMux(send func([]byte) error, receive func() ([]byte, error)) *mux {
	m := &mux{send: send, waiting: make(map[uint16]chan []byte)}
	go m.run(receive)
	return m
}

func (m *mux) run(receive func() ([]byte, error)) {
	for {
		b, err := receive()
		m.mu.Lock()
		if err != nil {
			m.err = err
			for _, c := range m.waiting {
				close(c)
			}
			m.mu.Unlock()
			return
		}
		if c := m.waiting[binary.BigEndian.Uint16(b)]; c != nil {
			c <- b
		}
		m.mu.Unlock()
	}
}

func (m *mux) ask(ctx context.Context, msg []byte) ([]byte, error) {
	var id uint16
	if len(msg) >= 2 {
		id = binary.BigEndian.Uint16(msg)
	}
	c := make(chan []byte, 1)
	m.mu.Lock()
	if m.err != nil {
		m.mu.Unlock()
		return nil, m.err
	}
	m.waiting[id] = c
	m.mu.Unlock()
	if err := m.send(msg); err != nil {
		return nil, err
	}
	select {
	case b, ok := <-c:
		if !ok {
			return nil, m.err
		}
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func dialUDP(tb testing.TB, s *testServer) asker {
	tb.Helper()
	c, err := net.Dial("udp", s.Addrs().Do53[0].String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	buf := make([]byte, 1<<16)
	m := newMux(
		func(b []byte) error { _, err := c.Write(b); return err },
		func() ([]byte, error) {
			n, err := c.Read(buf)
			return bytes.Clone(buf[:n]), err
		})
	return m.ask
}

func dialTCP(tb testing.TB, s *testServer) asker {
	tb.Helper()
	return overStream(tb, tcpConn(tb, s.Addrs().Do53[0]))
}

func tcpConn(tb testing.TB, addr netip.AddrPort) net.Conn {
	tb.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

func dialDoT(tb testing.TB, s *testServer) asker {
	tb.Helper()
	return overStream(tb, dotConn(tb, s))
}

func dotConn(tb testing.TB, s *testServer) *tls.Conn {
	tb.Helper()
	c, err := tls.Dial("tcp", s.Addrs().DoT[0].String(), s.clientTLS("dot"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

func overStream(tb testing.TB, c net.Conn) asker {
	var mu sync.Mutex
	m := newMux(
		func(b []byte) error {
			mu.Lock()
			defer mu.Unlock()
			_, err := c.Write(frame(b))
			return err
		},
		func() ([]byte, error) { return readFrame(c) })
	return m.ask
}

func dohClient(tb testing.TB, s *testServer, version int) *http.Client {
	var rt http.RoundTripper
	switch version {
	case 3:
		h3 := &http3.Transport{TLSClientConfig: s.clientTLS(http3.NextProtoH3)}
		tb.Cleanup(func() { h3.Close() })
		rt = h3
	default:
		h := &http.Transport{TLSClientConfig: s.clientTLS(), ForceAttemptHTTP2: version == 2, MaxConnsPerHost: 16}
		if version == 1 {
			h.TLSClientConfig.NextProtos = []string{"http/1.1"}
		}
		tb.Cleanup(h.CloseIdleConnections)
		rt = h
	}
	return &http.Client{Transport: rt}
}

func (s *testServer) dohURL() string { return s.dohURLAt(0) }

// dohURLAt returns the URL at the listener with index i.
func (s *testServer) dohURLAt(i int) string {
	return fmt.Sprintf("https://%s/dns-query", s.Addrs().DoH[i])
}

func dialDoH(version int, method string) func(testing.TB, *testServer) asker {
	return dialDoHAt(0, version, method)
}

func dialDoHAt(i, version int, method string) func(testing.TB, *testServer) asker {
	return func(tb testing.TB, s *testServer) asker {
		c := dohClient(tb, s, version)
		return func(ctx context.Context, msg []byte) ([]byte, error) {
			resp, err := c.Do(dohRequest(ctx, method, s.dohURLAt(i), msg))
			if err != nil {
				return nil, err
			}
			defer resp.Body.Close()
			if resp.ProtoMajor != version {
				return nil, fmt.Errorf("got %s; want version %d", resp.Proto, version)
			}
			b, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusOK {
				return nil, statusError(resp.StatusCode)
			}
			return b, err
		}
	}
}

type statusError int

func (e statusError) Error() string { return http.StatusText(int(e)) }

func dohRequest(ctx context.Context, method, url string, msg []byte) *http.Request {
	var body io.Reader
	if method == http.MethodPost {
		body = bytes.NewReader(msg)
	} else {
		url += "?dns=" + base64.RawURLEncoding.EncodeToString(msg)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		panic(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", dnsMessage)
	}
	return r
}

func quicConn(tb testing.TB, s *testServer, addr netip.AddrPort, protos ...string) *quic.Conn {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := quic.DialAddr(ctx, addr.String(), s.clientTLS(protos...), nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.CloseWithError(0, "") })
	return c
}

func dialDoQ(tb testing.TB, s *testServer) asker {
	tb.Helper()
	c := quicConn(tb, s, s.Addrs().DoQ[0], "doq")
	return func(ctx context.Context, msg []byte) ([]byte, error) { return askDoQ(ctx, c, msg) }
}

// askDoQ asks on a stream of its own, with the ID that DoQ prescribes.
func askDoQ(ctx context.Context, c *quic.Conn, msg []byte) ([]byte, error) {
	str, err := c.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { abort(str, doqRequestCancelled) })()
	sent := bytes.Clone(msg)
	if len(sent) >= 2 {
		sent[0], sent[1] = 0, 0
	}
	if _, err := str.Write(frame(sent)); err != nil {
		return nil, err
	}
	str.Close()
	b, err := readFrame(str)
	if err != nil {
		return nil, err
	}
	if n, err := str.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, fmt.Errorf("after the reply: got %d octets, %v; want the end", n, err)
	}
	copy(b, msg[:2])
	return b, nil
}

// TestMain runs the tests in a network namespace of their own, so that a port can be listened on twice, at every address.
func TestMain(m *testing.M) {
	// The kernel's default is smaller than quic-go would like, which does not matter here.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	netns.Main(m)
}
