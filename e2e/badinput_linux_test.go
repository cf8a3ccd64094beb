package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// badMessages are what no client should send, with the RCODEs that are right answers to it. RFC 8906 wants an answer
// where the header is sane; where there is none, the connection is closed or nothing comes.
var badMessages = []struct {
	name   string
	hex    string
	rcodes []byte // empty: no answer
}{
	{"empty", "", nil},
	{"half-a-header", "000001000001", nil},
	{"a-response", "0000818000010000000000000364", nil},
	{"no-question", "000001000000000000000000", []byte{1}},
	{"two-questions", "000001000002000000000000016100000100010162000001 0001", []byte{1}},
	{"truncated-question", "0000010000010000000000000364697265", []byte{1}},
	{"counts-that-lie", "0000010000010000ffffffff066469726563740765786d6c00000100010000", []byte{1}},
	{"compressed-in-circles", "000001000001000000000000c00c00010001", []byte{1}},
	{"label-too-long", "0000010000010000000000007f616100000100 01", []byte{1}},
	{"trailing-octets", "000001000001000000000000 06646972656374 076578616d706c65 00 0001 0001 deadbeef", []byte{1}},
	{"two-opts", "000001000001000000000002 06646972656374 076578616d706c65 00 0001 0001 0000291000000000000000 0000291000000000000000", []byte{1}},
	{"truncated-opt", "000001000001000000000001 06646972656374 076578616d706c65 00 0001 0001 00002910000000000000ff", []byte{1}},
	{"update", "000028000001000000000000 06646972656374 076578616d706c65 00 0006 0001", []byte{4}},
	{"notify", "000020000001000000000000 06646972656374 076578616d706c65 00 0006 0001", []byte{4, 5}},
	{"opcode-15", "000078000001000000000000 06646972656374 076578616d706c65 00 0001 0001", []byte{4}},
	{"class-chaos", "000001000001000000000000 06646972656374 076578616d706c65 00 0001 0003", []byte{5}},
	{"class-any", "000001000001000000000000 06646972656374 076578616d706c65 00 0001 00ff", []byte{5}},
	{"axfr", "000001000001000000000000 06646972656374 076578616d706c65 00 00fc 0001", []byte{4, 5}},
	{"oversized", strings.Repeat("00", 5000), []byte{1}},
}

// raw asks cfrd with bytes of the test's choosing; it returns nil if there was no answer.
type raw struct {
	name string
	ask  func(ctx context.Context, msg []byte) []byte
}

// rawClients returns one for each transport.
func (l *lab) rawClients(ca *authority) []raw {
	stream := func(port string, wrap func(conn io.ReadWriteCloser) io.ReadWriteCloser) func(context.Context, []byte) []byte {
		return func(_ context.Context, msg []byte) []byte {
			c, err := l.customer.dial("tcp", "", resolver4+":"+port)
			if err != nil {
				l.t.Error(err)
				return nil
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(3 * time.Second))
			rw := wrap(c)
			rw.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
			return readFramed(rw)
		}
	}
	return []raw{
		{"udp", func(_ context.Context, msg []byte) []byte {
			c, err := l.customer.dial("udp", "", resolver4+":53")
			if err != nil {
				l.t.Error(err)
				return nil
			}
			defer c.Close()
			c.Write(msg)
			c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			buf := make([]byte, 65536)
			n, _ := c.Read(buf)
			return buf[:n]
		}},
		{"tcp", stream("53", func(c io.ReadWriteCloser) io.ReadWriteCloser { return c })},
		{"dot", func(ctx context.Context, msg []byte) []byte {
			c, err := l.customer.dial("tcp", "", resolver4+":853")
			if err != nil {
				l.t.Error(err)
				return nil
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(3 * time.Second))
			tc := tls.Client(c, ca.tlsConfig(adn, "dot"))
			tc.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
			return readFramed(tc)
		}},
		{"doh", func(ctx context.Context, msg []byte) []byte {
			tr := &http.Transport{TLSClientConfig: ca.tlsConfig(adn), ForceAttemptHTTP2: true, DialContext: l.dialDoH}
			defer tr.CloseIdleConnections()
			return l.post(ctx, tr, msg)
		}},
		{"doh3", func(ctx context.Context, msg []byte) []byte {
			tr, done := l.http3Transport(ca)
			defer done()
			return l.post(ctx, tr, msg)
		}},
		{"doq", func(ctx context.Context, msg []byte) []byte {
			pc := l.customer.listenUDP("0.0.0.0:0")
			defer pc.Close()
			qt := &quic.Transport{Conn: pc}
			defer qt.Close()
			conn, err := qt.Dial(ctx, udpAddr(resolver4, 853), ca.tlsConfig(adn, "doq"), nil)
			if err != nil {
				l.t.Error(err)
				return nil
			}
			defer conn.CloseWithError(0, "")
			s, err := conn.OpenStreamSync(ctx)
			if err != nil {
				l.t.Error(err)
				return nil
			}
			s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
			s.Close()
			s.SetReadDeadline(time.Now().Add(3 * time.Second))
			return readFramed(s)
		}},
	}
}

func readFramed(r io.Reader) []byte {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil
	}
	return msg
}

// post asks by DoH; an HTTP error is no answer.
func (l *lab) post(ctx context.Context, rt http.RoundTripper, msg []byte) []byte {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+adn+"/dns-query", bytes.NewReader(msg))
	if err != nil {
		l.t.Error(err)
		return nil
	}
	req.Header.Set("Content-Type", "application/dns-message")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		l.t.Errorf("POST: %v; want an HTTP response", err)
		return nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	return body
}

// TestBadInput sends what no client should over every transport. Each gets an answer that is right or none, nothing
// of it reaches the upstream, and afterwards everything works as before.
func TestBadInput(t *testing.T) {
	l := newLab(t)
	d, ca := l.serveAll(settings{})
	l.customer.must("dig", "@"+resolver4, "direct.example", "A")
	asked := d.metric(fmt.Sprintf(`cfrd_upstream_queries_total{upstream="udp://%s:53"}`, unbound4))
	for _, c := range l.rawClients(ca) {
		for _, m := range badMessages {
			t.Run(c.name+"/"+m.name, func(t *testing.T) {
				msg, err := hex.DecodeString(strings.ReplaceAll(m.hex, " ", ""))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				got := c.ask(ctx, msg)
				switch {
				case len(got) == 0:
					if m.rcodes != nil && c.name == "udp" {
						t.Errorf("got no answer; want RCODE %v", m.rcodes)
					}
				case len(got) < 12 || got[2]&0x80 == 0:
					t.Errorf("got %x; want a response", got)
				case !slices.Contains(m.rcodes, got[3]&0x0f):
					t.Errorf("got RCODE %d; want %v", got[3]&0x0f, m.rcodes)
				}
			})
		}
	}
	t.Run("http", func(t *testing.T) { l.badHTTP(t, ca) })
	if got := d.metric(fmt.Sprintf(`cfrd_upstream_queries_total{upstream="udp://%s:53"}`, unbound4)); got != asked {
		t.Errorf("the upstream was asked %s times, before %s; want nothing forwarded", got, asked)
	}
	for _, c := range clients(resolver4, ca) {
		if got := answers(c.ask(l, "direct.example", "A"), "A"); !slices.Equal(got, []string{origin4}) {
			t.Errorf("%s afterwards: got %v; want %s", c.name, got, origin4)
		}
	}
}

// badHTTP asks DoH what it must refuse with an HTTP status, over HTTP/1.1, HTTP/2 and HTTP/3.
func (l *lab) badHTTP(t *testing.T, ca *authority) {
	question := base64.RawURLEncoding.EncodeToString([]byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06direct\x07example\x00\x00\x01\x00\x01"))
	h1 := &http.Transport{TLSClientConfig: ca.tlsConfig(adn, "http/1.1"), DialContext: l.dialDoH}
	defer h1.CloseIdleConnections()
	h2 := &http.Transport{TLSClientConfig: ca.tlsConfig(adn), ForceAttemptHTTP2: true, DialContext: l.dialDoH}
	defer h2.CloseIdleConnections()
	h3, done := l.http3Transport(ca)
	defer done()
	for version, rt := range map[string]http.RoundTripper{"http1": h1, "http2": h2, "http3": h3} {
		for _, r := range []struct {
			name, method, path, contentType, body string
			want                                  []int
		}{
			{"good", "GET", "/dns-query?dns=" + question, "", "", []int{200}},
			{"no-question", "GET", "/dns-query", "", "", []int{400}},
			{"not-base64url", "GET", "/dns-query?dns=%2B%2F%3D", "", "", []int{400}},
			{"another-path", "GET", "/other?dns=" + question, "", "", []int{404}},
			{"another-method", "PUT", "/dns-query", "application/dns-message", "x", []int{405}},
			{"another-type", "POST", "/dns-query", "text/plain", "x", []int{415}},
			{"huge-query-string", "GET", "/dns-query?dns=" + strings.Repeat("A", 100000), "", "", []int{400, 414, 431}},
			{"huge-body", "POST", "/dns-query", "application/dns-message", strings.Repeat("x", 70000), []int{413}},
		} {
			t.Run(version+"/"+r.name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, r.method, "https://"+adn+r.path, strings.NewReader(r.body))
				if err != nil {
					t.Fatal(err)
				}
				if r.contentType != "" {
					req.Header.Set("Content-Type", r.contentType)
				}
				resp, err := rt.RoundTrip(req)
				if err != nil {
					if r.name == "huge-query-string" || r.name == "huge-body" {
						return // closed while we were still sending
					}
					t.Fatal(err)
				}
				defer resp.Body.Close()
				io.Copy(io.Discard, resp.Body)
				if !slices.Contains(r.want, resp.StatusCode) {
					t.Errorf("got status %d; want %v", resp.StatusCode, r.want)
				}
			})
		}
	}
}

// http3Transport speaks HTTP/3 with cfrd's DoH from the customer's host until done is called.
func (l *lab) http3Transport(ca *authority) (tr *http3.Transport, done func()) {
	pc := l.customer.listenUDP("0.0.0.0:0")
	qt := &quic.Transport{Conn: pc}
	tr = &http3.Transport{
		TLSClientConfig: ca.tlsConfig(adn),
		Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return qt.DialEarly(ctx, udpAddr(resolver4, 443), tc, qc)
		},
	}
	return tr, func() { tr.Close(); qt.Close(); pc.Close() }
}
