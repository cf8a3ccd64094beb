package resolver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"
)

// quicListener accepts QUIC connections of one transport within the limits, and has serveConn serve them.
type quicListener struct {
	*frontend
	transport Transport
	pc        *net.UDPConn
	tr        *quic.Transport
	ln        *quic.Listener
	// serveConn serves c until it has ended, until stop is done and nothing is under way, or until kill is done. Its
	// caller closes c.
	serveConn func(stop, kill context.Context, c *quic.Conn)
}

const (
	// quicWindow is how much a client may send ahead, on one stream and on all. It has room for the largest message;
	// quic-go's defaults are a hundred times that.
	quicWindow = 64<<10 + 512
	// unverifiedPerSecond is how many connections may begin in a second before clients have to prove their address
	// first, which costs them a round trip. See RFC 9000, Section 8.1.2.
	unverifiedPerSecond = 500
)

// listen takes l.pc over, and adds to conf what all transports have in common.
func (l *quicListener) listen(tlsConf *tls.Config, conf *quic.Config) error {
	conf.HandshakeIdleTimeout = l.limits.ReadTimeout
	conf.MaxIdleTimeout = l.limits.IdleTimeout
	conf.InitialStreamReceiveWindow = quicWindow
	conf.MaxStreamReceiveWindow = quicWindow
	conf.InitialConnectionReceiveWindow = quicWindow
	conf.MaxConnectionReceiveWindow = 2 * quicWindow
	// 0-RTT stays off: what an attacker replays would be answered, and counted, again. See RFC 9250, Section 4.5. With
	// quic-go it is known per connection only, so that a query of doubtful kind could not be put off.
	conf.Allow0RTT = false
	unverified := rate.NewLimiter(unverifiedPerSecond, unverifiedPerSecond)
	l.tr = &quic.Transport{
		Conn:        l.pc,
		ConnContext: l.admitConn,
		VerifySourceAddress: func(a net.Addr) bool {
			return !unverified.Allow() || l.nearLimit(quicAddr(a).Addr())
		},
	}
	ln, err := l.tr.Listen(tlsConf, conf)
	l.ln = ln
	return err
}

var errOverLimit = errors.New("too many connections")

// admitConn counts a connection from its first packet on, until it has ended or its handshake has failed.
func (l *quicListener) admitConn(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	leave, ok := l.admit(l.transport, quicAddr(info.RemoteAddr).Addr())
	if !ok {
		return nil, errOverLimit
	}
	context.AfterFunc(ctx, leave)
	return ctx, nil
}

func quicAddr(a net.Addr) netip.AddrPort {
	if ua, ok := a.(*net.UDPAddr); ok {
		return bareAddrPort(ua.AddrPort())
	}
	return netip.AddrPort{}
}

func (l *quicListener) close() {
	if l.ln != nil {
		l.ln.Close()
	}
	if l.tr != nil {
		l.tr.Close()
	}
	l.pc.Close()
}

func (l *quicListener) serve(stop, kill context.Context) error {
	defer l.close()
	var work sync.WaitGroup
	defer work.Wait()
	for {
		c, err := l.ln.Accept(stop)
		if err != nil {
			return unlessClosed(err)
		}
		work.Go(func() {
			defer context.AfterFunc(kill, func() { c.CloseWithError(0, "") })()
			l.serveConn(stop, kill, c)
		})
	}
}

// linger gives the last answers on c the time to leave: closing a connection forgets what is not acknowledged yet.
func linger(kill context.Context, c *quic.Conn) {
	const flight = 250 * time.Millisecond
	t := time.NewTimer(flight)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.Context().Done():
	case <-kill.Done():
	}
}
