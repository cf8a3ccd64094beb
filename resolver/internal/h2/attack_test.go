package h2

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// A stream that was reset has no window any more that could overflow: the client may already know that it is closed.
func TestWindowOfResetStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{}, "")
		c.headers(1, false, postFields...)
		c.WriteWindowUpdate(1, 1<<31-1-defaultWindow)
		c.WriteWindowUpdate(1, 1)
		c.want("1 FLOW_CONTROL_ERROR")
		c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		c.want("SETTINGS true")
	})
}

// Room comes back also when it is time that frees it: a client that waits for room sends nothing.
func TestWindowComesBackInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{}, "")
		for id := uint32(1); id <= 3; id += 2 {
			c.headers(id, false, postFields...)
			for range 3 {
				c.WriteData(id, false, make([]byte, maxFrame))
			}
		}
		c.want()
		time.Sleep(6 * time.Second)
		if got := strings.Join(c.take(), ", "); !strings.Contains(got, fmt.Sprintf("WINDOW 0 %d", 6*maxFrame)) {
			t.Errorf("got %s; want all room back", got)
		}
	})
}

// A header that cannot be sent takes nothing along that the client's decoder has to have.
func TestResizeAfterTooLargeHeader(t *testing.T) {
	h, w := counted(t)
	block := append([]byte{0x82, 0x87, 0x04, 7}, "/header"...)
	h.in = append(append(h.in, 0, 0, byte(len(block)), 1, 5, 0, 0, 0, 1), block...)
	if err := h.receive(); err != nil {
		t.Fatal(err)
	}
	h.in = appendGets(h.in, 3, 1)
	if err := h.receive(); err != nil {
		t.Fatal(err)
	}
	if err := h.beforeRead(); err != nil {
		t.Fatal(err)
	}
	var got []uint8
	for rest := w.out.Bytes(); len(rest) > 0; {
		f, tail, err := cutFrame(rest)
		if err != nil || tail == nil {
			t.Fatalf("cut: %v", err)
		}
		got = append(got, f.kind)
		if rest = tail; f.kind == frameHeaders && f.payload[0] != 0x20 {
			t.Errorf("got a first block that begins with %#x; want a size update", f.payload[0])
		}
	}
	if want := []uint8{frameSettings, frameWindowUpdate, frameSettings, frameRSTStream, frameHeaders, frameData}; !slices.Equal(got, want) {
		t.Errorf("got frames %v; want %v", got, want)
	}
}

// Control frames do not prolong the life of a connection without a request, whole or in halves. Each half is in time:
// before, a new half began a new time to read.
func TestControlFramesDoNotKeep(t *testing.T) {
	const ping = "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"
	for name, parts := range map[string][]string{
		"whole":  {ping},
		"halves": {ping[:8], ping[8:] + ping[:8]},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := pipe(t, Config{IdleTimeout: 10 * time.Second, ReadTimeout: 5 * time.Second}, "")
				for i := range 3 {
					if _, err := io.WriteString(c.c, parts[min(i, len(parts)-1)]); err != nil {
						t.Fatalf("ended after %d s: %v", 4*i, err)
					}
					time.Sleep(4 * time.Second)
				}
				c.wait()
				if !isDone(c.ended) {
					t.Error("not ended after 12 s without a request; want 10 s")
				}
			})
		})
	}
}

// A handler that says Pending although no more requests can wait refuses them, and loses nothing.
func TestPendingBeyondLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, Config{MaxConcurrent: 1}, "")
		c.get(1, "deaf.example") // goes on when its stream is reset
		c.WriteRSTStream(1, http2.ErrCodeCancel)
		c.get(3, "late.example")
		c.get(5, "now.example")
		c.want("3 REFUSED_STREAM", "5 200", "5 DATA 12 true")
		close(c.handler.release)
		c.wait()
		c.get(7, "late.example")
		c.want("7 200", "7 DATA 13 true")
	})
}
