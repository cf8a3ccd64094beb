package h2

import (
	"bytes"
	"io"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Whatever a client sends after its preface, and however it is cut: what we send is well-formed HTTP/2, each stream has
// one response at most, and what is kept is within its bounds. The judge is golang.org/x/net/http2.
func FuzzConn(f *testing.F) {
	f.Add(appendGets(nil, 1, 3), []byte{})
	f.Add(appendGets(nil, 1, 3), []byte{0, 3, 9})
	var post bytes.Buffer
	fr := http2.NewFramer(&post, nil)
	fr.AllowIllegalWrites = true
	fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 20})
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(postFields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: postFields[i], Value: postFields[i+1]})
	}
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes()[:5], PadLength: 3})
	fr.WriteContinuation(1, true, block.Bytes()[5:])
	fr.WriteDataPadded(1, false, []byte("late.example")[:8], []byte{0, 0})
	fr.WriteData(1, true, []byte("late.example")[8:])
	fr.WritePing(false, [8]byte{1})
	fr.WriteWindowUpdate(1, 5)
	fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}, http2.Setting{ID: http2.SettingHeaderTableSize})
	fr.WriteRSTStream(1, http2.ErrCodeCancel)
	fr.WritePriority(3, http2.PriorityParam{})
	fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	f.Add(post.Bytes(), []byte{50})
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		w := &writeCounter{in: &chunks{append([]byte(http2.ClientPreface+emptySettings), in...), cuts}}
		h := newConn(t.Context(), New(withDefaults(Config{MaxConcurrent: 5}, newFake())), w, w, nil)
		w.BeforeRead(func() error { checkBounds(t, h); return h.beforeRead() })
		h.end(h.serve(t.Context()))
		checkOutput(t, w.out.Bytes())
	})
}

func checkBounds(t *testing.T, h *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.session
	held, open := 0, 0
	for _, st := range s.streams {
		held += len(st.received) + len(st.rest)
		if st.state != streamReset {
			open++
		}
	}
	if held > testWindow+maxQueued || open != s.open || open > 5 || len(s.streams) > 10 || len(s.block) > 2*testMaxHeader {
		t.Fatalf("got %d octets held by %d of %d streams (%d counted), block of %d", held, open, len(s.streams), s.open, len(s.block))
	}
	if s.credit < 0 || s.recvWindow < 0 || s.queued < 0 || s.recvWindow+s.credit > testWindow || s.running < 0 {
		t.Fatalf("got credit %d, window %d, queued %d, running %d", s.credit, s.recvWindow, s.queued, s.running)
	}
}

func checkOutput(t *testing.T, out []byte) {
	fr := http2.NewFramer(io.Discard, bytes.NewReader(out))
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	ended := make(map[uint32]bool)
	for {
		frame, err := fr.ReadFrame()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatalf("our own output: %v", err)
		}
		var ends bool
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			ends = frame.StreamEnded()
		case *http2.DataFrame:
			ends = frame.StreamEnded()
		default:
			continue
		}
		id := frame.Header().StreamID
		if ended[id] {
			t.Fatalf("more on stream %d after its end", id)
		}
		ended[id] = ends
	}
}
