package resolver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// Error codes of DoQ. See RFC 9250, Section 8.4.
const (
	doqNoError          = 0x0
	doqInternalError    = 0x1
	doqProtocolError    = 0x2
	doqRequestCancelled = 0x3
	doqExcessiveLoad    = 0x4
	doqUnspecifiedError = 0x5
)

// newDoQ returns DNS over QUIC on pc. See RFC 9250.
func newDoQ(f *frontend, pc *net.UDPConn, conf *tls.Config) (*quicListener, error) {
	l := &quicListener{frontend: f, transport: DoQ, pc: pc}
	l.serveConn = func(stop, kill context.Context, c *quic.Conn) {
		d := newDoQConn(f, c)
		d.serve(stop)
		d.close(kill)
	}
	return l, l.listen(withProtos(conf, "doq"), &quic.Config{
		MaxIncomingStreams: int64(f.limits.InFlightPerConn),
		// DoQ has no unidirectional streams. A client that opened some would only make us keep them.
		MaxIncomingUniStreams: -1,
		// Otherwise a stream that the client has reset makes room for the next one while its query is still under way.
		RequireStreamCreditRelease: true,
	})
}

// doqReaders is how many streams of a connection may be under way with a query that is not whole yet. Queries come in
// one packet: only a client that stalls them ever has more, and what it stalls then is its own connection.
const doqReaders = 8

// doqConn is one connection.
type doqConn struct {
	*frontend
	c       *quic.Conn
	q       query
	readers chan struct{}  // holds one for each stream that is read
	streams sync.WaitGroup // under way

	mu     sync.Mutex
	active int         // streams under way
	served bool        // ever
	idle   *time.Timer // runs while active is 0
}

func newDoQConn(f *frontend, c *quic.Conn) *doqConn {
	return &doqConn{
		frontend: f,
		c:        c,
		q:        query{client: quicAddr(c.RemoteAddr()), local: quicAddr(c.LocalAddr()), transport: DoQ},
		readers:  make(chan struct{}, doqReaders),
		// QUIC's own idle timeout does not end a connection that a client keeps alive with PING frames.
		idle: time.AfterFunc(f.limits.IdleTimeout, func() { c.CloseWithError(doqNoError, "") }),
	}
}

// serve answers the queries of a connection until it ends or stop is done, and waits for those under way.
func (d *doqConn) serve(stop context.Context) {
	defer d.idle.Stop()
	defer d.streams.Wait()
	for {
		str, err := d.c.AcceptStream(stop)
		if err != nil {
			return
		}
		// The place is taken before the goroutine is started: streams that stall never become many goroutines.
		select {
		case d.readers <- struct{}{}:
		case <-d.c.Context().Done():
			return
		case <-stop.Done():
			abort(str, doqUnspecifiedError)
			return
		}
		d.begin()
		d.streams.Go(func() {
			defer d.end()
			d.serveStream(str)
		})
	}
}

func (d *doqConn) close(kill context.Context) {
	if d.served {
		linger(kill, d.c)
	}
	d.c.CloseWithError(doqNoError, "")
}

func (d *doqConn) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active++
	d.served = true
	d.idle.Stop()
}

func (d *doqConn) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.active--; d.active == 0 {
		d.idle.Reset(d.limits.IdleTimeout)
	}
}

// serveStream answers the one query of a stream. Whatever happens, the stream is finished on both sides in the end,
// and only then makes room for another one.
func (d *doqConn) serveStream(str *quic.Stream) {
	defer str.ReleaseStreamCredit()
	q := d.q // newJob writes to it, and the streams of a connection share d.q
	j := d.newJob(&q)
	defer d.free(j)
	err := d.readQuery(str, j)
	<-d.readers
	if err == nil {
		err = d.answer(str, j)
	}
	if err != nil {
		d.fail(str, err)
	}
}

// readQuery reads the message of a stream into j: its length, itself, and the end of the stream.
func (d *doqConn) readQuery(str *quic.Stream, j *job) error {
	if err := str.SetReadDeadline(time.Now().Add(d.limits.ReadTimeout)); err != nil {
		return err
	}
	var err error
	if j.msg, err = readAll(str, j.msg[:0], prefixLen+maxMessage); err != nil {
		return err
	}
	msg, rest, ok := cutMessage(j.msg)
	if !ok || len(rest) > 0 {
		return errDoQProtocol // cut short, or a second query. See RFC 9250, Section 4.3.3.
	}
	j.q.msg = msg
	// The ID is redundant here, and the timeout of a connection is the business of QUIC. See RFC 9250, Sections 4.2.1
	// and 5.5.2.
	if len(msg) < wire.HeaderLen || binary.BigEndian.Uint16(msg) != 0 || wire.HasKeepAlive(msg) {
		return errDoQProtocol
	}
	return nil
}

var (
	errDoQProtocol = errors.New("violation of RFC 9250")
	errTooLong     = errors.New("too long")
	errOverload    = errors.New("too many queries in flight")
)

// readAll appends to b what r holds. The buffer grows as it fills, to at most limit octets.
func readAll(r io.Reader, b []byte, limit int) ([]byte, error) {
	const first = 512
	if cap(b) < first {
		b = make([]byte, 0, first)
	}
	for {
		if len(b) == cap(b) {
			b = append(make([]byte, 0, 2*cap(b)), b...)
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > limit:
			return b, errTooLong
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		}
	}
}

// answer writes the reply to the query in j, and the end of the stream. A client that cancels cancels the work too.
func (d *doqConn) answer(str *quic.Stream, j *job) error {
	var did outcome
	j.reply, did = d.h.answerNow(&j.q, append(j.reply[:0], 0, 0))
	if did == pending {
		if !d.takeSlot(j.q.client.Addr()) {
			return errOverload
		}
		j.reply = d.answerWaiting(str.Context(), &j.q, j.reply)
	}
	if did == dropped || !endMessage(j.reply, 0) {
		return errDoQProtocol
	}
	if err := str.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := str.Write(j.reply); err != nil {
		return err
	}
	return str.Close()
}

// fail ends a stream without a reply, or the whole connection of a client that does not speak DoQ.
func (d *doqConn) fail(str *quic.Stream, err error) {
	_, reset := errors.AsType[*quic.StreamError](err)
	switch {
	case errors.Is(err, errDoQProtocol) || errors.Is(err, errTooLong):
		d.c.CloseWithError(doqProtocolError, "")
	case reset:
		abort(str, doqRequestCancelled)
	case errors.Is(err, errOverload):
		abort(str, doqExcessiveLoad)
	case isTimeout(err):
		abort(str, doqUnspecifiedError)
	default:
		abort(str, doqInternalError)
	}
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// abort ends both sides of a stream, as far as they have not ended yet.
func abort(str *quic.Stream, code quic.StreamErrorCode) {
	str.CancelRead(code)
	str.CancelWrite(code)
}
