package resolver

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"
)

// awaited is a listener that is to be bound, or that is bound to an address which this host does not have yet.
type awaited struct {
	binder
	addr    netip.AddrPort
	bind    func(binder) error // binds addr and adds its services
	bound   bool               // by FreeBind
	trouble string             // why bind fails, if it is not that the address is missing; for the log
}

// awaitInterval is how often it is looked whether an address has come. It takes two system calls for each that has not,
// and works for every way in which an address can come: an interface, a route, or the end of duplicate address detection.
const awaitInterval = time.Second

// bindOrAwait binds l. If this host lacks the address, l is awaited, and is bound beforehand if free says so.
func (s *Server) bindOrAwait(l awaited, free bool) error {
	err := l.bind(l.binder)
	if !NotThereYet(l.addr, err) {
		return err
	}
	if free {
		l.free = true
		if err = l.bind(l.binder); err != nil && !NotThereYet(l.addr, err) {
			return err
		}
		l.bound = err == nil
	}
	s.log.Warn().Stringer("address", l.addr).Str("listener", l.name).Bool("bound", l.bound).
		Msg("this host does not have the address yet; the others serve meanwhile")
	s.awaited = append(s.awaited, &l)
	return nil
}

// awaitAddresses starts what is awaited when its address has come, until stop is done.
func (s *Server) awaitAddresses(stop context.Context, start func([]bound)) {
	if len(s.awaited) == 0 {
		return
	}
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	for len(s.awaited) > 0 {
		select {
		case <-stop.Done():
			return
		case <-ticker.C:
		}
		before, missing := len(s.services), len(s.awaited)
		s.awaited = slices.DeleteFunc(s.awaited, s.arrived)
		start(s.services[before:])
		if s.noteAbsent(); len(s.awaited) < missing && s.moved != nil {
			s.moved()
		}
	}
}

// arrived reports whether this host has the address of l, to which l is bound then.
func (s *Server) arrived(l *awaited) bool {
	if l.bound {
		if !present(l.addr.Addr()) {
			return false
		}
	} else if err := s.bindLate(l); err != nil {
		s.noteTrouble(l, err)
		return false
	}
	s.log.Info().Stringer("address", l.addr).Str("listener", l.name).Msg("this host has the address now")
	return true
}

// bindLate binds l, and leaves nothing behind if that fails.
func (s *Server) bindLate(l *awaited) error {
	before, b := len(s.services), l.binder
	b.late = true
	err := l.bind(b)
	if err != nil {
		for _, svc := range s.services[before:] {
			svc.close()
		}
		s.services = s.services[:before]
	}
	return err
}

// noteTrouble logs, once, why an address that has come cannot be bound.
func (s *Server) noteTrouble(l *awaited, err error) {
	if !NotThereYet(l.addr, err) && l.trouble != err.Error() {
		l.trouble = err.Error()
		s.log.Warn().Err(err).Msg("an address that has come cannot be bound; it is tried again")
	}
}

// present reports whether this host has addr: whether a socket can be bound to it.
func present(addr netip.Addr) bool {
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return !NotThereYet(netip.AddrPortFrom(addr, 0), err)
	}
	pc.Close()
	return true
}

// noteAbsent has Absent return what is awaited.
func (s *Server) noteAbsent() {
	list := make([]netip.AddrPort, len(s.awaited))
	for i, l := range s.awaited {
		list[i] = l.addr
	}
	s.where.mu.Lock()
	defer s.where.mu.Unlock()
	s.where.absent = list
}

// Absent returns the addresses of Config.Listen that this host has not had yet since New. Clients cannot be sent there. An
// address is listed for each listener that waits for it.
func (s *Server) Absent() []netip.AddrPort {
	s.where.mu.Lock()
	defer s.where.mu.Unlock()
	return s.where.absent
}
