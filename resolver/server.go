package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

// Server is a front end that is bound to its addresses.
type Server struct {
	*frontend
	backend  backend
	services []bound
	addrs    Listen
}

// bound is a service with its name for errors.
type bound struct {
	service
	name string
	addr netip.AddrPort
}

// backend is what answers behind the listeners of a Server.
type backend interface {
	handler
	update(Settings) error
	// stats sets what the backend counts.
	stats(*Stats)
	// close ends what answer needs, and waits for it. No query is under way any more.
	close()
}

// service is a listener of a Server.
type service interface {
	// serve takes queries until stop is done, lets those under way end until kill is done, and returns when all that
	// it started has. An error means that it cannot go on.
	serve(stop, kill context.Context) error
	// close gives up the address, also after serve has done so.
	close()
}

// New validates cfg, binds every listener, and returns a server that Run serves. A Server that is not going to Run must
// be closed.
//
// An address that is in use is an error, also where SO_REUSEPORT would allow it: a wildcard listener of this process
// that is to share a port must be bound, with SO_REUSEPORT, after New.
func New(cfg Config) (*Server, error) {
	f, err := newForwarder(&cfg)
	if err != nil {
		return nil, err
	}
	s, err := newServer(cfg, f)
	if err != nil {
		f.close()
		return nil, err
	}
	return s, nil
}

func newServer(cfg Config, b backend) (*Server, error) {
	if err := cfg.Limits.validate(); err != nil {
		return nil, err
	}
	encrypted := len(cfg.Listen.DoT) + len(cfg.Listen.DoH) + len(cfg.Listen.DoQ)
	if encrypted > 0 && cfg.TLS == nil {
		return nil, errors.New("encrypted listeners need a certificate")
	}
	s := &Server{frontend: newFrontend(b, cfg.Limits.withDefaults(), cfg.Log), backend: b}
	for _, bind := range []func(*Config) error{s.bindDo53, s.bindDoT, s.bindDoH, s.bindDoQ} {
		if err := bind(&cfg); err != nil {
			s.closeListeners()
			return nil, err
		}
	}
	return s, nil
}

func (s *Server) bindDo53(cfg *Config) error {
	b := binder{"Do53", cfg.Listen.Do53}
	for _, addr := range b.addrs {
		ln, pc, err := b.both(addr)
		if err != nil {
			return err
		}
		bound := boundTo(ln.Addr())
		s.addrs.Do53 = append(s.addrs.Do53, bound)
		s.add("TCP", bound, &streams{frontend: s.frontend, ln: &listener{ln, s.frontend, TCP}})
		d, err := newDatagrams(s.frontend, b, pc)
		if err != nil {
			return err
		}
		s.add("UDP", bound, d)
	}
	return nil
}

func (s *Server) bindDoT(cfg *Config) error {
	b := binder{"DoT", cfg.Listen.DoT}
	for _, addr := range b.addrs {
		ln, err := b.tcp(addr)
		if err != nil {
			return err
		}
		bound := boundTo(ln.Addr())
		s.addrs.DoT = append(s.addrs.DoT, bound)
		s.add("DoT", bound, newDoT(s.frontend, ln, cfg.TLS))
	}
	return nil
}

func (s *Server) bindDoH(cfg *Config) error {
	b := binder{"DoH", cfg.Listen.DoH}
	path := cfg.DoHPath
	if path == "" {
		path = DefaultDoHPath
	}
	for _, addr := range b.addrs {
		ln, pc, err := b.both(addr)
		if err != nil {
			return err
		}
		bound := boundTo(ln.Addr())
		d := newDoH(s.frontend, path, bound.Port())
		d.other = cfg.HTTP
		s.addrs.DoH = append(s.addrs.DoH, bound)
		s.add("DoH", bound, newDoHTCP(d, ln, cfg.TLS))
		h3, err := newDoH3(d, pc, cfg.TLS)
		s.add("DoH over HTTP/3", bound, h3)
		if err != nil {
			return b.fail("UDP", addr, err)
		}
	}
	return nil
}

func (s *Server) bindDoQ(cfg *Config) error {
	b := binder{"DoQ", cfg.Listen.DoQ}
	for _, addr := range b.addrs {
		pc, err := b.udp(addr)
		if err != nil {
			return err
		}
		q, err := newDoQ(s.frontend, pc, cfg.TLS)
		bound := boundTo(pc.LocalAddr())
		s.addrs.DoQ = append(s.addrs.DoQ, bound)
		s.add("DoQ", bound, q)
		if err != nil {
			return b.fail("UDP", addr, err)
		}
	}
	return nil
}

func (s *Server) add(name string, addr netip.AddrPort, svc service) {
	s.services = append(s.services, bound{svc, name, addr})
}

// boundTo returns the address of a listener.
func boundTo(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return unmapPort(a.AddrPort())
	case *net.UDPAddr:
		return unmapPort(a.AddrPort())
	}
	panic(fmt.Sprintf("resolver: listener of %T", a))
}

func unmapPort(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Run serves until ctx is done, then stops listening, lets queries in flight finish for at most
// Limits.DrainTimeout, and returns nil. Any other return is an error that names the listener. Run is called once.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close() // not before: while listeners drain, they still need the backend
	g, stop := errgroup.WithContext(ctx)
	context.AfterFunc(stop, func() { close(s.stopping) })
	kill, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(stop, func() {
		t := time.AfterFunc(s.limits.DrainTimeout, cancel)
		context.AfterFunc(kill, func() { t.Stop() })
	})()
	for _, svc := range s.services {
		g.Go(func() error {
			if err := svc.serve(stop, kill); err != nil {
				return fmt.Errorf("%s on %s: %w", svc.name, svc.addr, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Close gives up what New took. Run does so itself in the end, and must not be under way.
func (s *Server) Close() {
	s.closeListeners()
	s.backend.close()
}

func (s *Server) closeListeners() {
	for _, svc := range s.services {
		svc.close()
	}
}

// Update replaces the settings; queries under way end with the old ones. Answers that were steered under the old
// ones are no longer served from the cache. On an error the old settings stay.
func (s *Server) Update(set Settings) error { return s.backend.update(set) }

// Addrs returns the addresses that the listeners are bound to, in the order of Config.Listen.
func (s *Server) Addrs() Listen { return s.addrs }

// Stats returns the counters since the start. No counter is kept per client or per name.
func (s *Server) Stats() Stats {
	var st Stats
	s.backend.stats(&st)
	st.Shed += s.shed.Load()
	st.InFlight = s.slots.inUse()
	for t := range NumTransports {
		st.Connections[t] = int(s.connections[t].Load())
		st.Refused[t] = s.refused[t].Load()
	}
	return st
}
