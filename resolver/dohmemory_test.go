package resolver

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Connections over HTTP/2 that keep bodies which are not whole do not keep more than all may together: those that keep
// most end, and a client that keeps nothing is served.
func TestH2MemoryIsBounded(t *testing.T) {
	const limit = 1 << 20
	s := startServer(t, func(c *Config) {
		c.Limits = Limits{HTTP2Memory: limit, ReadTimeout: time.Hour, IdleTimeout: time.Hour}
	})
	bystander := dialDoH(2, http.MethodPost)(t, s)
	if _, err := bystander(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
		t.Fatal(err)
	}
	for range 40 { // 80 KB each
		stallBody(t, s, 80<<10)
		if kept := s.kept.Kept(); kept > limit+128<<10 { // one connection is ending
			t.Fatalf("got %d octets kept; want about %d at most", kept, limit)
		}
	}
	eventually(t, "some have ended", func() bool { return s.Stats().Connections[DoH] < 25 })
	if _, err := bystander(t.Context(), wireQuery(t, "now.example", 2)); err != nil {
		t.Errorf("a client that keeps nothing: %v", err)
	}
	s.stop()
	if err := s.wait(); err != nil || s.kept.Kept() != 0 {
		t.Errorf("at the end: got %v and %d octets kept; want none", err, s.kept.Kept())
	}
}

// stallBody begins requests with n octets of bodies, which never end.
func stallBody(t *testing.T, s *testServer, n int) {
	t.Helper()
	c := tls.Client(tcpConn(t, s.Addrs().DoH[0]), s.clientTLS("h2"))
	var b, block bytes.Buffer
	b.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&b, nil)
	f.WriteSettings()
	f.WriteSettingsAck()
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":path", DefaultDoHPath}, {":authority", "x"}, {"content-type", dnsMessage},
	} {
		enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1], Sensitive: true}) // keeps the block the same
	}
	const perStream = 40 << 10
	for id := uint32(1); n > 0; id += 2 {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
		for sent := 0; sent < perStream && n > 0; sent += 10 << 10 {
			f.WriteData(id, false, make([]byte, 10<<10))
			n -= 10 << 10
		}
	}
	f.WritePing(false, [8]byte{1})
	if _, err := c.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	in := http2.NewFramer(nil, c)
	for { // until it was handled, or the connection has ended
		frame, err := in.ReadFrame()
		if p, ok := frame.(*http2.PingFrame); err != nil || ok && p.IsAck() {
			return
		}
	}
}
