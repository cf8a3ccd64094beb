package resolver

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// doh3Streams is how many unidirectional streams an HTTP/3 client may have open: it needs three, for control and for
// QPACK, and may send others to see whether we ignore them. See RFC 9114, Section 6.2.
const doh3Streams = 8

// newDoH3 returns d over HTTP/3 on pc. The connections and streams are accepted here and not by http3.Server, which
// sets no time for headers to arrive and starts as many goroutines as a client makes and resets streams.
func newDoH3(d *doh, pc *net.UDPConn, conf *tls.Config) (*quicListener, error) {
	srv := &http3.Server{
		Handler:        d,
		MaxHeaderBytes: maxHeader,
		IdleTimeout:    d.limits.IdleTimeout,
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
			p := &peer{quicAddr(c.RemoteAddr()), quicAddr(c.LocalAddr()), DoH3}
			return context.WithValue(ctx, peerKey{}, p)
		},
	}
	l := &quicListener{frontend: d.frontend, transport: DoH3, pc: pc}
	l.serveConn = func(stop, kill context.Context, c *quic.Conn) {
		hc, err := srv.NewRawServerConn(c)
		if err != nil {
			c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeInternalError), "")
			return
		}
		h := doh3Conn{frontend: d.frontend, c: c, hc: hc}
		h.serve(stop, kill)
	}
	return l, l.listen(withProtos(conf, http3.NextProtoH3), &quic.Config{
		MaxIncomingStreams:    int64(d.limits.InFlightPerConn),
		MaxIncomingUniStreams: doh3Streams,
	})
}

// doh3Conn is one connection.
type doh3Conn struct {
	*frontend
	c  *quic.Conn
	hc *http3.RawServerConn
}

// serve answers the requests of a connection until it ends or stop is done, and waits for those under way.
func (h *doh3Conn) serve(stop, kill context.Context) {
	var control sync.WaitGroup
	defer control.Wait()
	control.Go(func() { h.acceptControl(&control) })
	if h.acceptRequests(stop) > 0 {
		linger(kill, h.c)
	}
	h.hc.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

func (h *doh3Conn) acceptControl(control *sync.WaitGroup) {
	for {
		str, err := h.c.AcceptUniStream(h.c.Context())
		if err != nil {
			return
		}
		control.Go(func() { h.hc.HandleUnidirectionalStream(str) })
	}
}

// acceptRequests returns how many requests it has served.
func (h *doh3Conn) acceptRequests(stop context.Context) (requests int) {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	// A stream that was reset gives the client another one while its handler still runs. So handlers are counted.
	places := make(chan struct{}, h.limits.InFlightPerConn)
	for {
		str, err := h.c.AcceptStream(stop)
		if err != nil {
			return requests
		}
		select {
		case places <- struct{}{}:
		case <-h.c.Context().Done():
			return requests
		case <-stop.Done():
			abort(str, quic.StreamErrorCode(http3.ErrCodeRequestRejected))
			return requests
		}
		requests++
		handlers.Go(func() {
			defer func() { <-places }()
			h.setDeadlines(str)
			h.hc.HandleRequestStream(str)
		})
	}
}

// setDeadlines bounds the life of a request, which http3 does not: its headers and body have to arrive, and a client
// that makes no room for the response has to do so, in time.
func (h *doh3Conn) setDeadlines(str *quic.Stream) {
	now := time.Now()
	l := h.limits
	_ = str.SetReadDeadline(now.Add(l.ReadTimeout)) // quic-go has no error to return
	_ = str.SetWriteDeadline(now.Add(l.ReadTimeout + l.QueryTimeout + writeTimeout))
}
