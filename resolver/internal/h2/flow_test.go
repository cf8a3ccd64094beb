package h2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// Bodies: in pieces, padded, of the wrong length, too long, with trailers, late.
func TestBodies(t *testing.T) {
	msg := []byte("now.example")
	answer := []string{"1 200", fmt.Sprintf("1 DATA %d true", len(msg)+1)}
	length := func(n int) []string { return append(slices.Clone(postFields), "content-length", fmt.Sprint(n)) }
	for _, test := range []struct {
		name   string
		fields []string
		send   func(c *client)
		want   []string
	}{
		{"whole", postFields, func(c *client) { c.WriteData(1, true, msg) }, answer},
		{"length", length(len(msg)), func(c *client) { c.WriteData(1, true, msg) }, answer},
		{"pieces", postFields, func(c *client) {
			for i := range msg {
				c.WriteData(1, i == len(msg)-1, msg[i:i+1])
			}
		}, answer},
		{"end-later", postFields, func(c *client) { c.WriteData(1, false, msg); c.WriteData(1, true, nil) }, answer},
		{"padded", postFields, func(c *client) { c.WriteDataPadded(1, true, msg, make([]byte, 200)) }, answer},
		{"trailers", postFields, func(c *client) { c.WriteData(1, false, msg); c.headers(1, true, "x", "y") }, answer},
		{"trailers-not-last", postFields, func(c *client) { c.headers(1, false, "x", "y") }, []string{"1 PROTOCOL_ERROR"}},
		{"trailers-pseudo", postFields, func(c *client) { c.headers(1, true, ":method", "GET") }, []string{"1 PROTOCOL_ERROR"}},
		{"empty", postFields, func(c *client) { c.WriteData(1, true, nil) }, []string{"1 400"}},
		{"shorter", length(len(msg) + 1), func(c *client) { c.WriteData(1, true, msg) }, []string{"1 PROTOCOL_ERROR"}},
		{"longer", length(len(msg) - 1), func(c *client) { c.WriteData(1, true, msg) }, []string{"1 PROTOCOL_ERROR"}},
		{"announced-too-long", length(testMaxBody + 1), func(c *client) {}, []string{"1 413", "1 NO_ERROR"}},
		{"too-long", postFields, func(c *client) {
			for range 5 {
				c.WriteData(1, false, make([]byte, maxFrame))
			}
		}, []string{"1 413", "1 NO_ERROR", "WINDOW 0 65536"}},
		{"beyond-window", getFields("slow.example"), func(c *client) {
			for range 6 {
				c.WriteData(1, false, make([]byte, maxFrame))
			}
		}, []string{"WINDOW 0 32768", "WINDOW 0 32768", "1 FLOW_CONTROL_ERROR", "WINDOW 0 32768"}},
		{"never", postFields, func(c *client) { time.Sleep(6 * time.Second) }, []string{"1 408", "1 NO_ERROR"}},
		{"asks", append(slices.Clone(postFields), "expect", "100-continue"), func(c *client) {}, []string{"1 100"}},
		{"other-type", postFields[:8], func(c *client) { c.WriteData(1, true, msg) }, []string{"1 415"}},
		{"get", getFields("now.example"), func(c *client) {}, answer},
		{"get-never", getFields("now.example"), func(c *client) { time.Sleep(6 * time.Second) }, append(slices.Clone(answer), "1 NO_ERROR")},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := pipe(t, Config{}, "")
				c.headers(1, false, test.fields...)
				test.send(c)
				c.want(test.want...)
			})
		})
	}
}

// As many messages as one likes go over a connection, with as much padding: the windows are given back.
func TestWindowsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{}, "")
		msg := append([]byte("now.example"), make([]byte, 50000)...)
		var stream, conn int
		room := testWindow
		for id := uint32(1); id < 40; id += 2 {
			c.WriteWindowUpdate(0, uint32(len(msg)+1))
			c.headers(id, false, postFields...)
			for rest := msg; len(rest) > 0; rest = rest[min(len(rest), 1000):] {
				pad := 100
				c.WriteDataPadded(id, len(rest) <= 1000, rest[:min(len(rest), 1000)], make([]byte, pad))
				room -= min(len(rest), 1000) + pad + 1
			}
			for _, e := range c.take() {
				var on, n int
				if k, _ := fmt.Sscanf(e, "WINDOW %d %d", &on, &n); k == 2 && on == 0 {
					room += n
					conn++
				} else if k == 2 {
					stream++
				}
			}
			if room < len(msg) {
				t.Fatalf("stream %d: got %d octets of room", id, room)
			}
		}
		if conn == 0 || stream == 0 {
			t.Errorf("got %d, %d WINDOW_UPDATEs for connection and streams", conn, stream)
		}
		c.conn.mu.Lock()
		defer c.conn.mu.Unlock()
		if got := c.conn.session.recvWindow + c.conn.session.credit; got != testWindow || c.conn.session.open != 0 {
			t.Errorf("got a window of %d with %d streams; want %d, 0", got, c.conn.session.open, testWindow)
		}
	})
}

// A response waits for room, on its stream and on the connection, and is given up if there never is.
func TestResponseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{}, "", http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
		c.get(1, "large.example")
		c.want("1 200", "1 DATA 10 false")
		c.WriteWindowUpdate(1, 5)
		c.want("1 DATA 5 false")
		c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		c.WriteWindowUpdate(1, 10)
		c.want("SETTINGS true")
		c.WriteWindowUpdate(1, 1<<20)
		c.want("1 DATA 16384 false", "1 DATA 16384 false", "1 DATA 16384 false", fmt.Sprintf("1 DATA %d true", largeReply-15-3*maxFrame))
		c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		c.take()
		c.get(3, "large.example")
		c.want("3 200", fmt.Sprintf("3 DATA %d false", defaultWindow-largeReply))
		time.Sleep(testWriteTimeout + time.Second)
		c.want("3 CANCEL")
		c.get(5, "large.example")
		c.WriteWindowUpdate(0, largeReply-100)
		c.want("5 200", "5 DATA 16384 false", "5 DATA 16384 false", "5 DATA 16384 false", fmt.Sprintf("5 DATA %d false", largeReply-100-3*maxFrame))
		c.WriteRSTStream(5, http2.ErrCodeCancel)
		c.wait()
		if c.conn.session.open != 0 || c.conn.session.queued != 0 || len(c.conn.session.blocked) != 0 {
			t.Errorf("got %d streams, %d octets queued", c.conn.session.open, c.conn.session.queued)
		}
	})
}

// What is kept for a client without room is bounded.
func TestQueueBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{}, "", http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for i := range uint32(8) {
			c.get(2*i+1, "large.example")
		}
		got := strings.Join(c.take(), ", ")
		if !strings.HasSuffix(got, "11 ENHANCE_YOUR_CALM, 13 200, 13 ENHANCE_YOUR_CALM, 15 200, 15 ENHANCE_YOUR_CALM") {
			t.Errorf("got %s", got)
		}
		if c.conn.session.queued > maxQueued {
			t.Errorf("got %d octets queued", c.conn.session.queued)
		}
	})
}

// More streams than were granted are refused, and so are those whose predecessors were reset and still run.
func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{MaxConcurrent: 2}, "")
		for id := uint32(1); id <= 5; id += 2 {
			c.get(id, "slow.example")
		}
		c.want("5 REFUSED_STREAM")
		c.get(7, "now.example")
		c.want("7 REFUSED_STREAM")
		c.WriteRSTStream(1, http2.ErrCodeCancel)
		c.wait()
		if n := c.handler.answering.Load(); n != 1 {
			t.Errorf("got %d queries under way; want 1", n)
		}
		c.get(9, "now.example")
		c.get(11, "late.example")
		if got := c.take(); len(got) != 4 || got[0] != "9 200" || got[2] != "11 200" {
			t.Errorf("got %q; want answers on 9 and 11", got)
		}
		close(c.handler.release)
		if got := c.take(); len(got) != 2 || got[0] != "3 200" {
			t.Errorf("got %q; want the answer on 3", got)
		}
	})
}

// Floods of what costs the client nothing end the connection. (A13)
func TestFloods(t *testing.T) {
	for name, send := range map[string]func(c *client, id uint32){
		"ping":       func(c *client, _ uint32) { c.WritePing(false, [8]byte{}) },
		"settings":   func(c *client, _ uint32) { c.WriteSettings() },
		"priority":   func(c *client, id uint32) { c.WritePriority(id, http2.PriorityParam{}) },
		"unknown":    func(c *client, _ uint32) { c.WriteRawFrame(0xee, 0, 0, nil) },
		"window":     func(c *client, _ uint32) { c.WriteWindowUpdate(0, 1) },
		"empty-data": func(c *client, _ uint32) { c.headers(1, false, postFields...); c.WriteData(1, false, nil) },
		"reset":      func(c *client, id uint32) { c.get(id, "slow.example"); c.WriteRSTStream(id, http2.ErrCodeCancel) },
		"made-reset": func(c *client, id uint32) {
			c.get(id, "slow.example")
			c.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4))
		},
		"malformed": func(c *client, id uint32) { c.headers(id, true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := pipe(t, Config{}, "")
				for i := range uint32(allowanceBurst + 10) {
					if name == "empty-data" && i > 0 {
						c.WriteData(1, false, nil)
						continue
					}
					send(c, 2*i+1)
				}
				got := c.take()
				if n := len(got); n < 2 || !strings.HasSuffix(got[n-2], "ENHANCE_YOUR_CALM") || got[n-1] != connEnds {
					t.Errorf("got %d frames, at last %q; want ENHANCE_YOUR_CALM", n, got[max(0, n-2):])
				}
				if n := c.handler.maxAnswering.Load(); n > 100 {
					t.Errorf("got %d queries under way; want at most 100", n)
				}
			})
		})
	}
}

// A client earns control frames with each answer: many send a WINDOW_UPDATE for each response.
func TestControlFramesAreEarned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{}, "")
		for i := range uint32(2 * allowanceBurst) {
			c.get(2*i+1, "now.example")
			c.WriteWindowUpdate(0, 60)
			c.WriteWindowUpdate(2*i+1, 60)
		}
		if got := c.take(); len(got) != 4*allowanceBurst {
			t.Errorf("got %d frames, at last %q; want %d", len(got), got[len(got)-1], 4*allowanceBurst)
		}
	})
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{IdleTimeout: 8 * time.Second}, "")
		for i := range uint32(5) { // each request moves the end
			time.Sleep(6 * time.Second)
			c.get(2*i+1, "now.example")
		}
		c.get(99, "slow.example")
		time.Sleep(time.Minute) // the client waits for us
		c.WritePing(false, [8]byte{})
		c.take()
		close(c.handler.release)
		c.wait()
		time.Sleep(7 * time.Second)
		c.WritePing(false, [8]byte{}) // moves nothing
		if got := c.take(); slices.Contains(got, connEnds) {
			t.Fatalf("got %q within 8 s", got)
		}
		time.Sleep(2 * time.Second)
		c.want("GOAWAY 99 NO_ERROR", connEnds)
	})
}

// A frame, a header block, and the preface have ReadTimeout.
func TestStalled(t *testing.T) {
	for name, send := range map[string]func(c *client){
		"frame": func(c *client) { c.c.Write([]byte{0, 0}) },
		"block": func(c *client) { c.WriteRawFrame(http2.FrameHeaders, 0, 1, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := pipe(t, Config{IdleTimeout: time.Hour}, "")
				send(c)
				time.Sleep(4 * time.Second)
				c.want()
				time.Sleep(2 * time.Second)
				c.want("GOAWAY 0 NO_ERROR", connEnds)
			})
		})
	}
	t.Run("preface", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := pipe(t, Config{IdleTimeout: time.Hour}, "PRI")
			time.Sleep(6 * time.Second)
			c.want("SETTINGS false", "WINDOW 0 65537", "GOAWAY 0 NO_ERROR", connEnds)
		})
	})
}

// The connection of a client that reads nothing ends.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{}, "")
		c.gate <- struct{}{}
		go func() {
			for i := range uint32(100) {
				c.get(2*i+1, "now.example")
			}
		}()
		time.Sleep(testWriteTimeout + time.Second)
		c.wait()
		if !isDone(c.ended) {
			t.Error("not ended")
		}
		<-c.gate
	})
}

// The end is announced; requests that arrive before the client knows of it are answered; the connection ends when all
// are.
func TestStop(t *testing.T) {
	for _, knows := range []bool{true, false} {
		t.Run(fmt.Sprintf("client-knows-%t", knows), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := pipe(t, Config{}, "")
				c.get(1, "slow.example")
				c.wait()
				c.stop()
				c.want("GOAWAY 2147483647 NO_ERROR", "PING false cfrddrai")
				c.get(3, "now.example")
				c.want("3 200", "3 DATA 12 true")
				if knows {
					c.WritePing(true, [8]byte([]byte("cfrddrai")))
				} else {
					time.Sleep(2 * time.Second)
				}
				c.want("GOAWAY 3 NO_ERROR")
				c.get(5, "now.example")
				c.want("5 REFUSED_STREAM")
				close(c.handler.release)
				c.want("1 200", "1 DATA 13 true", connEnds)
			})
		})
	}
}

const emptySettings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// counted returns a connection that is served by hand.
func counted(tb testing.TB) (*conn, *writeCounter) {
	w := &writeCounter{}
	h := newConn(tb.Context(), New(withDefaults(Config{}, newFake())), w, w, nil)
	h.in = append(h.in, http2.ClientPreface+emptySettings...)
	if err := h.greet(); err != nil {
		tb.Fatal(err)
	}
	return h, w
}

// appendGets appends requests in which nothing allocates but the path.
func appendGets(b []byte, first uint32, n int) []byte {
	w := bytes.NewBuffer(b)
	f := http2.NewFramer(w, nil)
	path := getFields("now.example")[7]
	block := append([]byte{0x82, 0x87, 0x14, byte(len(path))}, path...) // see RFC 7541, Section 6.2.3
	for i := range n {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: first + 2*uint32(i), BlockFragment: block, EndHeaders: true, EndStream: true})
	}
	return w.Bytes()
}

// A burst of answers is one write, and costs an allocation each: the path that hpack makes a string of.
func TestBurstAllocates(t *testing.T) {
	const burst = 40
	h, w := counted(t)
	id := uint32(1)
	var got float64
	step := func() {
		h.in = appendGets(h.in, id, burst)
		id += 2 * burst
		w.out.Reset()
		w.writes = 0
	}
	serve := func() {
		if err := h.receive(); err != nil {
			t.Fatal(err)
		}
		if err := h.beforeRead(); err != nil {
			t.Fatal(err)
		}
	}
	step()
	serve()
	if w.writes != 1 {
		t.Errorf("got %d writes; want 1", w.writes)
	}
	step()
	in := bytes.Clone(h.in)
	got = testing.AllocsPerRun(100, func() {
		w.out.Reset()
		h.in = append(h.in[:0], in...)
		for rest := h.in; len(rest) > 0; id += 2 {
			binary.BigEndian.PutUint32(rest[5:], id)
			_, rest, _ = cutFrame(rest)
		}
		serve()
	})
	if got > burst+8 && !raceDetector { // the rest is what pools have lost
		t.Errorf("got %v allocations for %d answers; want at most one each", got, burst)
	}
}
