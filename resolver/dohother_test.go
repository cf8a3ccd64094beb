package resolver

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestDoHOtherPaths has a handler for everything that is not DoH.
func TestDoHOtherPaths(t *testing.T) {
	s := startServer(t, func(cfg *Config) {
		cfg.HTTP = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
			body, err := io.ReadAll(r.Body)
			if err != nil || int64(len(body)) != r.ContentLength {
				http.Error(w, fmt.Sprintf("got %d octets, %v; want %d", len(body), err, r.ContentLength), http.StatusInternalServerError)
				return
			}
			if len(body) > 100 {
				body = fmt.Appendf(nil, ", with %d octets", len(body))
			}
			fmt.Fprintf(w, "%s %s at %v%s", r.Method, r.URL.Path, local, body)
		})
	})
	overHTTP(t, func(t *testing.T, version int) {
		c := dohClient(t, s, version)
		for _, row := range []struct {
			method, path, body, want string
			status                   int
		}{
			{"GET", "/x", "", fmt.Sprintf("GET /x at %s", s.Addrs().DoH[0]), 200},
			{"HEAD", "/x", "", "", 200},
			{"PUT", "/x", ", with a body", fmt.Sprintf("PUT /x at %s, with a body", s.Addrs().DoH[0]), 200},
			{"PUT", "/x", strings.Repeat("a", maxBody), fmt.Sprintf("PUT /x at %s, with %d octets", s.Addrs().DoH[0], maxBody), 200},
			{"PUT", "/x", strings.Repeat("a", maxBody+1), "", 413},
			{"GET", "/dns-query", "", "", 400},
			{"PUT", "/dns-query", "", "", 405},
		} {
			r, err := http.NewRequestWithContext(t.Context(), row.method,
				fmt.Sprintf("https://%s%s", s.Addrs().DoH[0], row.path), bytes.NewReader([]byte(row.body)))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != row.status || string(body) != row.want {
				t.Errorf("%s %s: got %d %q, %v; want %d %q", row.method, row.path, resp.StatusCode, body, err, row.status, row.want)
			}
		}
	})
}

// TestDoHOtherPathsPanic keeps a fault of the handler to one request.
func TestDoHOtherPathsPanic(t *testing.T) {
	s := startServer(t, func(cfg *Config) {
		cfg.HTTP = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	})
	overHTTP(t, func(t *testing.T, version int) {
		c := dohClient(t, s, version)
		if resp, err := c.Get(fmt.Sprintf("https://%s/x", s.Addrs().DoH[0])); err == nil {
			resp.Body.Close()
			t.Errorf("got status %d; want none", resp.StatusCode)
		}
		resp, err := c.Do(dohRequest(t.Context(), "GET", s.dohURL(), wireQuery(t, "now.example", 0)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("got status %d afterwards; want 200", resp.StatusCode)
		}
	})
}
