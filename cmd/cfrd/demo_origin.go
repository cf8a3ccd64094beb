package main

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sync/errgroup"
)

// demoOrigin is the web server that the demo's customer visits: TLS 1.3 with Encrypted Client Hello over TCP, and
// HTTP/3 over UDP, on one address and port. It remembers who connected, as an origin's own log would.
type demoOrigin struct {
	// set once by newDemoOrigin
	echConfigs []byte // ECHConfigList, as the HTTPS record carries it
	tcp        net.Listener
	udp        net.PacketConn
	tlsConfig  *tls.Config

	mu     sync.Mutex
	visits []demoVisit
}

// demoVisit is one request as the origin saw it.
type demoVisit struct {
	from     netip.AddrPort
	name     string // of the inner ClientHello
	protocol string // "tls" or "quic"
	ech      bool
}

// newDemoOrigin binds addr for TCP and UDP.
func newDemoOrigin(addr netip.AddrPort, cert tls.Certificate) (*demoOrigin, error) {
	list, key, err := newECHKey(1, demoOuterName)
	if err != nil {
		return nil, err
	}
	o := &demoOrigin{echConfigs: list, tlsConfig: &tls.Config{
		MinVersion:               tls.VersionTLS13,
		Certificates:             []tls.Certificate{cert},
		EncryptedClientHelloKeys: []tls.EncryptedClientHelloKey{key},
	}}
	// The relay serves the same port at every address of its own; the kernel prefers this more specific socket.
	lc := net.ListenConfig{Control: reusePort}
	lc.SetMultipathTCP(false)
	if o.tcp, err = lc.Listen(context.Background(), "tcp", addr.String()); err != nil {
		return nil, fmt.Errorf("bind the demo's origin: %w", err)
	}
	if o.udp, err = lc.ListenPacket(context.Background(), "udp", addr.String()); err != nil {
		o.tcp.Close()
		return nil, fmt.Errorf("bind the demo's origin: %w", err)
	}
	return o, nil
}

// run serves until ctx is done.
func (o *demoOrigin) run(ctx context.Context) error {
	handler := http.HandlerFunc(o.serve)
	tcp := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		TLSConfig:         o.tlsConfig.Clone(),
	}
	udp := &http3.Server{Handler: handler, TLSConfig: http3.ConfigureTLSConfig(o.tlsConfig.Clone())}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(tcp.ServeTLS(o.tcp, "", "")) })
	g.Go(func() error { return ended(udp.Serve(o.udp)) })
	g.Go(func() error {
		<-ctx.Done()
		return errors.Join(tcp.Close(), udp.Close(), ended(o.udp.Close()))
	})
	return g.Wait()
}

// ended filters the expected ends of servers.
func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, quic.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (o *demoOrigin) serve(w http.ResponseWriter, r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "no client address", http.StatusInternalServerError)
		return
	}
	v := demoVisit{from: from, name: r.TLS.ServerName, protocol: "tls", ech: r.TLS.ECHAccepted}
	if r.ProtoMajor == 3 {
		v.protocol = "quic"
	}
	o.mu.Lock()
	o.visits = append(o.visits, v)
	o.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Hello. I am the origin of %s, and I see you as %v.\n", v.name, from)
}

// lastVisit returns the newest visit.
func (o *demoOrigin) lastVisit() (demoVisit, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.visits) == 0 {
		return demoVisit{}, false
	}
	return o.visits[len(o.visits)-1], true
}

// newECHKey makes a key for Encrypted Client Hello and the ECHConfigList that publishes it, with X25519,
// HKDF-SHA256 and AES-128-GCM. See RFC 9849, Section 4.
func newECHKey(id uint8, outerName string) (list []byte, key tls.EncryptedClientHelloKey, err error) {
	const (
		version    = 0xfe0d
		kemX25519  = 0x0020
		kdfSHA256  = 0x0001
		aeadAES128 = 0x0001
		maxNameLen = 64 // names of the demo are shorter; longer ones are padded less well
	)
	priv, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, key, err
	}
	pub := priv.PublicKey().Bytes()
	contents := []byte{id}
	contents = binary.BigEndian.AppendUint16(contents, kemX25519)
	contents = binary.BigEndian.AppendUint16(contents, uint16(len(pub)))
	contents = append(contents, pub...)
	contents = binary.BigEndian.AppendUint16(contents, 4) // octets of cipher suites
	contents = binary.BigEndian.AppendUint16(contents, kdfSHA256)
	contents = binary.BigEndian.AppendUint16(contents, aeadAES128)
	contents = append(contents, maxNameLen, uint8(len(outerName)))
	contents = append(contents, outerName...)
	contents = binary.BigEndian.AppendUint16(contents, 0) // no extensions

	config := binary.BigEndian.AppendUint16(nil, version)
	config = binary.BigEndian.AppendUint16(config, uint16(len(contents)))
	config = append(config, contents...)
	list = binary.BigEndian.AppendUint16(nil, uint16(len(config)))
	list = append(list, config...)
	return list, tls.EncryptedClientHelloKey{Config: config, PrivateKey: priv.Bytes(), SendAsRetry: true}, nil
}

// demoCA is a certificate authority that lives as long as the demo.
type demoCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newDemoCA() (*demoCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cfrd demo CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(7 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &demoCA{cert: cert, key: key}, nil
}

// issue returns a certificate for names and addresses.
func (ca *demoCA) issue(names []string, addrs ...netip.Addr) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: ca.cert.NotBefore, NotAfter: ca.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, a := range addrs {
		tmpl.IPAddresses = append(tmpl.IPAddresses, a.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// pool returns a pool with only ca in it.
func (ca *demoCA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// visitTLS makes one HTTP request over TCP and TLS with ECH, from the address from.
func visitTLS(ctx context.Context, from netip.Addr, to netip.AddrPort, name string, roots *x509.CertPool, ech []byte) (demoPage, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	raw, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return demoPage{}, err
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{ServerName: name, RootCAs: roots, EncryptedClientHelloConfigList: ech})
	if err := c.HandshakeContext(ctx); err != nil {
		return demoPage{}, err
	}
	page := demoPage{local: raw.LocalAddr().(*net.TCPAddr).AddrPort(), ech: c.ConnectionState().ECHAccepted}
	tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	defer tr.CloseIdleConnections()
	if err := page.load(ctx, tr, name, to.Port()); err != nil {
		return page, err
	}
	page.hops, err = listTCP()
	return page, err
}

// visitQUIC makes one HTTP/3 request with ECH, from the address from.
func visitQUIC(ctx context.Context, from netip.Addr, to netip.AddrPort, name string, roots *x509.CertPool, ech []byte) (demoPage, error) {
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err != nil {
		return demoPage{}, err
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
	page := demoPage{local: pc.LocalAddr().(*net.UDPAddr).AddrPort()}
	err = page.load(ctx, tr, name, to.Port())
	return page, err
}

// demoPage is what a visit brought back.
type demoPage struct {
	local netip.AddrPort // the customer's socket
	text  string
	ech   bool      // accepted by the origin
	hops  []tcpPair // all TCP connections while the page was loaded
}

func (p *demoPage) load(ctx context.Context, rt http.RoundTripper, name string, port uint16) error {
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
