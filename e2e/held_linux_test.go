package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// held is an open connection of a customer.
type held struct {
	ask   func(msg []byte) error // one query, to its answer
	stall func() error           // begins a query that never ends
	end   func()
}

// holder opens connections of one transport.
type holder struct {
	name string
	open func() (*held, error)
}

// holders returns one for each transport with connections.
func (l *lab) holders(ca *authority) []holder {
	return []holder{
		{"tcp", func() (*held, error) { return l.holdStream("53", nil) }},
		{"dot", func() (*held, error) { return l.holdStream("853", ca.tlsConfig(adn, "dot")) }},
		{"doh", func() (*held, error) { return l.holdHTTP(ca) }},
		{"doh3", func() (*held, error) { return l.holdHTTP3(ca) }},
		{"doq", func() (*held, error) { return l.holdDoQ(ca) }},
	}
}

// holdStream speaks DNS over TCP, or over TLS with conf.
func (l *lab) holdStream(port string, conf *tls.Config) (*held, error) {
	c, err := l.customer.dial("tcp", "", resolver4+":"+port)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if conf != nil {
		c = tls.Client(c, conf)
	}
	return &held{
		ask: func(msg []byte) error {
			if _, err := c.Write(framed(msg)); err != nil {
				return err
			}
			return wantAnswer(c)
		},
		stall: func() error { _, err := c.Write(promise); return err },
		end:   func() { c.Close() },
	}, nil
}

// promise is the length of a message of 65535 octets, and its first one.
var promise = []byte{0xff, 0xff, 0}

// wantAnswer reads a message with its length.
func wantAnswer(r io.Reader) error {
	if got := readFramed(r); len(got) < 12 {
		return fmt.Errorf("got %x; want an answer", got)
	}
	return nil
}

// holdHTTP speaks HTTP/1.1.
func (l *lab) holdHTTP(ca *authority) (*held, error) {
	raw, err := l.customer.dial("tcp", "", resolver4+":443")
	if err != nil {
		return nil, err
	}
	raw.SetDeadline(time.Now().Add(30 * time.Second))
	c := tls.Client(raw, ca.tlsConfig(adn, "http/1.1"))
	r := bufio.NewReader(c)
	const head = "POST /dns-query HTTP/1.1\r\nHost: " + adn + "\r\nContent-Type: application/dns-message\r\n"
	return &held{
		ask: func(msg []byte) error {
			fmt.Fprintf(c, head+"Content-Length: %d\r\n\r\n%s", len(msg), msg)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				return err
			}
			return wantOK(resp)
		},
		stall: func() error { _, err := io.WriteString(c, head); return err },
		end:   func() { c.Close() },
	}, nil
}

func wantOK(resp *http.Response) error {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("got %s; want an answer", resp.Status)
	}
	_, err := io.Copy(io.Discard, resp.Body)
	return err
}

// dialQUIC connects with a client that keeps its connection alive.
func (l *lab) dialQUIC(ca *authority, port uint16, alpn string) (conn *quic.Conn, end func(), err error) {
	pc := l.customer.listenUDP("0.0.0.0:0")
	qt := &quic.Transport{Conn: pc}
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Second)
	defer cancel()
	conf := &quic.Config{KeepAlivePeriod: 300 * time.Millisecond}
	conn, err = qt.Dial(ctx, udpAddr(resolver4, port), ca.tlsConfig(adn, alpn), conf)
	end = func() {
		if err == nil {
			conn.CloseWithError(0, "")
		}
		qt.Close()
		pc.Close()
	}
	if err != nil {
		end()
	}
	return conn, end, err
}

// stallStream begins a stream with some octets.
func stallStream(conn *quic.Conn, b []byte) error {
	s, err := conn.OpenStream()
	if err == nil {
		_, err = s.Write(b)
	}
	return err
}

func (l *lab) holdHTTP3(ca *authority) (*held, error) {
	conn, end, err := l.dialQUIC(ca, 443, "h3")
	if err != nil {
		return nil, err
	}
	cc := (&http3.Transport{}).NewClientConn(conn)
	return &held{
		ask:   func(msg []byte) error { return l.ask(cc, msg, 5*time.Second) },
		stall: func() error { return stallStream(conn, []byte{1, 0x40}) }, // a HEADERS frame with half a length
		end:   end,
	}, nil
}

// ask asks by DoH for as long as limit.
func (l *lab) ask(rt http.RoundTripper, msg []byte, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(l.t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+adn+"/dns-query", bytes.NewReader(msg))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/dns-message")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	return wantOK(resp)
}

func (l *lab) holdDoQ(ca *authority) (*held, error) {
	conn, end, err := l.dialQUIC(ca, 853, "doq")
	if err != nil {
		return nil, err
	}
	return &held{
		ask: func(msg []byte) error {
			ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Second)
			defer cancel()
			s, err := conn.OpenStreamSync(ctx)
			if err != nil {
				return err
			}
			s.Write(framed(msg))
			s.Close()
			s.SetReadDeadline(time.Now().Add(5 * time.Second))
			return wantAnswer(s)
		},
		stall: func() error { return stallStream(conn, promise) },
		end:   end,
	}, nil
}
