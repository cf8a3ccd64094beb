package check

import (
	"context"
	"net"
	"net/netip"

	"github.com/quic-go/quic-go"
)

// doq sends one query on a stream of its own and ends the stream. See RFC 9250, Section 4.2.
func (c Client) doq(ctx context.Context, q []byte) ([]byte, error) {
	conn, hangUp, err := c.dialQUIC(ctx, "doq", &quic.Config{MaxIncomingStreams: -1})
	if err != nil {
		return nil, err
	}
	defer hangUp()
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		stream.SetDeadline(deadline)
	}
	if _, err := stream.Write(frame(q)); err != nil {
		return nil, err
	}
	if err := stream.Close(); err != nil {
		return nil, err
	}
	return readFramed(stream)
}

// dialQUIC connects from a socket of its own. hangUp ends the connection and closes the socket.
func (c Client) dialQUIC(ctx context.Context, alpn string, cfg *quic.Config) (conn *quic.Conn, hangUp func(), err error) {
	local := ":0"
	if c.From.IsValid() {
		local = netip.AddrPortFrom(c.From, 0).String()
	}
	lc := net.ListenConfig{Control: c.Control}
	pc, err := lc.ListenPacket(ctx, "udp", local)
	if err != nil {
		return nil, nil, err
	}
	qt := &quic.Transport{Conn: pc}
	closeSocket := func() { qt.Close(); pc.Close() }
	if conn, err = qt.Dial(ctx, net.UDPAddrFromAddrPort(c.Addr), c.tlsConfig(alpn), cfg); err != nil {
		closeSocket()
		return nil, nil, err
	}
	return conn, func() {
		const noError = 0 // See RFC 9250, Section 4.3. HTTP/3 has closed the connection before.
		conn.CloseWithError(noError, "")
		closeSocket()
	}, nil
}
