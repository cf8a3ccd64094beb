package resolver

import (
	"bytes"
	"io"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Whatever a client sends behind its preface, and however it is cut: what we send is well-formed HTTP/2, each stream has
// one response at most, and what is kept is within its bounds. The judge is golang.org/x/net/http2.
func FuzzH2(f *testing.F) {
	f.Add(appendH2Gets(f, nil, 1, 3), []byte{})
	f.Add(appendH2Gets(f, nil, 1, 3), []byte{0, 3, 9})
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
	fr.WriteDataPadded(1, false, wireQuery(f, "late.example", 1)[:8], []byte{0, 0})
	fr.WriteData(1, true, wireQuery(f, "late.example", 1)[8:])
	fr.WritePing(false, [8]byte{1})
	fr.WriteWindowUpdate(1, 5)
	fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}, http2.Setting{ID: http2.SettingHeaderTableSize})
	fr.WriteRSTStream(1, http2.ErrCodeCancel)
	fr.WritePriority(3, http2.PriorityParam{})
	fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	f.Add(post.Bytes(), []byte{50})
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		w := &writeCounter{in: &chunks{append([]byte(http2.ClientPreface+emptySettings), in...), cuts}}
		d := newDoH(newFrontend(newFake(), Limits{InFlightPerConn: 5}.withDefaults(), zerolog.Nop()), DefaultDoHPath, 443)
		h := newH2Conn(t.Context(), d, nil, &peer{transport: DoH})
		h.c = flushConn{w, func() error { checkH2Bounds(t, h); return h.beforeRead() }}
		h.end(h.serve(t.Context()))
		checkH2Output(t, w.out.Bytes())
	})
}

func checkH2Bounds(t *testing.T, h *h2Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held, open := 0, 0
	for _, s := range h.streams {
		held += len(s.msg) + len(s.rest)
		if s.state != h2Gone {
			open++
		}
	}
	if held > h2RecvWindow+h2MaxQueued || open != h.open || open > 5 || len(h.streams) > 10 || len(h.block) > h2BlockSize {
		t.Fatalf("got %d octets held by %d of %d streams (%d counted), block of %d", held, open, len(h.streams), h.open, len(h.block))
	}
	if h.credit < 0 || h.recvWindow < 0 || h.queued < 0 || h.recvWindow+h.credit > h2RecvWindow || h.running < 0 {
		t.Fatalf("got credit %d, window %d, queued %d, running %d", h.credit, h.recvWindow, h.queued, h.running)
	}
}

func checkH2Output(t *testing.T, out []byte) {
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
			t.Fatalf("more on stream %d behind its end", id)
		}
		ended[id] = ends
	}
}
