package check

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/resolver"
)

// pvd fetches the provisioning domain that the HTTPS record r of name announces, over each version of HTTP in r.
func (c checker) pvd(ctx context.Context, name string, r svcb.Record) {
	target := r.Target
	if target == "." {
		target = name
	}
	for _, id := range httpsALPN(r) {
		t, ok := transportOf(id)
		if !ok || !svcb.IsHTTP(id) {
			continue
		}
		client := Client{
			Addr: c.endpoint(ctx, Designation{Target: target, Port: r.Port()}, id),
			SNI:  strings.TrimSuffix(name, "."), ALPN: id,
		}
		p, trusted, err := c.fetchPvD(ctx, t, client, name)
		step := "pvd-" + stepName(t, id)
		switch {
		case !trusted && c.Name == "" && ddr.IsPrivate(c.Addr.Addr()):
			c.skip(step, client.Addr.String(), "clients that discover opportunistically do not take it: %s", reason(err))
		case err != nil:
			c.fail(step, client.Addr.String(), "clients do not take it: %s", reason(err))
		case len(p.Proxies) > 0:
			c.ok(step, client.Addr.String(), "names %d proxies, which no client may use unless told to", len(p.Proxies))
		default:
			c.ok(step, client.Addr.String(), "describes %s until %s", p.Identifier, p.Expires.Format(time.RFC3339))
		}
	}
}

// fetchPvD gets the provisioning domain of name as a client does that believes it to be the operator's: name, identifier
// and certificate must agree. See draft-ietf-intarea-proxy-config and RFC 8801, Section 4.1. trusted is false if it failed because
// of the certificate.
func (c checker) fetchPvD(
	ctx context.Context, t resolver.Transport, client Client, name string,
) (p ddr.PvD, trusted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var untrusted atomic.Bool
	client.Verify = func(cs tls.ConnectionState) error {
		err := VerifyNames(c.Roots, client.SNI)(cs)
		untrusted.Store(err != nil)
		return err
	}
	body, err := client.fetch(ctx, t, ddr.PvDPath, ddr.PvDMediaType)
	if err == nil {
		p, err = judgePvD(body, name)
	}
	return p, !untrusted.Load(), err
}

// judgePvD returns the provisioning domain in body, or why no client takes it for the word of the resolver name.
func judgePvD(body []byte, name string) (ddr.PvD, error) {
	p, err := ddr.ParsePvD(body)
	switch {
	case err != nil:
		return p, err
	case p.Identifier != name:
		return p, fmt.Errorf("its identifier is %s instead of %s", p.Identifier, name)
	case !p.Expires.After(time.Now()):
		return p, fmt.Errorf("it expired at %s", p.Expires.Format(time.RFC3339))
	case len(p.Prefixes) > 0:
		return p, fmt.Errorf("it has the prefixes of a network, %v, but came from none", p.Prefixes)
	}
	return p, nil
}

// maxFetch bounds a body, in octets. A provisioning domain of more than half of it is malformed.
const maxFetch = 128 << 10

// fetch gets a document of the given type from the server named by sni, on the port for https whatever port it is that
// the client connects to.
func (c Client) fetch(ctx context.Context, t resolver.Transport, path, wantType string) ([]byte, error) {
	rt, hangUp := c.roundTripper(t)
	defer hangUp()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.SNI+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", wantType)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: HTTP status %s", path, resp.Status)
	}
	if got, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); got != wantType {
		return nil, fmt.Errorf("GET %s: content type %q; want %s", path, got, wantType)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxFetch))
}

// acceptAny is the VerifyFunc of exchanges whose certificate is judged elsewhere.
func acceptAny(tls.ConnectionState) error { return nil }
