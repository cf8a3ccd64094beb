package resolver

import (
	"encoding/binary"
	"math"
	"time"
)

// h2Frame is a frame as it arrived. See RFC 9113, Section 4.1.
type h2Frame struct {
	kind, flags uint8
	id          uint32
	payload     []byte // in the buffer of the reader
}

// Types of frames. See RFC 9113, Section 6.
const (
	h2Data uint8 = iota
	h2Headers
	h2Priority
	h2RSTStream
	h2Settings
	h2PushPromise
	h2Ping
	h2GoAway
	h2WindowUpdate
	h2Continuation
)

// Flags of frames.
const (
	h2FlagAck        = 0x1
	h2FlagEndStream  = 0x1
	h2FlagEndHeaders = 0x4
	h2FlagPadded     = 0x8
	h2FlagPriority   = 0x20
)

const (
	h2FrameHeader = 9
	// h2FrameSize is the largest payload we take and send: the default, which all must take.
	h2FrameSize   = 16 << 10
	h2MaxStreamID = math.MaxInt32
	h2MaxWindow   = math.MaxInt32
	// h2DefaultWindow is what everybody may send before anything was agreed. See RFC 9113, Section 6.9.2.
	h2DefaultWindow = 1<<16 - 1
	// h2RecvWindow is what a client may send ahead on all streams, and with it what unfinished messages may take.
	h2RecvWindow = 2 << 16
	// h2StreamWindow has room for a message that is one octet too long, and for padding until that is given back.
	h2StreamWindow = 1<<16 + 4*h2PaddingSize
	// h2PaddingSize is how much padding is given back at once.
	h2PaddingSize = 4 << 10
	// h2CreditSize is how much of h2RecvWindow is given back at once.
	h2CreditSize = 32 << 10
	// h2BlockSize bounds a header block that arrives in pieces. Encoded, a list within maxHeader is smaller: beyond
	// twice that somebody only wants us to keep and decode it. See CVE-2024-27316.
	h2BlockSize = 2 * maxHeader
	// h2MaxSettings is how many settings may come at once, as in nghttp2. There are nine. See CVE-2020-11080.
	h2MaxSettings = 32
	// h2DrainPing is the content of the PING behind a GOAWAY.
	h2DrainPing = 0x6366_7264_6472_6169
)

// h2Setting is one parameter of SETTINGS. See RFC 9113, Section 6.5.
type h2Setting struct {
	id    uint16
	value uint32
}

const (
	h2HeaderTableSize uint16 = iota + 1
	h2EnablePush
	h2MaxConcurrentStreams
	h2InitialWindowSize
	h2MaxFrameSize
	h2MaxHeaderListSize
)

// receive handles the whole frames in h.in and leaves there what follows. It takes mu.
func (h *h2Conn) receive() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = time.Now()
	rest, err := h.skipPreface(h.in)
	if err != nil {
		return err
	}
	for h.greeted {
		f, tail, err := cutH2Frame(rest)
		if err != nil {
			return err
		}
		if tail == nil {
			break
		}
		rest = tail
		if err := h.handle(&f); err != nil {
			return err
		}
		if h.chores.left < 0 || h.resets.left < 0 {
			return h2EnhanceYourCalm
		}
		h.partial = h.partial && h.blockID != 0 // what follows has its own time
		if h.out != nil && len(h.out.reply) >= burstSize {
			h.flush()
		}
	}
	if !h.partial && (len(rest) > 0 || h.blockID != 0) {
		h.partial, h.since = true, h.now
	}
	h.in = keep(h.in, rest, h2ReadBuffer, h2FrameHeader+h2FrameSize)
	h.armExpiry()
	return nil
}

// skipPreface removes the client's preface. See RFC 9113, Section 3.4.
func (h *h2Conn) skipPreface(b []byte) ([]byte, error) {
	if h.greeted {
		return b, nil
	}
	n := min(len(b), len(h2Preface))
	if string(b[:n]) != h2Preface[:n] {
		return b, h2ProtocolError
	}
	if n < len(h2Preface) {
		return b, nil
	}
	h.greeted = true
	return b[n:], nil
}

// cutH2Frame splits b after its first frame. rest is nil if that is not whole. One that is too large is an error at
// once, so that it need not arrive.
func cutH2Frame(b []byte) (f h2Frame, rest []byte, err error) {
	if len(b) < h2FrameHeader {
		return h2Frame{}, nil, nil
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	if n > h2FrameSize {
		return h2Frame{}, nil, h2FrameSizeError
	}
	if len(b) < h2FrameHeader+n {
		return h2Frame{}, nil, nil
	}
	f = h2Frame{kind: b[3], flags: b[4], id: binary.BigEndian.Uint32(b[5:]) & h2MaxStreamID}
	b = b[h2FrameHeader:]
	f.payload = b[:n:n]
	return f, b[n:], nil
}

// handle handles one frame. An error ends the connection.
func (h *h2Conn) handle(f *h2Frame) error {
	switch {
	case h.blockID != 0 && (f.kind != h2Continuation || f.id != h.blockID):
		return h2ProtocolError // see RFC 9113, Section 6.10
	case !h.settled && (f.kind != h2Settings || f.flags&h2FlagAck != 0):
		return h2ProtocolError // see RFC 9113, Section 3.4
	}
	switch f.kind {
	case h2Data:
		return h.handleData(f)
	case h2Headers:
		return h.handleHeaders(f)
	case h2Continuation:
		return h.handleContinuation(f)
	case h2Priority:
		return h.handlePriority(f)
	case h2RSTStream:
		return h.handleReset(f)
	case h2Settings:
		return h.handleSettings(f)
	case h2Ping:
		return h.handlePing(f)
	case h2GoAway:
		return h.handleGoAway(f)
	case h2WindowUpdate:
		return h.handleWindowUpdate(f)
	case h2PushPromise:
		return h2ProtocolError // see RFC 9113, Section 8.4
	}
	h.chores.spend(h.now)
	return nil // see RFC 9113, Section 5.5
}

// idle reports whether the client has not opened the stream id yet, or cannot. See RFC 9113, Section 5.1.1.
func (h *h2Conn) idle(id uint32) bool { return id > h.lastID || id%2 == 0 }

// unpadded returns the payload without padding, and false if there is more padding than payload. See RFC 9113,
// Section 6.1.
func (f *h2Frame) unpadded() ([]byte, bool) {
	if f.flags&h2FlagPadded == 0 {
		return f.payload, true
	}
	if len(f.payload) == 0 || int(f.payload[0]) >= len(f.payload) {
		return nil, false
	}
	return f.payload[1 : len(f.payload)-int(f.payload[0])], true
}

// handlePriority ignores what RFC 9113, Section 5.3.2, has done away with, also a stream that depends on itself.
func (h *h2Conn) handlePriority(f *h2Frame) error {
	switch {
	case f.id == 0:
		return h2ProtocolError
	case len(f.payload) != 5:
		return h2FrameSizeError
	}
	h.chores.spend(h.now)
	return nil
}

// handleSettings takes over what the client wants. See RFC 9113, Section 6.5.
func (h *h2Conn) handleSettings(f *h2Frame) error {
	switch {
	case f.id != 0:
		return h2ProtocolError
	case len(f.payload)%6 != 0 || f.flags&h2FlagAck != 0 && len(f.payload) > 0:
		return h2FrameSizeError
	case f.flags&h2FlagAck != 0:
		h.chores.spend(h.now)
		return nil
	}
	if len(f.payload) > 6*h2MaxSettings {
		return h2EnhanceYourCalm
	}
	h.settled = true
	for b := f.payload; len(b) > 0; b = b[6:] {
		if err := h.set(h2Setting{binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])}); err != nil {
			return err
		}
	}
	h.appendFrame(h2Settings, h2FlagAck, 0, nil)
	h.pump()
	h.chores.spend(h.now)
	return nil
}

func (h *h2Conn) set(s h2Setting) error {
	switch s.id {
	case h2HeaderTableSize:
		h.resizeNext = true
	case h2EnablePush:
		if s.value > 1 {
			return h2ProtocolError
		}
	case h2MaxFrameSize:
		if s.value < h2FrameSize || s.value > 1<<24-1 {
			return h2ProtocolError
		}
	case h2InitialWindowSize:
		return h.setInitialWindow(int64(s.value))
	}
	return nil
}

// setInitialWindow changes what we may send on every stream, which can become negative. See RFC 9113, Section 6.9.2.
func (h *h2Conn) setInitialWindow(n int64) error {
	if n > h2MaxWindow {
		return h2FlowControlError
	}
	for _, s := range h.streams {
		if s.window += n - h.initial; s.window > h2MaxWindow && s.state != h2Gone {
			return h2FlowControlError
		}
	}
	h.initial = n
	return nil
}

// handlePing answers. See RFC 9113, Section 6.7.
func (h *h2Conn) handlePing(f *h2Frame) error {
	switch {
	case f.id != 0:
		return h2ProtocolError
	case len(f.payload) != 8:
		return h2FrameSizeError
	case f.flags&h2FlagAck == 0:
		h.appendPing(h2FlagAck, binary.BigEndian.Uint64(f.payload))
	case h.phase == h2Announced && binary.BigEndian.Uint64(f.payload) == h2DrainPing:
		h.leave()
	}
	h.chores.spend(h.now)
	return nil
}

// handleGoAway has nothing to do: we open no streams. See RFC 9113, Section 6.8.
func (h *h2Conn) handleGoAway(f *h2Frame) error {
	switch {
	case f.id != 0:
		return h2ProtocolError
	case len(f.payload) < 8:
		return h2FrameSizeError
	}
	h.chores.spend(h.now)
	return nil
}

// handleWindowUpdate lets us send more. See RFC 9113, Section 6.9.
func (h *h2Conn) handleWindowUpdate(f *h2Frame) error {
	if len(f.payload) != 4 {
		return h2FrameSizeError
	}
	h.chores.spend(h.now)
	n := int64(binary.BigEndian.Uint32(f.payload) & h2MaxWindow)
	switch {
	case f.id != 0:
		return h.widen(f.id, n)
	case n == 0:
		return h2ProtocolError
	case h.window+n > h2MaxWindow:
		return h2FlowControlError
	}
	h.window += n
	h.pump()
	return nil
}

// widen lets us send n octets more on one stream.
func (h *h2Conn) widen(id uint32, n int64) error {
	if h.idle(id) {
		return h2ProtocolError
	}
	s := h.streams[id]
	switch {
	case s != nil && s.state == h2Gone:
		return nil // it cannot know yet
	case s == nil:
		return nil // closed not long ago. See RFC 9113, Section 5.1.
	case n == 0:
		h.abort(s, h2ProtocolError)
		return nil
	case s.window+n > h2MaxWindow:
		h.abort(s, h2FlowControlError)
		return nil
	}
	s.window += n
	h.pump()
	return nil
}
