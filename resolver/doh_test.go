package resolver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/rs/zerolog"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// overHTTP runs body for each version of HTTP.
func overHTTP(t *testing.T, body func(t *testing.T, version int)) {
	for _, version := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("h%d", version), func(t *testing.T) { body(t, version) })
	}
}

func TestDoHStatus(t *testing.T) {
	s := startServer(t, nil)
	msg := wireQuery(t, "now.example", 0)
	encoded := base64.RawURLEncoding.EncodeToString(msg)
	form := "application/x-www-form-urlencoded"
	tests := []struct {
		name, method, path, contentType string
		body                            []byte
		want                            int
	}{
		{"get", "GET", "/dns-query?dns=" + encoded, "", nil, 200},
		{"get-other-parameters", "GET", "/dns-query?ct&dns=" + encoded + "&random_padding=x", "", nil, 200},
		{"get-without-query", "GET", "/dns-query", "", nil, 400},
		{"get-other-query", "GET", "/dns-query?name=now.example", "", nil, 400},
		{"get-empty", "GET", "/dns-query?dns=", "", nil, 400},
		{"get-padded", "GET", "/dns-query?dns=" + base64.URLEncoding.EncodeToString(msg[:28]), "", nil, 400},
		{"get-not-base64", "GET", "/dns-query?dns=*" + encoded, "", nil, 400},
		{"get-short", "GET", "/dns-query?dns=AAAA", "", nil, 400},
		{"get-too-long", "GET", "/dns-query?dns=" + strings.Repeat("A", maxQueryString), "", nil, 414},
		{"get-other-path", "GET", "/?dns=" + encoded, "", nil, 404},
		{"get-longer-path", "GET", "/dns-query/?dns=" + encoded, "", nil, 404},
		{"post", "POST", "/dns-query", dnsMessage, msg, 200},
		{"post-capitals", "POST", "/dns-query", "Application/DNS-Message; charset=utf-8", msg, 200},
		{"post-other-type", "POST", "/dns-query", form, msg, 415},
		{"post-without-type", "POST", "/dns-query", "", msg, 415},
		{"post-empty", "POST", "/dns-query", dnsMessage, nil, 400},
		{"post-short", "POST", "/dns-query", dnsMessage, []byte{1, 2, 3}, 400},
		{"post-largest", "POST", "/dns-query", dnsMessage, append(bytes.Clone(msg), make([]byte, maxMessage-len(msg))...), 200},
		{"post-too-large", "POST", "/dns-query", dnsMessage, make([]byte, maxMessage+1), 413},
		{"post-other-path", "POST", "/resolve", dnsMessage, msg, 404},
		{"put", "PUT", "/dns-query", dnsMessage, msg, 405},
		{"delete", "DELETE", "/dns-query?dns=" + encoded, "", nil, 405},
	}
	overHTTP(t, func(t *testing.T, version int) {
		c := dohClient(t, s, version)
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				r, err := http.NewRequestWithContext(t.Context(), test.method,
					fmt.Sprintf("https://%s%s", s.Addrs().DoH[0], test.path), bytes.NewReader(test.body))
				if err != nil {
					t.Fatal(err)
				}
				if test.contentType != "" {
					r.Header.Set("Content-Type", test.contentType)
				}
				resp, err := c.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				io.Copy(io.Discard, resp.Body)
				if resp.StatusCode != test.want {
					t.Errorf("got status %d; want %d", resp.StatusCode, test.want)
				}
				if allow := resp.Header.Get("Allow"); (allow == "GET, POST") != (test.want == 405) {
					t.Errorf("got Allow %q with status %d", allow, test.want)
				}
			})
		}
	})
}

func TestDoHHeaders(t *testing.T) {
	s := startServer(t, nil)
	overHTTP(t, func(t *testing.T, version int) {
		c := dohClient(t, s, version)
		for ttl, want := range map[uint32]string{0: "no-store", 300: "private, max-age=300"} {
			s.fake.ttl.Store(ttl)
			resp, err := c.Do(dohRequest(t.Context(), "GET", s.dohURL(), wireQuery(t, "now.example", 0)))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := resp.Header.Get("Cache-Control"); got != want {
				t.Errorf("TTL %d: got Cache-Control %q; want %q", ttl, got, want)
			}
			if got := resp.Header.Get("Content-Type"); got != dnsMessage {
				t.Errorf("got Content-Type %q; want %q", got, dnsMessage)
			}
			want := fmt.Sprintf(`h3=":%d"; ma=86400`, s.Addrs().DoH[0].Port())
			if got := resp.Header.Get("Alt-Svc"); (got == want) != (version < 3) {
				t.Errorf("got Alt-Svc %q; want %q below HTTP/3", got, want)
			}
		}
	})
}

// DDR clients address DoH by an IP literal.
func TestDoHIPv6Literal(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Listen = Listen{DoH: []netip.AddrPort{netip.MustParseAddrPort("[::1]:0")}} })
	overHTTP(t, func(t *testing.T, version int) {
		if _, err := dialDoH(version, "GET")(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
			t.Error(err)
		}
	})
}

// A GET is answered whether its body ever comes or not. (A8)
func TestDoHUnfinishedGET(t *testing.T) {
	s := startServer(t, nil)
	path := "/dns-query?dns=" + base64.RawURLEncoding.EncodeToString(wireQuery(t, "now.example", 0))
	t.Run("h1", func(t *testing.T) {
		c := h1Conn(t, s)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", path)
		checkStatus(t, c, 200)
	})
	for _, version := range []int{2, 3} {
		t.Run(fmt.Sprintf("h%d", version), func(t *testing.T) {
			body, never := io.Pipe()
			defer never.Close()
			r, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("https://%s%s", s.Addrs().DoH[0], path), body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := dohClient(t, s, version).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("got status %d; want 200", resp.StatusCode)
			}
		})
	}
}

func h1Conn(t *testing.T, s *testServer) net.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", s.Addrs().DoH[0].String(), s.clientTLS("http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func checkStatus(t *testing.T, c net.Conn, want int) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		t.Errorf("got status %d; want %d", resp.StatusCode, want)
	}
}

// endless never ends.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// A body without an end is refused as soon as it is too long. (A9)
func TestDoHEndlessBody(t *testing.T) {
	s := startServer(t, nil)
	overHTTP(t, func(t *testing.T, version int) {
		r, err := http.NewRequestWithContext(t.Context(), "POST", s.dohURL(), endless{})
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", dnsMessage)
		resp, err := dohClient(t, s, version).Do(r)
		if err != nil {
			t.Logf("the client saw the end of the connection first: %v", err)
			return
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("got status %d; want 413", resp.StatusCode)
		}
	})
}

// Headers that do not arrive, and bodies that do not, end with ReadTimeout. (A2, A9)
func TestDoHStalled(t *testing.T) {
	s := startServer(t, func(c *Config) {
		c.Limits = Limits{ReadTimeout: 200 * time.Millisecond, IdleTimeout: time.Hour}
	})
	for name, text := range map[string]string{
		"nothing": "",
		"headers": "GET /dns-query?dns=AAAA HTTP/1.1\r\nHost: x\r\n",
		"body":    "POST /dns-query HTTP/1.1\r\nHost: x\r\nContent-Type: application/dns-message\r\nContent-Length: 30\r\n\r\nx",
	} {
		t.Run("h1-"+name, func(t *testing.T) {
			c := h1Conn(t, s)
			fmt.Fprint(c, text)
			if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Log(err)
			}
		})
	}
	t.Run("h3-headers", func(t *testing.T) {
		c := quicConn(t, s, s.Addrs().DoH[0], http3.NextProtoH3)
		str, err := c.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := str.Write([]byte{1, 0x40}); err != nil { // a HEADERS frame, of which only the type is whole
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, str); err == nil {
			t.Error("got an answer; want the stream reset")
		}
	})
	t.Run("h3-body", func(t *testing.T) {
		body, never := io.Pipe()
		defer never.Close()
		r, err := http.NewRequestWithContext(t.Context(), "POST", s.dohURL(), body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", dnsMessage)
		resp, err := dohClient(t, s, 3).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("got status %d; want 408", resp.StatusCode)
		}
	})
}

// A query string of 1 MiB is refused by its length. (A10)
func TestDoHHugeQueryString(t *testing.T) {
	s := startServer(t, nil)
	url := s.dohURL() + "?dns=" + strings.Repeat("A", 1<<20)
	t.Run("h1", func(t *testing.T) {
		c := h1Conn(t, s)
		go fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", strings.TrimPrefix(url, "https://"+s.Addrs().DoH[0].String()))
		checkStatus(t, c, http.StatusRequestHeaderFieldsTooLarge)
	})
	for _, version := range []int{2, 3} {
		t.Run(fmt.Sprintf("h%d", version), func(t *testing.T) {
			c := dohClient(t, s, version)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			resp, err := c.Get(url)
			runtime.ReadMemStats(&after)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode < 400 || resp.StatusCode >= 500 {
					t.Errorf("got status %d; want one of 400 to 499", resp.StatusCode)
				}
			}
			// The client's own copies are among these.
			if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
				t.Errorf("got %d octets allocated", got)
			}
		})
	}
}

// Streams that are opened and reset at once do not start more than their share. (A7, A13)
func TestDoHRapidReset(t *testing.T) {
	const streams, limit = 2000, 20
	s := startServer(t, func(c *Config) {
		c.Limits = Limits{InFlightPerConn: limit, QueryTimeout: time.Hour}
	})
	msg := wireQuery(t, "slow.example", 0)
	t.Run("h2", func(t *testing.T) {
		resetH2(t, s, streams, base64.RawURLEncoding.EncodeToString(msg))
	})
	t.Run("h3", func(t *testing.T) {
		c := dohClient(t, s, 3)
		for range streams / 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if resp, err := c.Do(dohRequest(ctx, "GET", s.dohURL(), msg)); err == nil {
				resp.Body.Close()
			}
			cancel()
		}
	})
	if got := s.fake.maxAnswering.Load(); got > 2*limit {
		t.Errorf("got %d queries under way; want at most %d", got, 2*limit)
	}
	eventually(t, "nothing is in flight", func() bool { return s.Stats().InFlight == 0 })
}

func resetH2(t *testing.T, s *testServer, streams uint32, query string) {
	t.Helper()
	c, err := tls.Dial("tcp", s.Addrs().DoH[0].String(), s.clientTLS("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go io.Copy(io.Discard, c)
	io.WriteString(c, http2.ClientPreface)
	w := bufio.NewWriter(c)
	f := http2.NewFramer(w, nil)
	f.WriteSettings()
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := range streams {
		block.Reset()
		for _, field := range []hpack.HeaderField{
			{Name: ":method", Value: "GET"},
			{Name: ":scheme", Value: "https"},
			{Name: ":authority", Value: "x"},
			{Name: ":path", Value: "/dns-query?dns=" + query},
		} {
			e.WriteField(field)
		}
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
	}
	w.Flush() // fails where the server has had enough before
}

// A client that gives up takes its query along.
func TestDoHCancel(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Limits.QueryTimeout = time.Hour })
	overHTTP(t, func(t *testing.T, version int) {
		ctx, cancel := context.WithCancel(t.Context())
		ask := dialDoH(version, "GET")(t, s)
		done := make(chan struct{})
		go func() {
			defer close(done)
			ask(ctx, wireQuery(t, "slow.example", 1))
		}()
		eventually(t, "the query waits", func() bool { return s.Stats().InFlight == 1 })
		cancel()
		<-done
		eventually(t, "nothing is in flight", func() bool { return s.Stats().InFlight == 0 })
	})
}

// What net/http complains of is logged without addresses and without what a client sent.
func TestErrorLog(t *testing.T) {
	var out bytes.Buffer
	l := errorLog{zerolog.New(&out)}
	for _, test := range []struct{ in, want string }{
		{
			"http: TLS handshake error from 192.0.2.1:4711: EOF\n",
			`{"level":"debug","message":"http: TLS handshake error from client EOF"}`,
		},
		{
			"http: TLS handshake error from [2001:db8::1]:4711: tls: client requested \"secret\"\n",
			`{"level":"debug","message":"http: TLS handshake error from client tls: client requested"}`,
		},
		{
			"http: TLS handshake error from 192.0.2.1:4711: read tcp 192.0.2.2:443->192.0.2.1:4711: read: connection reset by peer\n",
			`{"level":"debug","message":"http: TLS handshake error from client read tcp client read: connection reset by peer"}`,
		},
		{
			"http2: server connection error from [fe80::1%eth0]:4711: 2001:db8::1 (and 192.0.2.1, 192.0.2.2:)\n",
			`{"level":"debug","message":"http2: server connection error from client client (and client client"}`,
		},
		{
			"http: panic serving 192.0.2.1:4711: oops\n",
			`{"level":"error","message":"http: panic serving client oops"}`,
		},
	} {
		out.Reset()
		if n, err := l.Write([]byte(test.in)); n != len(test.in) || err != nil {
			t.Errorf("got %d, %v; want %d, nil", n, err, len(test.in))
		}
		if got := strings.TrimSpace(out.String()); got != test.want {
			t.Errorf("got %s; want %s", got, test.want)
		}
	}
}

func FuzzReadGET(f *testing.F) {
	f.Add("dns=AAABAAABAAAAAAAAA25vdwdleGFtcGxlAAABAAE")
	f.Add("ct=x&dns=AA==")
	f.Add("dns=&dns=AAAA")
	f.Fuzz(func(t *testing.T, query string) {
		b, status := readGET(query, nil)
		if status != http.StatusOK {
			return
		}
		if want := "dns=" + base64.RawURLEncoding.EncodeToString(b); !strings.Contains("&"+query+"&", "&"+want) &&
			!strings.ContainsAny(query, "\r\n") && !sameButLastBits(query, want) {
			t.Errorf("got %x from %q", b, query)
		}
	})
}

// sameButLastBits allows for the bits that the last character of base64 has to spare.
func sameButLastBits(query, want string) bool {
	return strings.Contains("&"+query+"&", "&"+want[:len(want)-1])
}
