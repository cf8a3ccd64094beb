package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// visitTLS makes one HTTP request over TCP and TLS with ECH, from the address from.
func visitTLS(ctx context.Context, from netip.Addr, to netip.AddrPort, name string, roots *x509.CertPool, ech []byte) (loadedPage, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	raw, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return loadedPage{}, err
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{ServerName: name, RootCAs: roots, EncryptedClientHelloConfigList: ech})
	if err := c.HandshakeContext(ctx); err != nil {
		return loadedPage{}, err
	}
	page := loadedPage{local: raw.LocalAddr().(*net.TCPAddr).AddrPort(), ech: c.ConnectionState().ECHAccepted}
	tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	defer tr.CloseIdleConnections()
	if err := page.load(ctx, tr, name, to.Port()); err != nil {
		return page, err
	}
	page.hops, err = listTCP()
	return page, err
}

// visitQUIC makes one HTTP/3 request with ECH, from the address from.
func visitQUIC(ctx context.Context, from netip.Addr, to netip.AddrPort, name string, roots *x509.CertPool, ech []byte) (loadedPage, error) {
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err != nil {
		return loadedPage{}, err
	}
	defer pc.Close()
	qt := &quic.Transport{Conn: pc}
	defer qt.Close()
	tr := &http3.Transport{
		TLSClientConfig: &tls.Config{ServerName: name, RootCAs: roots, EncryptedClientHelloConfigList: ech},
		Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return qt.DialEarly(ctx, net.UDPAddrFromAddrPort(to), tc, qc)
		},
	}
	defer tr.Close()
	page := loadedPage{local: pc.LocalAddr().(*net.UDPAddr).AddrPort()}
	err = page.load(ctx, tr, name, to.Port())
	return page, err
}

// loadedPage is what a visit brought back.
type loadedPage struct {
	local netip.AddrPort // the customer's socket
	text  string
	ech   bool      // accepted by the origin
	hops  []tcpPair // all TCP connections while the page was loaded
}

// load gets the page / of name through rt.
func (p *loadedPage) load(ctx context.Context, rt http.RoundTripper, name string, port uint16) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s:%d/", name, port), nil)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	p.text = string(text)
	return err
}
