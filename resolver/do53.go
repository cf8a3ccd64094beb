package resolver

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// datagrams answers Do53 over UDP at one address.
type datagrams struct {
	*frontend
	socks []*udpSocket
}

// newDatagrams takes over first, and on Linux binds more sockets to its address until each processor has one: the kernel
// spreads clients over them, and no lock is shared.
func newDatagrams(f *frontend, b binder, first *net.UDPConn) (*datagrams, error) {
	d := &datagrams{frontend: f}
	addr := first.LocalAddr().(*net.UDPAddr).AddrPort()
	for pc := first; ; {
		s, err := newUDPSocket(f, pc, addr)
		if err != nil {
			pc.Close()
			d.close()
			return nil, b.fail("UDP", addr, err)
		}
		if d.socks = append(d.socks, s); len(d.socks) >= socketsPerAddr() {
			return d, nil
		}
		if pc, err = b.more(addr); err != nil {
			d.close()
			return nil, err
		}
	}
}

func socketsPerAddr() int {
	if runtime.GOOS != "linux" {
		return 1
	}
	return runtime.GOMAXPROCS(0)
}

func (d *datagrams) serve(stop, kill context.Context) error {
	defer d.close()
	g, stop := errgroup.WithContext(stop)
	for _, s := range d.socks {
		g.Go(func() error { return s.serve(stop, kill) })
	}
	return unlessClosed(g.Wait())
}

func (d *datagrams) close() {
	for _, s := range d.socks {
		s.pc.Close()
	}
}

// udpSocket is one of the sockets of a datagrams.
type udpSocket struct {
	*frontend
	pc    *net.UDPConn
	local netip.AddrPort // where it is bound; unspecified on a wildcard
	// queries wait for upstreams
	queries sync.WaitGroup
	udpSystem
}

// serve reads until stop, and then waits for the queries under way.
func (s *udpSocket) serve(stop, kill context.Context) error {
	defer s.queries.Wait()
	defer context.AfterFunc(stop, func() { s.pc.SetReadDeadline(time.Unix(1, 0)) })()
	return s.read(kill)
}

// later has q answered by upstreams and the reply sent to back, without blocking. When too many queries wait already,
// q is dropped before any work: its client asks again.
func (s *udpSocket) later(ctx context.Context, q *query, back returnPath) {
	if !s.takeSlot(q.client.Addr()) {
		return
	}
	j := s.newJob(q)
	j.back = back
	s.queries.Add(1)
	go s.finish(ctx, j)
}

func (s *udpSocket) finish(ctx context.Context, j *job) {
	defer s.queries.Done()
	if j.reply = s.answerWaiting(ctx, &j.q, j.reply[:0]); len(j.reply) > 0 {
		s.send(j)
	}
	s.free(j)
}
