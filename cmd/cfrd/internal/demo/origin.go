package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sync/errgroup"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/reuseport"
)

// origin is the web server that the demo's customer visits: TLS 1.3 with Encrypted Client Hello over TCP, and
// HTTP/3 over UDP, on one address and port. It remembers who connected, as an origin's own log would.
type origin struct {
	// set once by newOrigin
	echConfigs []byte // ECHConfigList, as the HTTPS record carries it
	tcp        net.Listener
	udp        net.PacketConn
	tlsConfig  *tls.Config

	mu     sync.Mutex
	visits []visit
}

// visit is one request as the origin saw it.
type visit struct {
	from     netip.AddrPort
	name     string // of the inner ClientHello
	protocol string // "tls" or "quic"
	ech      bool
}

// newOrigin binds addr for TCP and UDP. The relay, which serves the same port at its own addresses, can bind the port at
// all addresses after that.
func newOrigin(addr netip.AddrPort, cert tls.Certificate) (*origin, error) {
	list, key, err := newECHKey(1, outerName)
	if err != nil {
		return nil, err
	}
	o := &origin{echConfigs: list, tlsConfig: &tls.Config{
		MinVersion:               tls.VersionTLS13,
		Certificates:             []tls.Certificate{cert},
		EncryptedClientHelloKeys: []tls.EncryptedClientHelloKey{key},
	}}
	if err := o.bind(addr); err != nil {
		o.close()
		return nil, fmt.Errorf("bind the demo's origin: %w", err)
	}
	return o, nil
}

// bind binds addr. Where it fails, some listeners may be bound.
func (o *origin) bind(addr netip.AddrPort) (err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	if o.tcp, err = lc.Listen(context.Background(), "tcp", addr.String()); err != nil {
		return err
	}
	if o.udp, err = lc.ListenPacket(context.Background(), "udp", addr.String()); err != nil {
		return err
	}
	return errors.Join(reuseport.Share(o.tcp.(*net.TCPListener)), reuseport.Share(o.udp.(*net.UDPConn)))
}

// close closes what bind has bound. It is for an origin that never runs.
func (o *origin) close() {
	if o.tcp != nil {
		o.tcp.Close()
	}
	if o.udp != nil {
		o.udp.Close()
	}
}

// run serves until ctx is done.
func (o *origin) run(ctx context.Context) error {
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

// serve answers every request with the client's address, and remembers the visit.
func (o *origin) serve(w http.ResponseWriter, r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "no client address", http.StatusInternalServerError)
		return
	}
	v := visit{from: from, name: r.TLS.ServerName, protocol: "tls", ech: r.TLS.ECHAccepted}
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
func (o *origin) lastVisit() (visit, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.visits) == 0 {
		return visit{}, false
	}
	return o.visits[len(o.visits)-1], true
}
