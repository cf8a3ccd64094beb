// Package latebind listens on TCP addresses that this host may not have yet, for the services of the program that are not
// the resolver's: the admin pages, and HTTP-01 of ACME. Package resolver does the same for its own listeners, and knows
// by which errors a system says that an address is missing.
//
// Listen may be called from any goroutine. What it returns is a net.Listener whose Accept waits for the address; it has no
// goroutine of its own.
package latebind

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/reuseport"
	"github.com/cfrd-project/cfrd/resolver"
)

// interval is how often binding is tried while the address is missing.
const interval = time.Second

// Listen listens on addr for network, which is tcp, tcp4 or tcp6. If this host lacks the address, which log is told, free
// binds it all the same; otherwise, or where the system cannot, Accept of the listener tries until the address is there.
func Listen(network string, addr netip.AddrPort, free bool, log zerolog.Logger) (net.Listener, error) {
	l := &listener{network: network, addr: addr, log: log, closed: make(chan struct{})}
	ln, err := l.bind(nil)
	if !resolver.NotThereYet(addr, err) {
		return ln, err
	}
	log.Warn().Stringer("address", addr).Bool("bound", free).Msg("this host does not have the address yet")
	if free {
		if ln, err = l.bind(resolver.FreeBind); !resolver.NotThereYet(addr, err) {
			return ln, err
		}
	}
	return l, nil
}

// listener is bound by Accept.
type listener struct {
	// set once by Listen
	network string
	addr    netip.AddrPort
	log     zerolog.Logger
	closed  chan struct{}

	mu   sync.Mutex
	ln   net.Listener // nil while the address is missing
	over bool         // closed is
}

// bind listens in a way that lets the relay have the same port on all addresses later. control prepares the socket.
func (l *listener) bind(control func(network, address string, c syscall.RawConn) error) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: control}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), l.network, l.addr.String())
	if err != nil {
		return nil, err
	}
	if err := reuseport.Share(ln.(*net.TCPListener)); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		ln, err := l.attempt()
		switch {
		case ln != nil:
			return ln.Accept()
		case !resolver.NotThereYet(l.addr, err):
			return nil, err
		}
		select {
		case <-ticker.C:
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

// attempt returns what is bound, after it has tried to bind it.
func (l *listener) attempt() (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ln != nil {
		return l.ln, nil
	}
	if l.over {
		return nil, net.ErrClosed
	}
	ln, err := l.bind(reuseport.ShareFirst) // the relay has the port by now
	if err != nil {
		return nil, err
	}
	l.log.Info().Stringer("address", l.addr).Msg("this host has the address now")
	l.ln = ln
	return ln, nil
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil
	}
	l.over = true
	close(l.closed)
	if l.ln != nil {
		return l.ln.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
