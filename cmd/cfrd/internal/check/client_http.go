package check

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/resolver"
)

// doh asks over HTTP/3, over HTTP/2, or over HTTP/1.1 if that is the protocol id.
func (c Client) doh(ctx context.Context, t resolver.Transport, q []byte) ([]byte, error) {
	rt, hangUp := c.roundTripper(t)
	defer hangUp()
	return c.roundTripHTTP(ctx, rt, q)
}

// roundTripper returns what requests go over. hangUp ends its connections.
func (c Client) roundTripper(t resolver.Transport) (_ http.RoundTripper, hangUp func()) {
	if t == resolver.DoH3 {
		return c.roundTripper3()
	}
	alpn := c.ALPN
	if alpn == "" {
		alpn = "h2"
	}
	rt := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.dialTLS(ctx, alpn)
		},
	}
	return rt, rt.CloseIdleConnections
}

// roundTripper3 is roundTripper for HTTP/3.
func (c Client) roundTripper3() (_ http.RoundTripper, hangUp func()) {
	end := func() {}
	rt := &http3.Transport{
		Dial: func(ctx context.Context, _ string, _ *tls.Config, cfg *quic.Config) (*quic.Conn, error) {
			conn, hangUp, err := c.dialQUIC(ctx, "h3", cfg)
			if err == nil {
				end = hangUp
			}
			return conn, err
		},
	}
	return rt, func() { rt.Close(); end() }
}

const mediaType = "application/dns-message"

// roundTripHTTP is one DoH request. See RFC 8484, Section 4.
func (c Client) roundTripHTTP(ctx context.Context, rt http.RoundTripper, q []byte) ([]byte, error) {
	req, err := c.request(ctx, q)
	if err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: HTTP status %s", req.Method, req.URL.Path, resp.Status)
	}
	if got := resp.Header.Get("Content-Type"); got != mediaType {
		return nil, fmt.Errorf("%s %s: content type %q; want %s", req.Method, req.URL.Path, got, mediaType)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 0xffff))
}

// request builds the URL from the template, with the query in it for GET, and in the body for POST.
func (c Client) request(ctx context.Context, q []byte) (*http.Request, error) {
	template, value, method := c.Path, base64.RawURLEncoding.EncodeToString(q), http.MethodGet
	var body io.Reader
	if template == "" {
		template = svcb.DefaultDoHPath
	}
	if c.POST {
		value, method, body = "", http.MethodPost, bytes.NewReader(q)
	}
	path, err := svcb.ExpandDoHPath(template, value)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.authority()+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", mediaType)
	if c.POST {
		req.Header.Set("Content-Type", mediaType)
	}
	return req, nil
}

// authority is host and port, the latter only if it is not the default one.
func (c Client) authority() string {
	host := c.Host
	if host == "" {
		host = c.Addr.Addr().WithZone("").String()
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if c.Addr.Port() == 443 {
		return host
	}
	return fmt.Sprintf("%s:%d", host, c.Addr.Port())
}
