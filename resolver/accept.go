package resolver

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// listener accepts connections of one transport within the limits.
type listener struct {
	*net.TCPListener
	f         *frontend
	transport Transport
}

// accept returns the next connection that is within the limits. Others are reset at once, before TLS. It waits where
// the process is out of descriptors, because then the next attempt would fail as well.
func (l *listener) accept() (*conn, error) {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	pause := minPause
	for {
		tc, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			l.f.log.Warn().Err(err).Stringer("transport", l.transport).Msg("accepting connections pauses")
			time.Sleep(pause)
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		if c, ok := l.admit(tc); ok {
			return c, nil
		}
		_ = tc.SetLinger(0)
		tc.Close()
	}
}

func (l *listener) admit(tc *net.TCPConn) (*conn, bool) {
	client := bareAddrPort(tc.RemoteAddr().(*net.TCPAddr).AddrPort())
	leave, ok := l.f.admit(l.transport, client.Addr())
	if !ok {
		return nil, false
	}
	local := bareAddrPort(tc.LocalAddr().(*net.TCPAddr).AddrPort())
	return &conn{TCPConn: tc, client: client, local: local, leave: sync.OnceFunc(leave)}, true
}

// conn is a connection that was admitted.
type conn struct {
	*net.TCPConn
	client, local netip.AddrPort
	leave         func()
}

// Close closes the connection and makes room for another one.
func (c *conn) Close() error {
	err := c.TCPConn.Close()
	c.leave()
	return err
}
