package resolver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/http2"
)

// dohTarget returns the path and query of a GET.
func dohTarget(tb testing.TB, name string) string {
	return "/dns-query?dns=" + base64.RawURLEncoding.EncodeToString(wireQuery(tb, name, 0))
}

// burstConn is a connection on which a test sends bursts by hand. It implements h2.Lower.
type burstConn struct {
	net.Conn
	beforeRead func() error
	next       chan []byte
	wrote      chan struct{}
}

func (c *burstConn) BeforeRead(f func() error)        { c.beforeRead = f }
func (c *burstConn) CloseWrite() error                { return nil }
func (c *burstConn) Hold([]byte)                      {}
func (c *burstConn) Release() ([]byte, error)         { return nil, nil }
func (c *burstConn) Close() error                     { return nil }
func (c *burstConn) SetReadDeadline(time.Time) error  { return nil }
func (c *burstConn) SetWriteDeadline(time.Time) error { return nil }

func (c *burstConn) Read(b []byte) (int, error) {
	if c.beforeRead != nil {
		if err := c.beforeRead(); err != nil {
			return 0, err
		}
	}
	burst, ok := <-c.next
	if !ok {
		return 0, io.EOF
	}
	return copy(b, burst), nil
}

func (c *burstConn) Write(b []byte) (int, error) {
	c.wrote <- struct{}{}
	return len(b), nil
}

// A burst of cached answers over HTTP/2 is one write, and costs an allocation each: the path that hpack makes a string
// of.
func TestH2BurstAllocates(t *testing.T) {
	const burst = 20
	d := newDoH(newFrontend(newFake(), Limits{}.withDefaults(), zerolog.Nop()), DefaultDoHPath, 443)
	d.h.(*fakeBackend).ttl.Store(300)
	c := &burstConn{next: make(chan []byte), wrote: make(chan struct{}, 2)}
	ended := make(chan struct{})
	go func() {
		newH2(d).Serve(t.Context(), t.Context(), c, c, newH2Peer(t.Context(), &peer{transport: DoH}, nil))
		close(ended)
	}()
	c.next <- []byte(http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	<-c.wrote // before anything was read
	<-c.wrote
	target := dohTarget(t, "now.example")
	block := append([]byte{0x82, 0x87, 0x14, byte(len(target))}, target...) // see RFC 7541, Section 6.2.3
	var in bytes.Buffer
	f := http2.NewFramer(&in, nil)
	for range burst {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: true})
	}
	id := uint32(1)
	got := testing.AllocsPerRun(100, func() {
		for rest := in.Bytes(); len(rest) > 0; id += 2 {
			binary.BigEndian.PutUint32(rest[5:], id)
			rest = rest[9+len(block):]
		}
		c.next <- in.Bytes()
		<-c.wrote
	})
	close(c.next)
	<-ended
	if got > burst+8 && !raceDetector { // the rest is what pools have lost
		t.Errorf("got %v allocations for %d cached answers; want at most one each", got, burst)
	}
}

// Each response has a TLS record of its own, because dnsperf (2.10) finds only one response in what it reads at once.
func TestH2RecordPerResponse(t *testing.T) {
	const responses = 5
	s := startServer(t, nil)
	c, err := tls.Dial("tcp", s.Addrs().DoH[0].String(), s.clientTLS("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&b, nil)
	f.WriteSettings()
	target := dohTarget(t, "now.example")
	block := append([]byte{0x82, 0x87, 0x04, byte(len(target))}, target...)
	for i := range uint32(responses) {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block, EndHeaders: true, EndStream: true})
	}
	if _, err := c.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	record := make([]byte, 1<<15) // tls.Conn reads one record at a time
	for ended := 0; ended < responses; {
		n, err := c.Read(record)
		if err != nil {
			t.Fatal(err)
		}
		ends := 0
		r := http2.NewFramer(io.Discard, bytes.NewReader(record[:n]))
		for frame, err := r.ReadFrame(); err == nil; frame, err = r.ReadFrame() {
			if data, ok := frame.(*http2.DataFrame); ok && data.StreamEnded() {
				ends++
			}
		}
		if ended += ends; ends > 1 {
			t.Errorf("got %d responses in one record; want 1", ends)
		}
	}
}

// TestHTTP2Library has a server of which every listener uses the library.
func TestHTTP2Library(t *testing.T) {
	s := startServer(t, func(cfg *Config) { cfg.Limits.HTTP2 = HTTP2Library })
	for _, b := range s.services {
		if d, ok := b.service.(*dohTCP); ok && d.implementation != HTTP2Library {
			t.Errorf("%s: got %v; want HTTP2Library", b.addr, d.implementation)
		}
	}
	if _, err := dialDoH(2, http.MethodPost)(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
		t.Error(err)
	}
}

// Every response is in HPACK that decodes to what was meant.
func TestH2ResponseFields(t *testing.T) {
	s := startServer(t, nil)
	c := dohClient(t, s, 2)
	resp, err := c.Do(dohRequest(t.Context(), http.MethodGet, s.dohURL(), wireQuery(t, "now.example", 0)))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.ContentLength != int64(len(body)) {
		t.Errorf("got %d octets, %v; want %d", len(body), err, resp.ContentLength)
	}
	if d, err := http.ParseTime(resp.Header.Get("Date")); err != nil || time.Since(d).Abs() > time.Hour {
		t.Errorf("got Date %q, %v", resp.Header.Get("Date"), err)
	}
}

// The end of the time to drain ends also a connection on which a write is stuck.
func TestH2KilledInWrite(t *testing.T) {
	s := startServer(t, func(cfg *Config) { cfg.Limits.DrainTimeout = 50 * time.Millisecond })
	tcp, err := net.Dial("tcp", s.Addrs().DoH[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	tcp.(*net.TCPConn).SetReadBuffer(4 << 10)
	c := tls.Client(tcp, s.clientTLS("h2"))
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&b, nil)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	f.WriteWindowUpdate(0, 1<<30)
	for i := range uint32(800) { // two responses go out with one write
		path := dohTarget(t, []string{"now.example", "large.example"}[i%2])
		block := append([]byte{0x82, 0x87, 0x04, byte(len(path))}, path...)
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block, EndHeaders: true, EndStream: true})
	}
	if _, err := io.Copy(c, &b); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a connection", func() bool { return s.Stats().Connections[DoH] == 1 })
	s.stop()
	select {
	case err := <-s.done:
		s.done <- err
	case <-time.After(writeTimeout / 2):
		t.Error("the server waits for a client that reads nothing")
		tcp.Close()
	}
}

// Every client gets its own answers, whatever others give up at the same time, and no slot is lost.
func TestH2OwnAnswers(t *testing.T) {
	s := startServer(t, nil)
	clients := []*http.Client{dohClient(t, s, 2), dohClient(t, s, 2), dohClient(t, s, 2)}
	var work sync.WaitGroup
	for i := range 60 {
		work.Go(func() {
			for n := range 60 {
				kind := []string{"now", "late", "slow", "large"}[(i+n)%4]
				method := []string{http.MethodGet, http.MethodPost}[n%2]
				msg := wireQuery(t, fmt.Sprintf("%s.x%d-%d.example", kind, i, n), uint16(i*100+n))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				if kind == "slow" {
					cancel()
					ctx, cancel = context.WithTimeout(t.Context(), time.Duration(n%5)*time.Millisecond)
				}
				resp, err := clients[i%3].Do(dohRequest(ctx, method, s.dohURL(), msg))
				if err == nil {
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					want := wantReply(msg, DoH)
					if err == nil && resp.StatusCode == http.StatusOK && !bytes.HasPrefix(got, want) {
						t.Errorf("got %x for %s; want %x", got[:min(len(got), 80)], msg, want)
					}
				}
				cancel()
			}
		})
	}
	work.Wait()
	eventually(t, "all slots are free", func() bool { return s.frontend.slots.inUse() == 0 })
}
