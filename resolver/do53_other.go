//go:build !linux

package resolver

import (
	"context"
	"net"
	"net/netip"
)

// udpSystem is the part of a udpSocket that depends on the system.
type udpSystem struct{}

// returnPath is the way back to a client.
type returnPath struct {
	client netip.AddrPort
}

// datagramSize is the longest query that is read whole.
const datagramSize = 2048

func newUDPSocket(f *frontend, pc *net.UDPConn, addr netip.AddrPort) (*udpSocket, error) {
	if err := tuneUDP(pc, addr); err != nil {
		return nil, err
	}
	return &udpSocket{frontend: f, pc: pc, local: addr}, nil
}

// read answers datagrams until the read deadline passes. What waits for upstreams does so until ctx is done.
func (s *udpSocket) read(ctx context.Context) error {
	var buf [datagramSize]byte
	var reply []byte
	q := query{transport: UDP, local: bareAddrPort(s.local)}
	for {
		n, client, err := s.pc.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			return err
		}
		q.msg, q.client, q.ttl = buf[:n], bareAddrPort(client), 0
		var did outcome
		reply, did = s.h.answerNow(&q, reply[:0])
		switch did {
		case answered:
			s.write(reply, client)
		case pending:
			s.later(ctx, &q, returnPath{client})
		}
	}
}

// send sends the reply of j.
func (s *udpSocket) send(j *job) { s.write(j.reply, j.back.client) }

// write sends a reply. One that the system does not take is lost, as any other may be.
func (s *udpSocket) write(reply []byte, client netip.AddrPort) {
	_, _ = s.pc.WriteToUDPAddrPort(reply, client)
}
