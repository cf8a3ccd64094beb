package resolver

import (
	"net"
	"sync"
)

// dohListener accepts connections for net/http.
type dohListener struct{ *listener }

// Accept implements net.Listener.
func (l dohListener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, err
	}
	return &dohConn{conn: c}, nil
}

// dohConn is a connection below TLS. There is known what a reader of records cannot know: that none is left in the
// buffer; and several records can go out with one write.
type dohConn struct {
	*conn
	beforeRead func() error // of an h2Conn, set by its reader; or nil

	mu     sync.Mutex
	corked bool
	held   []byte // what was written since it was corked
}

// Read implements net.Conn.
func (c *dohConn) Read(b []byte) (int, error) {
	if c.beforeRead != nil {
		if err := c.beforeRead(); err != nil {
			return 0, err
		}
	}
	return c.TCPConn.Read(b)
}

// Write implements net.Conn.
func (c *dohConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.corked {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	return c.TCPConn.Write(b)
}

// cork holds back what is written, in buf.
func (c *dohConn) cork(buf []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked, c.held = true, buf
}

// uncork writes what was held back, unless there was an error already, and returns the buffer.
func (c *dohConn) uncork(err error) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf := c.held
	c.corked, c.held = false, nil
	if err == nil {
		_, err = c.TCPConn.Write(buf)
	}
	return buf, err
}
