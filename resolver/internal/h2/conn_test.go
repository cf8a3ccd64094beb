package h2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// client speaks to a conn over a pipe, frame by frame, for tests in bubbles.
type client struct {
	*http2.Framer
	t       *testing.T
	c       net.Conn
	handler *fakeHandler
	conn    *conn
	stop    context.CancelFunc
	ended   <-chan struct{}
	block   bytes.Buffer
	enc     *hpack.Encoder

	mu     sync.Mutex
	events []string      // what came, a line per frame
	gate   chan struct{} // full, nothing is read
}

// pipe serves one connection, on which the client has sent raw, or its preface and SETTINGS if that is empty.
func pipe(t *testing.T, cfg Config, raw string, settings ...http2.Setting) *client {
	far, near := net.Pipe()
	c := &client{t: t, c: far, handler: newFake(), gate: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	stopping, stop := context.WithCancel(t.Context())
	lower := &fakeLower{Conn: near}
	c.conn, c.stop = newConn(ctx, New(withDefaults(cfg, c.handler)), lower, lower, nil), stop
	lower.BeforeRead(c.conn.beforeRead)
	ended := make(chan struct{})
	c.ended = ended
	go func() {
		c.conn.end(c.conn.serve(stopping))
		cancel()
		near.Close()
		close(ended)
	}()
	c.Framer = http2.NewFramer(far, far)
	c.AllowIllegalWrites = true
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.enc = hpack.NewEncoder(&c.block)
	go c.receive()
	t.Cleanup(func() { far.Close(); <-ended })
	if raw != "" {
		io.WriteString(far, raw)
		return c
	}
	io.WriteString(far, http2.ClientPreface)
	c.WriteSettings(settings...)
	c.wait()
	c.take()
	return c
}

func (c *client) receive() {
	for {
		c.gate <- struct{}{}
		<-c.gate
		f, err := c.ReadFrame()
		if err != nil {
			c.add("end")
			return
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			event := fmt.Sprintf("%d %s", f.StreamID, f.PseudoValue("status"))
			if length := f.RegularFields(); f.StreamEnded() && len(length) > 1 {
				event += " " + length[len(length)-2].Value // of a response to HEAD
			}
			c.add(event)
		case *http2.DataFrame:
			c.add(fmt.Sprintf("%d DATA %d %t", f.StreamID, len(f.Data()), f.StreamEnded()))
		case *http2.RSTStreamFrame:
			c.add(fmt.Sprintf("%d %s", f.StreamID, f.ErrCode))
		case *http2.GoAwayFrame:
			c.add(fmt.Sprintf("GOAWAY %d %s", f.LastStreamID, f.ErrCode))
		case *http2.WindowUpdateFrame:
			c.add(fmt.Sprintf("WINDOW %d %d", f.StreamID, f.Increment))
		case *http2.PingFrame:
			c.add(fmt.Sprintf("PING %t %s", f.IsAck(), f.Data[:]))
		case *http2.SettingsFrame:
			c.add(fmt.Sprintf("SETTINGS %t", f.IsAck()))
		default:
			c.add(f.Header().Type.String())
		}
	}
}

func (c *client) add(event string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, event)
}

func (c *client) wait() { synctest.Wait() }

// take returns what came since it was last called.
func (c *client) take() []string {
	c.wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	events := c.events
	c.events = nil
	return events
}

func (c *client) want(want ...string) {
	c.t.Helper()
	if got := c.take(); !slices.Equal(got, want) {
		c.t.Errorf("got %q; want %q", got, want)
	}
}

// fields returns a header block of name, value, name, value.
func (c *client) fields(nameValue ...string) []byte {
	c.block.Reset()
	for i := 0; i < len(nameValue); i += 2 {
		c.enc.WriteField(hpack.HeaderField{Name: nameValue[i], Value: nameValue[i+1]})
	}
	return bytes.Clone(c.block.Bytes())
}

func (c *client) headers(id uint32, ends bool, nameValue ...string) {
	c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.fields(nameValue...), EndHeaders: true, EndStream: ends})
}

func getFields(name string) []string {
	return []string{":method", "GET", ":scheme", "https", ":authority", "www.example", ":path", "/" + name}
}

var postFields = []string{":method", "POST", ":scheme", "https", ":authority", "www.example", ":path", "/post", "content-type", textPlain}

func (c *client) get(id uint32, name string) { c.headers(id, true, getFields(name)...) }

const connEnds = "end"

// What a client may do wrong on a connection, and what it gets. See RFC 9113.
func TestViolations(t *testing.T) {
	msg := []byte("now.example")
	reply := fmt.Sprintf("DATA %d true", len(msg)+1)
	raw := func(kind http2.FrameType, flags http2.Flags, id uint32, payload string) func(c *client) {
		return func(c *client) { c.WriteRawFrame(kind, flags, id, []byte(payload)) }
	}
	opened := func(next func(c *client)) func(c *client) {
		return func(c *client) { c.headers(1, false, postFields...); next(c) }
	}
	waiting := func(next func(c *client)) func(c *client) {
		return func(c *client) { c.get(1, "slow.example"); next(c) }
	}
	answered := func(next func(c *client)) func(c *client) {
		return func(c *client) { c.get(1, "now.example"); c.take(); next(c) }
	}
	fields := func(nameValue ...string) func(c *client) {
		return func(c *client) { c.headers(1, true, nameValue...) }
	}
	with := func(nameValue ...string) func(c *client) {
		return fields(append(getFields("now.example"), nameValue...)...)
	}
	goAway := func(last int, code string) []string {
		return []string{fmt.Sprintf("GOAWAY %d %s", last, code), connEnds}
	}
	malformed := []string{"1 PROTOCOL_ERROR"}
	for _, test := range []struct {
		name string
		send func(c *client)
		want []string
	}{
		{"data-on-0", raw(http2.FrameData, 0, 0, "x"), goAway(0, "PROTOCOL_ERROR")},
		{"data-idle", raw(http2.FrameData, 0, 1, "x"), goAway(0, "PROTOCOL_ERROR")},
		{"data-bad-padding", opened(raw(http2.FrameData, http2.FlagDataPadded, 1, "\x02x")), goAway(1, "PROTOCOL_ERROR")},
		{"data-half-closed", waiting(raw(http2.FrameData, 0, 1, "x")), []string{"1 STREAM_CLOSED"}},
		{"data-closed", answered(raw(http2.FrameData, 0, 1, "x")), []string{"1 STREAM_CLOSED"}},
		{"data-twice-closed", answered(func(c *client) { c.WriteData(1, false, msg); c.WriteData(1, true, msg) }), []string{"1 STREAM_CLOSED"}},
		{"headers-on-0", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 0, "\x82"), goAway(0, "PROTOCOL_ERROR")},
		{"headers-even", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 2, "\x82"), goAway(0, "PROTOCOL_ERROR")},
		{"headers-closed", answered(func(c *client) { c.get(1, "now.example") }), goAway(1, "STREAM_CLOSED")},
		{"headers-half-closed", waiting(func(c *client) { c.get(1, "now.example") }), []string{"1 STREAM_CLOSED"}},
		{"headers-smaller", func(c *client) { c.get(5, "slow.example"); c.get(3, "now.example") }, goAway(5, "PROTOCOL_ERROR")},
		{"headers-bad-padding", raw(http2.FrameHeaders, http2.FlagHeadersPadded, 1, "\x05\x82"), goAway(0, "PROTOCOL_ERROR")},
		{"headers-no-padding", raw(http2.FrameHeaders, http2.FlagHeadersPadded, 1, ""), goAway(0, "PROTOCOL_ERROR")},
		{"headers-short-priority", raw(http2.FrameHeaders, http2.FlagHeadersPriority, 1, "\x00"), goAway(0, "FRAME_SIZE_ERROR")},
		{"hpack-index", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, "\xfe"), goAway(0, "COMPRESSION_ERROR")},
		{"hpack-cut", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, "\x82\x44\x05a"), goAway(0, "COMPRESSION_ERROR")},
		{"hpack-huffman", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, "\x44\x84\xff\xff\xff\xff"), goAway(0, "COMPRESSION_ERROR")},
		{"hpack-table-size", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, "\x3f\xff\x7f"), goAway(0, "COMPRESSION_ERROR")},
		{"continuation-alone", raw(http2.FrameContinuation, http2.FlagContinuationEndHeaders, 1, "\x82"), goAway(0, "PROTOCOL_ERROR")},
		{"block-interrupted", func(c *client) { c.WriteRawFrame(http2.FrameHeaders, 0, 1, nil); c.WritePing(false, [8]byte{}) }, goAway(0, "PROTOCOL_ERROR")},
		{"block-of-other", func(c *client) {
			c.WriteRawFrame(http2.FrameHeaders, 0, 1, nil)
			c.WriteContinuation(3, true, nil)
		}, goAway(0, "PROTOCOL_ERROR")},
		{"continuation-flood", func(c *client) {
			c.WriteRawFrame(http2.FrameHeaders, 0, 1, nil)
			for range 100 {
				c.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 1000))
			}
		}, goAway(0, "ENHANCE_YOUR_CALM")},
		{"empty-continuation-flood", func(c *client) {
			c.WriteRawFrame(http2.FrameHeaders, 0, 1, nil)
			for range 2 * allowanceBurst {
				c.WriteContinuation(1, false, nil)
			}
		}, goAway(0, "ENHANCE_YOUR_CALM")},
		{"priority-on-0", raw(http2.FramePriority, 0, 0, "12345"), goAway(0, "PROTOCOL_ERROR")},
		{"priority-size", raw(http2.FramePriority, 0, 1, "1234"), goAway(0, "FRAME_SIZE_ERROR")},
		{"reset-on-0", raw(http2.FrameRSTStream, 0, 0, "1234"), goAway(0, "PROTOCOL_ERROR")},
		{"reset-idle", raw(http2.FrameRSTStream, 0, 1, "1234"), goAway(0, "PROTOCOL_ERROR")},
		{"reset-size", waiting(raw(http2.FrameRSTStream, 0, 1, "123")), goAway(1, "FRAME_SIZE_ERROR")},
		{"settings-on-1", raw(http2.FrameSettings, 0, 1, ""), goAway(0, "PROTOCOL_ERROR")},
		{"settings-size", raw(http2.FrameSettings, 0, 0, "1234567"), goAway(0, "FRAME_SIZE_ERROR")},
		{"settings-ack-size", raw(http2.FrameSettings, http2.FlagSettingsAck, 0, "123456"), goAway(0, "FRAME_SIZE_ERROR")},
		{"settings-many", raw(http2.FrameSettings, 0, 0, strings.Repeat("\x0012345", maxSettings+1)), goAway(0, "ENHANCE_YOUR_CALM")},
		{"settings-push", func(c *client) { c.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 2}) }, goAway(0, "PROTOCOL_ERROR")},
		{"settings-window", func(c *client) { c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}) }, goAway(0, "FLOW_CONTROL_ERROR")},
		{"settings-frame-size", func(c *client) { c.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 10}) }, goAway(0, "PROTOCOL_ERROR")},
		{"settings-window-overflow", waiting(func(c *client) {
			c.WriteWindowUpdate(1, 1<<31-1-defaultWindow)
			c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16})
		}), goAway(1, "FLOW_CONTROL_ERROR")},
		{"push", raw(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, "1234"), goAway(0, "PROTOCOL_ERROR")},
		{"ping-on-1", raw(http2.FramePing, 0, 1, "12345678"), goAway(0, "PROTOCOL_ERROR")},
		{"ping-size", raw(http2.FramePing, 0, 0, "1234567"), goAway(0, "FRAME_SIZE_ERROR")},
		{"goaway-on-1", raw(http2.FrameGoAway, 0, 1, "12345678"), goAway(0, "PROTOCOL_ERROR")},
		{"goaway-size", raw(http2.FrameGoAway, 0, 0, "1234567"), goAway(0, "FRAME_SIZE_ERROR")},
		{"window-size", raw(http2.FrameWindowUpdate, 0, 0, "123"), goAway(0, "FRAME_SIZE_ERROR")},
		{"window-0", raw(http2.FrameWindowUpdate, 0, 0, "\x00\x00\x00\x00"), goAway(0, "PROTOCOL_ERROR")},
		{"window-overflow", func(c *client) { c.WriteWindowUpdate(0, 1<<31-1) }, goAway(0, "FLOW_CONTROL_ERROR")},
		{"window-idle", func(c *client) { c.WriteWindowUpdate(1, 1) }, goAway(0, "PROTOCOL_ERROR")},
		{"window-of-stream-0", waiting(raw(http2.FrameWindowUpdate, 0, 1, "\x00\x00\x00\x00")), []string{"1 PROTOCOL_ERROR"}},
		{"window-of-stream-overflow", waiting(func(c *client) { c.WriteWindowUpdate(1, 1<<31-1) }), []string{"1 FLOW_CONTROL_ERROR"}},
		{"window-closed", answered(func(c *client) { c.WriteWindowUpdate(1, 1) }), nil},
		{"beyond-window", func(c *client) {
			for id := uint32(1); id <= 5; id += 2 {
				c.headers(id, false, postFields...)
				for range 3 {
					c.WriteData(id, false, make([]byte, maxFrame))
				}
			}
		}, goAway(5, "FLOW_CONTROL_ERROR")},
		{"too-large", raw(http2.FrameData, 0, 1, strings.Repeat("x", maxFrame+1)), goAway(0, "FRAME_SIZE_ERROR")},
		{"unknown", raw(0xfa, 0xff, 7, "whatever"), nil},
		{"priority", raw(http2.FramePriority, 0, 9, "12345"), nil},
		{"goaway", raw(http2.FrameGoAway, 0, 0, "12345678and more"), nil},
		{"ping", raw(http2.FramePing, 0, 0, "12345678"), []string{"PING true 12345678"}},
		{"settings", func(c *client) { c.WriteSettings(http2.Setting{ID: 99, Val: 1}) }, []string{"SETTINGS true"}},

		{"no-method", fields(":scheme", "https", ":path", "/now.example"), malformed},
		{"no-scheme", fields(":method", "GET", ":path", "/now.example"), malformed},
		{"no-path", fields(":method", "GET", ":scheme", "https"), malformed},
		{"empty-path", fields(":method", "GET", ":scheme", "https", ":path", ""), malformed},
		{"other-scheme", fields(":method", "GET", ":scheme", "ftp", ":path", "/now.example"), malformed},
		{"method-twice", fields(":method", "GET", ":method", "GET", ":scheme", "https", ":path", "/now.example"), malformed},
		{"pseudo-late", fields(":method", "GET", ":scheme", "https", "accept", "x", ":path", "/now.example"), malformed},
		{"pseudo-unknown", with(":protocol", "websocket"), malformed},
		{"pseudo-of-response", with(":status", "200"), malformed},
		{"connect", fields(":method", "CONNECT", ":authority", "x"), []string{"1 404"}},
		{"connect-with-path", fields(":method", "CONNECT", ":authority", "x", ":path", "/"), malformed},
		{"options", fields(":method", "OPTIONS", ":scheme", "https", ":path", "*"), []string{"1 404"}},
		{"capitals", with("Accept", "x"), malformed},
		{"empty-name", with("", "x"), malformed},
		{"blank-name", with("a b", "x"), malformed},
		{"line-in-value", with("accept", "a\r\nb"), malformed},
		{"zero-in-value", with("accept", "a\x00"), malformed},
		{"blank-before-value", with("accept", " a"), malformed},
		{"connection", with("connection", "close"), malformed},
		{"transfer-encoding", with("transfer-encoding", "chunked"), malformed},
		{"te", with("te", "gzip"), malformed},
		{"te-trailers", with("te", "trailers"), []string{"1 200", "1 " + reply}},
		{"length-and-no-body", with("content-length", "1"), malformed},
		{"length-0", with("content-length", "0"), []string{"1 200", "1 " + reply}},
		{"length-not-a-number", with("content-length", "+1"), malformed},
		{"length-twice", with("content-length", "0", "content-length", "1"), malformed},
		{"too-many-fields", with("x", strings.Repeat("a", testMaxHeader-100)), []string{"1 431"}},
		{"head", fields(":method", "HEAD", ":scheme", "https", ":path", "/now.example"), []string{"1 200 12"}},
		{"escaped-path", fields(":method", "GET", ":scheme", "https", ":path", "/no%77.example?x=%77"), []string{"1 200", "1 " + reply}},
		{"badly-escaped-path", fields(":method", "GET", ":scheme", "https", ":path", "/now%7.example"), []string{"1 404"}},
		{"fault", fields(":method", "GET", ":scheme", "https", ":path", "/fault.example"), []string{"1 INTERNAL_ERROR"}},
		{"body-of-whole-request", fields(":method", "GET", ":scheme", "https", ":path", "/body.example"), []string{"1 INTERNAL_ERROR"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := pipe(t, Config{}, "")
				test.send(c)
				c.want(test.want...)
				if slices.Contains(test.want, connEnds) {
					return
				}
				c.get(101, "now.example")
				c.want("101 200", "101 "+reply)
			})
		})
	}
}

// A client that does not begin with the preface and SETTINGS does not speak HTTP/2.
func TestPreface(t *testing.T) {
	for name, raw := range map[string]string{
		"http1":        "GET / HTTP/1.1\r\n\r\n",
		"no-settings":  http2.ClientPreface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
		"settings-ack": http2.ClientPreface + "\x00\x00\x00\x04\x01\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pipe(t, Config{}, raw).want("SETTINGS false", "WINDOW 0 65537", "GOAWAY 0 PROTOCOL_ERROR", connEnds)
			})
		})
	}
}
