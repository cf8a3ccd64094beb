package resolver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// pipeStream serves one connection made of channels, for tests in bubbles. The other end is returned.
func pipeStream(t *testing.T, fake *fakeBackend, l Limits) (client net.Conn, stop context.CancelFunc, ended <-chan struct{}) {
	client, server := net.Pipe()
	f := newFrontend(fake, l.withDefaults(), zerolog.Nop())
	st := &stream{frontend: f, slot: testSlot(f, TCP), q: query{transport: TCP}, waiting: make(chan struct{}, f.limits.InFlightPerConn)}
	st.c = flushConn{server, st.flush}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		st.serve(ctx, t.Context())
		server.Close()
		close(done)
	}()
	t.Cleanup(func() { client.Close() })
	return client, stop, done
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestStreamIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, ended := pipeStream(t, newFake(), Limits{IdleTimeout: 8 * time.Second})
		for range 5 { // each query moves the end
			time.Sleep(6 * time.Second)
			if _, err := c.Write(frame(wireQuery(t, "now.example", 1))); err != nil {
				t.Fatal(err)
			}
			if _, err := readFrame(c); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if isDone(ended) {
			t.Fatal("ended while not idle for 8 s")
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !isDone(ended) {
			t.Error("idle for 9 s and not ended")
		}
	})
}

// A client that waits for us is not idle.
func TestStreamWaitingIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		c, _, ended := pipeStream(t, fake, Limits{IdleTimeout: time.Second, QueryTimeout: time.Hour})
		if _, err := c.Write(frame(wireQuery(t, "slow.example", 1))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if isDone(ended) {
			t.Fatal("ended with a query under way")
		}
		close(fake.release)
		if _, err := readFrame(c); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !isDone(ended) {
			t.Error("not ended when idle")
		}
	})
}

// A message has ReadTimeout from its first octet on, however its octets trickle in.
func TestStreamSlowMessage(t *testing.T) {
	for _, transport := range []string{"one-octet", "trickle"} {
		t.Run(transport, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _, ended := pipeStream(t, newFake(), Limits{IdleTimeout: time.Hour, ReadTimeout: 5 * time.Second})
				msg := frame(wireQuery(t, "now.example", 1))
				if _, err := c.Write(msg[:1]); err != nil {
					t.Fatal(err)
				}
				for _, b := range msg[1:6] {
					time.Sleep(900 * time.Millisecond)
					if transport == "trickle" {
						c.Write([]byte{b})
					}
				}
				synctest.Wait()
				if isDone(ended) {
					t.Fatal("ended before its time")
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if !isDone(ended) {
					t.Error("not ended after 5.5 s")
				}
			})
		})
	}
}

// A client that reads nothing is let go, and what it has asked for is not kept.
func TestStreamSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, ended := pipeStream(t, newFake(), Limits{})
		if _, err := c.Write(frame(wireQuery(t, "late.example", 1))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeTimeout + time.Second)
		synctest.Wait()
		if !isDone(ended) {
			t.Error("not ended")
		}
	})
}

func TestStreamStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		c, stop, ended := pipeStream(t, fake, Limits{})
		if _, err := c.Write(frame(wireQuery(t, "slow.example", 1))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop()
		synctest.Wait()
		if isDone(ended) {
			t.Fatal("ended with a query under way")
		}
		close(fake.release)
		if _, err := readFrame(c); err != nil {
			t.Error(err)
		}
		<-ended
	})
}

// At the bound nothing is read, so that even what could be answered at once waits.
func TestStreamPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		c, _, _ := pipeStream(t, fake, Limits{InFlightPerConn: 2})
		var got atomic.Int64
		go func() {
			for {
				if _, err := readFrame(c); err != nil {
					return
				}
				got.Add(1)
			}
		}()
		names := []string{"now.example", "slow.example", "slow.example", "slow.example", "now.example"}
		var burst []byte
		for i, name := range names {
			burst = append(burst, frame(wireQuery(t, name, uint16(i)))...)
		}
		if _, err := c.Write(burst); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := fake.answering.Load(); n != 2 {
			t.Errorf("got %d queries under way; want 2", n)
		}
		if n := got.Load(); n != 1 {
			t.Errorf("got %d replies; want the one from before the bound", n)
		}
		close(fake.release)
		synctest.Wait()
		if n := got.Load(); n != int64(len(names)) {
			t.Errorf("got %d replies; want %d", n, len(names))
		}
	})
}

// writeCounter counts writes to a connection whose client sends all of in, and then a FIN.
type writeCounter struct {
	net.Conn
	in     io.Reader
	out    bytes.Buffer
	writes int
}

func (w *writeCounter) Read(b []byte) (int, error)       { return w.in.Read(b) }
func (w *writeCounter) SetReadDeadline(time.Time) error  { return nil }
func (w *writeCounter) SetWriteDeadline(time.Time) error { return nil }
func (w *writeCounter) Close() error                     { return nil }
func (w *writeCounter) Write(b []byte) (int, error) {
	w.writes++
	return w.out.Write(b)
}

func serveCounted(t testing.TB, in io.Reader) *writeCounter {
	w := &writeCounter{in: in}
	f := newFrontend(newFake(), Limits{}.withDefaults(), zerolog.Nop())
	st := &stream{frontend: f, slot: testSlot(f, TCP), q: query{transport: TCP}, waiting: make(chan struct{}, 100)}
	st.c = flushConn{w, st.flush}
	st.serve(t.Context(), t.Context())
	return w
}

func TestStreamBurst(t *testing.T) {
	var in, want []byte
	for id := range uint16(40) {
		msg := wireQuery(t, "now.example", id)
		in = append(in, frame(msg)...)
		want = append(want, frame(wantReply(msg, TCP))...)
	}
	w := serveCounted(t, bytes.NewReader(in))
	if w.writes != 1 {
		t.Errorf("got %d writes; want 1", w.writes)
	}
	if got := w.out.Bytes(); !bytes.Equal(got, want) {
		t.Errorf("got %x; want %x", got, want)
	}
}

func TestStreamAllocates(t *testing.T) {
	var in []byte
	for id := range uint16(40) {
		in = append(in, frame(wireQuery(t, "now.example", id))...)
	}
	f := newFrontend(newFake(), Limits{}.withDefaults(), zerolog.Nop())
	st := &stream{frontend: f, slot: testSlot(f, TCP), q: query{transport: TCP}, waiting: make(chan struct{}, 100)}
	st.c = &writeCounter{}
	st.in = make([]byte, 0, streamBuffer)
	got := testing.AllocsPerRun(100, func() {
		st.c.(*writeCounter).out.Reset()
		st.in = append(st.in[:0], in...)
		if err := errors.Join(st.answerAll(t.Context()), st.flush()); err != nil {
			t.Error(err)
		}
	})
	if got > 4 { // what the pool has lost, which the race detector makes it do on purpose
		t.Errorf("got %v allocations for 40 cached answers; want at most 4", got)
	}
}

// chunks reads b in pieces of the sizes in cuts, and then the rest.
type chunks struct{ b, cuts []byte }

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := len(c.b)
	if len(c.cuts) > 0 {
		n = min(n, 1+int(c.cuts[0]))
		c.cuts = c.cuts[1:]
	}
	n = copy(p, c.b[:n])
	c.b = c.b[n:]
	return n, nil
}

// How a stream is cut into segments changes nothing.
func FuzzStreamSegments(f *testing.F) {
	q := wireQuery(f, "now.example", 1)
	f.Add(append(frame(q), frame(q)...), []byte{0, 1, 30})
	f.Add(append(frame(bytes.Repeat(q, 200)), frame(q)...), []byte{255, 3}) // longer than the first buffer
	f.Add(append(frame(q), 0xff, 0xff, 1), []byte{})                        // a promise that is not kept
	f.Add([]byte{0, 0}, []byte{})
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		if bytes.Contains(in, []byte("slow")) || bytes.Contains(in, []byte("late")) || bytes.Contains(in, []byte("silent")) {
			return // answered in any order
		}
		var want []byte
		for rest := in; ; {
			msg, tail, ok := cutMessage(rest)
			if !ok {
				break
			}
			rest = tail
			r, did := newFake().answerNow(&query{msg: msg, transport: TCP}, nil)
			if did != answered || len(r) > maxMessage {
				break
			}
			want = append(want, frame(r)...)
		}
		if got := serveCounted(t, &chunks{in, cuts}).out.Bytes(); !bytes.Equal(got, want) {
			t.Errorf("got %x; want %x", got, want)
		}
	})
}

// A client that has sent a FIN still gets all its answers.
func TestHalfClose(t *testing.T) {
	type halfCloser interface {
		net.Conn
		CloseWrite() error
	}
	for name, dial := range map[string]func(*testServer) halfCloser{
		"tcp": func(s *testServer) halfCloser { return tcpConn(t, s.Addrs().Do53[0]).(*net.TCPConn) },
		"dot": func(s *testServer) halfCloser { return dotConn(t, s) },
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, nil)
			c := dial(s)
			for id := range uint16(3) {
				if _, err := c.Write(frame(wireQuery(t, "slow.example", id))); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all queries wait", func() bool { return s.Stats().InFlight == 3 })
			close(s.fake.release)
			var ids []uint16
			for {
				b, err := readFrame(c)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, binary.BigEndian.Uint16(b))
			}
			if slices.Sort(ids); !slices.Equal(ids, []uint16{0, 1, 2}) {
				t.Errorf("got answers to %v; want 0, 1, 2", ids)
			}
		})
	}
}

// A client that resets its connection takes its queries along.
func TestResetCancels(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Limits.QueryTimeout = time.Hour })
	c := tcpConn(t, s.Addrs().Do53[0]).(*net.TCPConn)
	if _, err := c.Write(frame(wireQuery(t, "slow.example", 1))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the query waits", func() bool { return s.Stats().InFlight == 1 })
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is in flight", func() bool { return s.Stats().InFlight == 0 })
}

// A length is a promise: memory grows with what has come. (A3)
func TestPromisedLength(t *testing.T) {
	const conns, perConn = 500, 24 << 10
	s := startServer(t, func(c *Config) { c.Limits = Limits{ConnectionsPerClient: conns + 1, ReadTimeout: time.Hour} })
	before := heap()
	for range conns {
		if _, err := tcpConn(t, s.Addrs().Do53[0]).Write([]byte{0xff, 0xff, 1}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are connected", func() bool { return s.Stats().Connections[TCP] == conns })
	if got := heap() - before; got > conns*perConn {
		t.Errorf("got %d octets more for %d connections; want at most %d each", got, conns, perConn)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

func TestDoTHandshake(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Limits.ReadTimeout = 100 * time.Millisecond })
	for _, test := range []struct {
		name   string
		change func(*tls.Config)
		ok     bool
	}{
		{"dot", func(c *tls.Config) {}, true},
		{"no-alpn", func(c *tls.Config) { c.NextProtos = nil }, true},
		{"no-sni", func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "", true }, true},
		{"name", func(c *tls.Config) { c.ServerName = "dns.example" }, true},
		{"other-alpn", func(c *tls.Config) { c.NextProtos = []string{"h2"} }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			conf := s.clientTLS("dot")
			test.change(conf)
			c, err := tls.Dial("tcp", s.Addrs().DoT[0].String(), conf)
			if (err == nil) != test.ok {
				t.Fatalf("got %v; want success: %t", err, test.ok)
			}
			if err != nil {
				return
			}
			defer c.Close()
			if _, err := overStream(t, c)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("stalled", func(t *testing.T) {
		for _, hello := range [][]byte{nil, {22, 3, 1, 2}} {
			c := tcpConn(t, s.Addrs().DoT[0])
			if _, err := c.Write(hello); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("after %x: got %d octets; want the end", hello, n)
			}
		}
	})
}

// Every accepted connection is served, and closed, whatever it sends.
func TestStreamGarbage(t *testing.T) {
	s := startServer(t, nil)
	for i, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00", "\x00\x01a", "\x00\x0d" + "0123456789abc"} {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			c := tcpConn(t, s.Addrs().Do53[0])
			if _, err := fmt.Fprint(c, garbage); err != nil {
				t.Fatal(err)
			}
			c.(*net.TCPConn).CloseWrite()
			if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, io.EOF) {
				t.Log(err)
			}
		})
	}
	eventually(t, "all are gone", func() bool { return s.Stats().Connections[TCP] == 0 })
}
