package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/cfrd-project/cfrd/ddr"
)

// overHTTP runs body with a client of each version of HTTP.
func (l *lab) overHTTP(t *testing.T, body func(t *testing.T, client *http.Client)) {
	conf := func(alpn string) *tls.Config {
		return &tls.Config{RootCAs: l.roots, ServerName: "dns.isp.example", NextProtos: []string{alpn}}
	}
	for name, rt := range map[string]http.RoundTripper{
		"h1": &http.Transport{TLSClientConfig: conf("http/1.1")},
		"h2": &http.Transport{TLSClientConfig: conf("h2"), ForceAttemptHTTP2: true},
		"h3": &http3.Transport{TLSClientConfig: conf("h3")},
	} {
		t.Run(name, func(t *testing.T) {
			body(t, &http.Client{Transport: rt})
			if c, ok := rt.(io.Closer); ok {
				c.Close()
			} else {
				rt.(*http.Transport).CloseIdleConnections()
			}
		})
	}
}

func (l *lab) pvdURL() string { return fmt.Sprintf("https://%s:8443%s", l.addr, ddr.PvDPath) }

// request returns the response to a request, with its body read.
func request(t *testing.T, c *http.Client, method, url string) (*http.Response, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func TestServePvD(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	l.overHTTP(t, func(t *testing.T, c *http.Client) {
		resp, body := request(t, c, "GET", l.pvdURL())
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != "application/pvd+json" {
			t.Fatalf("got status %d, type %q", resp.StatusCode, got)
		}
		if got := resp.Header.Get("Cache-Control"); got != pvdCaching {
			t.Errorf("got Cache-Control %q; want %q", got, pvdCaching)
		}
		p, err := ddr.ParsePvD(body)
		if err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		left := time.Until(p.Expires)
		if p.Identifier != "dns.isp.example." || left <= 0 || left > ddr.PvDLife || len(p.Prefixes)+len(p.Proxies) > 0 {
			t.Errorf("got %s", body)
		}
		if want := `"cfrd_resolver":{"transports":[{"alpn":["h3","h2"],"port":8443,"dohpath":"/dns-query{?dns}"}`; !strings.Contains(string(body), want) {
			t.Errorf("got %s; want %s in it", body, want)
		}
		head, nothing := request(t, c, "HEAD", l.pvdURL())
		if head.StatusCode != http.StatusOK || len(nothing) > 0 || head.ContentLength != int64(len(body)) {
			t.Errorf("HEAD: got status %d, length %d, body %q; want 200, %d and none",
				head.StatusCode, head.ContentLength, nothing, len(body))
		}
		if resp, _ := request(t, c, "POST", l.pvdURL()); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST: got status %d, Allow %q; want 405", resp.StatusCode, resp.Header.Get("Allow"))
		}
		for _, path := range []string{"/", "/.well-known/", "/.well-known/pvd/", "/.well-known/pvd/x", "/.well-known/security.txt"} {
			if resp, _ := request(t, c, "GET", strings.TrimSuffix(l.pvdURL(), ddr.PvDPath)+path); resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s: got status %d; want 404", path, resp.StatusCode)
			}
		}
	})
	l.config["ddr"] = "{pvd: false}"
	l.write(t)
	if err := n.reload(l.path()); err != nil {
		t.Fatal(err)
	}
	l.overHTTP(t, func(t *testing.T, c *http.Client) {
		if resp, _ := request(t, c, "GET", l.pvdURL()); resp.StatusCode != http.StatusNotFound {
			t.Errorf("got status %d after it was switched off; want 404", resp.StatusCode)
		}
	})
}

// TestPvDNamesRelayToItsClients fetches the information from addresses that may use the relay and from others, with
// relay.clients written and left to its default, the clients of the resolver.
func TestPvDNamesRelayToItsClients(t *testing.T) {
	tests := map[string]struct {
		clients, relayClients string
		want                  map[string]bool // by source address
	}{
		"default": {"[127.0.0.0/9]", "", map[string]bool{"127.0.0.1": true, "127.220.0.1": false}},
		"written": {"[127.0.0.0/8]", "clients: [127.220.0.0/16], ", map[string]bool{"127.0.0.1": false, "127.220.0.1": true}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.withRelay(t)
			l.config["clients"] = test.clients
			l.config["relay"] = strings.Replace(l.config["relay"], "egress: ", test.relayClients+"egress: ", 1)
			l.start(t)
			for source, want := range test.want {
				transport := &http.Transport{
					TLSClientConfig:   &tls.Config{RootCAs: l.roots, ServerName: "dns.isp.example"},
					DialContext:       dialFrom("tcp", netip.MustParseAddr(source)).DialContext,
					DisableKeepAlives: true,
				}
				_, body := request(t, &http.Client{Transport: transport}, "GET", l.pvdURL())
				if got := strings.Contains(string(body), "cfrd_relay"); got != want {
					t.Errorf("from %s: got %s; want the relay in it: %t", source, body, want)
				}
			}
		})
	}
}
