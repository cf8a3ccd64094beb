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

// accept returns the next connection that is within the limits. Others are reset at once, before TLS.
func (l *listener) accept() (*conn, error) {
	for {
		tc, err := acceptBackingOff(l.f.stopping, l.AcceptTCP, func(err error) {
			l.f.log.Warn().Err(err).Stringer("transport", l.transport).Msg("accepting connections pauses")
		})
		if err != nil {
			return nil, err
		}
		if c, ok := l.admit(tc); ok {
			return c, nil
		}
		_ = tc.SetLinger(0)
		tc.Close()
	}
}

// acceptBackingOff calls accept until it returns a connection, or the listener was closed, or stopping is. Where the
// process is out of descriptors it waits, because the next attempt would fail as well, and calls failed before.
func acceptBackingOff(
	stopping <-chan struct{}, accept func() (*net.TCPConn, error), failed func(error),
) (*net.TCPConn, error) {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		tc, err := accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return tc, err
		}
		failed(err)
		select {
		case <-time.After(pause):
		case <-stopping:
			return nil, net.ErrClosed
		}
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
