package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// stallHTTP2 opens a.Count connections from each source, asks a hundred times on each for a.Name, which should have a
// large answer, and reads nothing: neither from the socket nor, by its windows, from the streams.
func stallHTTP2(a assault) tally {
	ctx, cancel := context.WithTimeout(context.Background(), a.For)
	defer cancel()
	var mu sync.Mutex
	var got tally
	var work sync.WaitGroup
	defer work.Wait()
	for range a.Count {
		for _, source := range a.Sources {
			sleep(ctx, time.Second/time.Duration(max(a.Rate, 1)))
			work.Go(func() {
				c, err := a.stallOne(ctx, source)
				mu.Lock()
				if err != nil {
					got.Refused++
				} else {
					got.Open++
				}
				mu.Unlock()
				if err == nil {
					<-ctx.Done()
					c.Close()
				}
			})
		}
	}
	<-ctx.Done()
	mu.Lock()
	defer mu.Unlock()
	return got
}

// stallOne opens one connection and sends its hundred requests. Its receive buffer is as small as can be.
func (a assault) stallOne(ctx context.Context, source string) (net.Conn, error) {
	local, target := a.at(source, "443")
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: local}, Timeout: 5 * time.Second}).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	c.(*net.TCPConn).SetReadBuffer(4096)
	tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: adn, NextProtos: []string{"h2"}})
	tc.SetDeadline(time.Now().Add(10 * time.Second))
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	if _, err := tc.Write(hundredRequests(typedQuestion(a.Name, a.Type))); err != nil {
		c.Close()
		return nil, err
	}
	return tc, nil
}

// typedQuestion returns a query for another type than A.
func typedQuestion(name string, qtype uint16) []byte {
	msg := question(name)
	binary.BigEndian.PutUint16(msg[len(msg)-4:], qtype)
	return msg
}

// hundredRequests returns an HTTP/2 client's preface and a hundred requests with msg. The windows are as large as can
// be, so that it is the server that decides how much it buffers.
func hundredRequests(msg []byte) []byte {
	var b, head bytes.Buffer
	io.WriteString(&b, http2.ClientPreface)
	f := http2.NewFramer(&b, nil)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	f.WriteWindowUpdate(0, 1<<30)
	enc := hpack.NewEncoder(&head)
	for i := range 100 {
		head.Reset()
		for _, h := range [][2]string{
			{":method", "POST"},
			{":scheme", "https"},
			{":authority", adn},
			{":path", "/dns-query"},
			{"content-type", "application/dns-message"},
		} {
			enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		id := uint32(2*i + 1)
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head.Bytes(), EndHeaders: true})
		f.WriteData(id, true, msg)
	}
	return b.Bytes()
}
