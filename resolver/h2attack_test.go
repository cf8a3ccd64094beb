package resolver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// A stream that was reset has no window any more that could overflow: the client may already know that it is closed.
func TestH2WindowOfResetStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := h2Pipe(t, Limits{}, "")
		c.headers(1, false, postFields...)
		c.WriteWindowUpdate(1, 1<<31-1-h2DefaultWindow)
		c.WriteWindowUpdate(1, 1)
		c.want("1 FLOW_CONTROL_ERROR")
		c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		c.want("SETTINGS true")
	})
}

// Room comes back also when it is time that frees it: a client that waits for room sends nothing.
func TestH2WindowComesBackInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := h2Pipe(t, Limits{}, "")
		for id := uint32(1); id <= 3; id += 2 {
			c.headers(id, false, postFields...)
			for range 3 {
				c.WriteData(id, false, make([]byte, h2FrameSize))
			}
		}
		c.want()
		time.Sleep(6 * time.Second)
		if got := strings.Join(c.take(), ", "); !strings.Contains(got, fmt.Sprintf("WINDOW 0 %d", 6*h2FrameSize)) {
			t.Errorf("got %s; want all room back", got)
		}
	})
}

// A header that cannot be sent takes nothing along that the client's decoder has to have.
func TestH2ResizeAfterTooLargeHeader(t *testing.T) {
	h, w := countedH2(t)
	h.doh.other = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X", strings.Repeat("~", 2*h2FrameSize))
	})
	h.fields.init(h.doh)
	h.in = append(h.in, "\x00\x00\x03\x01\x05\x00\x00\x00\x01\x82\x84\x87"...)
	if err := h.receive(); err != nil {
		t.Fatal(err)
	}
	h.in = appendH2Gets(t, h.in, 3, 1)
	if err := h.receive(); err != nil {
		t.Fatal(err)
	}
	if err := h.beforeRead(); err != nil {
		t.Fatal(err)
	}
	for rest := w.out.Bytes(); len(rest) > 0; {
		f, tail, err := cutH2Frame(rest)
		if err != nil || tail == nil {
			t.Fatalf("cut: %v", err)
		}
		if rest = tail; f.kind == h2Headers && f.payload[0] != 0x20 {
			t.Errorf("got a first block that begins with %#x; want a size update", f.payload[0])
		}
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
		path := getFields(t, []string{"now.example", "large.example"}[i%2])[7]
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

// Everybody gets their own answers, whatever others give up at the same time, and no slot is lost.
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
