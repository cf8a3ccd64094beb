package upstream

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// maxStrays is how many datagrams that are no response to the query are read before it is given up. Those come from
// somebody who guesses.
const maxStrays = 100

// tcpTimeout is how long a connection may take to be made for a response that does not fit into a datagram: one segment
// may be lost.
const tcpTimeout = 2 * time.Second

// udpExchanger asks over UDP and, where that truncates, over TCP.
type udpExchanger struct {
	addr  string
	tcp   *streamExchanger
	group *Group
}

// newUDP returns the upstream at addr, which is asked at the same port over TCP.
func newUDP(addr netip.AddrPort, g *Group) *udpExchanger {
	tcp := newStream(g, func(ctx context.Context) (net.Conn, error) {
		return dialFrom(ctx, net.Dialer{Timeout: tcpTimeout}, "tcp", addr.String())
	})
	return &udpExchanger{addr: addr.String(), tcp: tcp, group: g}
}

// Retire implements exchanger.
func (u *udpExchanger) Retire() { u.tcp.Retire() }

// Exchange asks over UDP first.
func (u *udpExchanger) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	response, err := u.exchangeUDP(ctx, query)
	if err != nil || response != nil {
		return response, err
	}
	response, err = u.tcp.Exchange(ctx, query)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", errCut, err)
	}
	return response, err
}

// exchangeUDP asks from a socket of its own: its port is drawn at random, and being connected it takes datagrams from
// the upstream only. The ID is the other half of what a forger has to guess. The response is nil if it
// does not fit into a datagram. See RFC 5452, Section 9.2.
func (u *udpExchanger) exchangeUDP(ctx context.Context, query []byte) ([]byte, error) {
	if !u.group.sockets.take() {
		return nil, errNoSocket
	}
	defer u.group.sockets.give()
	conn, err := dialFrom(ctx, net.Dialer{}, "udp", u.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	query = bytes.Clone(query)
	binary.BigEndian.PutUint16(query, randomID())
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	return readResponse(conn, query)
}

// readResponse returns the first datagram that answers query, or nil if it is truncated. Others are passed over: who
// forges one must not be able to end the wait for the real one.
func readResponse(conn net.Conn, query []byte) ([]byte, error) {
	var buf [wire.MaxUDP + 1]byte // one more, to notice what is longer than we asked for
	for range maxStrays {
		n, err := conn.Read(buf[:])
		switch {
		case err != nil:
			return nil, err
		case !wire.Answers(query, buf[:n]):
			continue
		case buf[2]&wire.FlagTC != 0, n > wire.MaxUDP:
			return nil, nil
		}
		return bytes.Clone(buf[:n]), nil
	}
	return nil, errSpoofed
}

// randomID returns a message ID that cannot be guessed.
func randomID() uint16 {
	var id [2]byte
	rand.Read(id[:])
	return binary.BigEndian.Uint16(id[:])
}
