package h2

import (
	"encoding/binary"
	"math"
)

// frame is a frame that has arrived whole. See RFC 9113, Section 4.1.
type frame struct {
	kind, flags uint8
	id          uint32
	payload     []byte // in the buffer of the reader
}

// Types of frames. See RFC 9113, Section 6.
const (
	frameData uint8 = iota
	frameHeaders
	framePriority
	frameRSTStream
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

// Flags of frames.
const (
	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const (
	clientPreface  = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeaderLen = 9
	// maxFrame is the largest payload that we take and send. It is the default, which every peer has to take.
	maxFrame    = 16 << 10
	maxStreamID = math.MaxInt32
	maxWindow   = math.MaxInt32
	// defaultWindow is what both sides may send before anything was agreed. See RFC 9113, Section 6.9.2.
	defaultWindow = 1<<16 - 1
	// paddingCredit is how much padding is given back at once.
	paddingCredit = 4 << 10
	// windowCredit is how much of the window of all streams is given back at once.
	windowCredit = 32 << 10
	// maxSettings is how many settings may come at once, as in nghttp2. There are nine. See CVE-2020-11080.
	maxSettings = 32
	// drainPing is the content of the PING that follows the first GOAWAY.
	drainPing = 0x6366_7264_6472_6169
)

// setting is one parameter of SETTINGS. See RFC 9113, Section 6.5.
type setting struct {
	id    uint16
	value uint32
}

const (
	settingHeaderTableSize uint16 = iota + 1
	settingEnablePush
	settingMaxConcurrentStreams
	settingInitialWindowSize
	settingMaxFrameSize
	settingMaxHeaderListSize
)

// receive handles the first frame in b and returns what follows it. rest is nil if that frame is not whole. An error ends
// the connection.
func (s *session) receive(b []byte) (rest []byte, err error) {
	if !s.greeted {
		return nil, nil
	}
	f, rest, err := cutFrame(b)
	if rest == nil || err != nil {
		return nil, err
	}
	if err := s.handle(&f); err != nil {
		return nil, err
	}
	if s.control.left < 0 || s.resets.left < 0 {
		return nil, codeEnhanceYourCalm
	}
	s.partial = s.partial && s.blockID != 0 // the next frame has its own time
	return rest, nil
}

// noteRest notes, once all whole frames are handled, whether a part of a frame is left. From its first octet on there
// is a time for the rest of it.
func (s *session) noteRest(left bool) {
	if !s.partial && (left || s.blockID != 0) {
		s.partial, s.since = true, s.now
	}
}

// skipPreface removes the client's preface. See RFC 9113, Section 3.4.
func (s *session) skipPreface(b []byte) ([]byte, error) {
	if s.greeted {
		return b, nil
	}
	n := min(len(b), len(clientPreface))
	if string(b[:n]) != clientPreface[:n] {
		return b, codeProtocol
	}
	if n < len(clientPreface) {
		return b, nil
	}
	s.greeted = true
	return b[n:], nil
}

// cutFrame splits b after its first frame. rest is nil if that is not whole. A frame that is too large is an error as
// soon as its header has come, so that the rest need not arrive.
func cutFrame(b []byte) (f frame, rest []byte, err error) {
	if len(b) < frameHeaderLen {
		return frame{}, nil, nil
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	if n > maxFrame {
		return frame{}, nil, codeFrameSize
	}
	if len(b) < frameHeaderLen+n {
		return frame{}, nil, nil
	}
	f = frame{kind: b[3], flags: b[4], id: binary.BigEndian.Uint32(b[5:]) & maxStreamID}
	b = b[frameHeaderLen:]
	f.payload = b[:n:n]
	return f, b[n:], nil
}

// handle handles one frame. An error ends the connection.
func (s *session) handle(f *frame) error {
	switch {
	case s.blockID != 0 && (f.kind != frameContinuation || f.id != s.blockID):
		return codeProtocol // see RFC 9113, Section 6.10
	case !s.settled && (f.kind != frameSettings || f.flags&flagAck != 0):
		return codeProtocol // see RFC 9113, Section 3.4
	}
	switch f.kind {
	case frameData:
		return s.handleData(f)
	case frameHeaders:
		return s.handleHeaders(f)
	case frameContinuation:
		return s.handleContinuation(f)
	case framePriority:
		return s.handlePriority(f)
	case frameRSTStream:
		return s.handleReset(f)
	case frameSettings:
		return s.handleSettings(f)
	case framePing:
		return s.handlePing(f)
	case frameGoAway:
		return s.handleGoAway(f)
	case frameWindowUpdate:
		return s.handleWindowUpdate(f)
	case framePushPromise:
		return codeProtocol // see RFC 9113, Section 8.4
	}
	s.control.spend(s.now)
	return nil // see RFC 9113, Section 5.5
}

// idle reports whether the client has not opened the stream id yet, or cannot. See RFC 9113, Section 5.1.1.
func (s *session) idle(id uint32) bool { return id > s.lastID || id%2 == 0 }

// unpadded returns the payload without padding, and false if there is more padding than payload. See RFC 9113,
// Section 6.1.
func (f *frame) unpadded() ([]byte, bool) {
	if f.flags&flagPadded == 0 {
		return f.payload, true
	}
	if len(f.payload) == 0 || int(f.payload[0]) >= len(f.payload) {
		return nil, false
	}
	return f.payload[1 : len(f.payload)-int(f.payload[0])], true
}

// handlePriority ignores priorities, which are deprecated, also of a stream that depends on itself. See RFC 9113,
// Section 5.3.2.
func (s *session) handlePriority(f *frame) error {
	switch {
	case f.id == 0:
		return codeProtocol
	case len(f.payload) != 5:
		return codeFrameSize
	}
	s.control.spend(s.now)
	return nil
}

// handleSettings takes over what the client wants. See RFC 9113, Section 6.5.
func (s *session) handleSettings(f *frame) error {
	switch {
	case f.id != 0:
		return codeProtocol
	case len(f.payload)%6 != 0 || f.flags&flagAck != 0 && len(f.payload) > 0:
		return codeFrameSize
	case f.flags&flagAck != 0:
		s.control.spend(s.now)
		return nil
	}
	if len(f.payload) > 6*maxSettings {
		return codeEnhanceYourCalm
	}
	s.settled = true
	for b := f.payload; len(b) > 0; b = b[6:] {
		if err := s.set(setting{binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])}); err != nil {
			return err
		}
	}
	s.appendFrame(frameSettings, flagAck, 0, nil)
	s.pump()
	s.control.spend(s.now)
	return nil
}

// set takes over one setting.
func (s *session) set(p setting) error {
	switch p.id {
	case settingHeaderTableSize:
		s.resizeNext = true
	case settingEnablePush:
		if p.value > 1 {
			return codeProtocol
		}
	case settingMaxFrameSize:
		if p.value < maxFrame || p.value > 1<<24-1 {
			return codeProtocol
		}
	case settingInitialWindowSize:
		return s.setInitialWindow(int64(p.value))
	}
	return nil
}

// setInitialWindow changes what we may send on every stream, which can become negative. See RFC 9113, Section 6.9.2.
func (s *session) setInitialWindow(n int64) error {
	if n > maxWindow {
		return codeFlowControl
	}
	for _, st := range s.streams {
		if st.window += n - s.initial; st.window > maxWindow && st.state != streamReset {
			return codeFlowControl
		}
	}
	s.initial = n
	return nil
}

// handlePing answers. See RFC 9113, Section 6.7.
func (s *session) handlePing(f *frame) error {
	switch {
	case f.id != 0:
		return codeProtocol
	case len(f.payload) != 8:
		return codeFrameSize
	case f.flags&flagAck == 0:
		s.appendPing(flagAck, binary.BigEndian.Uint64(f.payload))
	case s.phase == phaseAnnounced && binary.BigEndian.Uint64(f.payload) == drainPing:
		s.leave()
	}
	s.control.spend(s.now)
	return nil
}

// handleGoAway has nothing to do: we open no streams. See RFC 9113, Section 6.8.
func (s *session) handleGoAway(f *frame) error {
	switch {
	case f.id != 0:
		return codeProtocol
	case len(f.payload) < 8:
		return codeFrameSize
	}
	s.control.spend(s.now)
	return nil
}

// handleWindowUpdate lets us send more. See RFC 9113, Section 6.9.
func (s *session) handleWindowUpdate(f *frame) error {
	if len(f.payload) != 4 {
		return codeFrameSize
	}
	s.control.spend(s.now)
	n := int64(binary.BigEndian.Uint32(f.payload) & maxWindow)
	switch {
	case f.id != 0:
		return s.widen(f.id, n)
	case n == 0:
		return codeProtocol
	case s.window+n > maxWindow:
		return codeFlowControl
	}
	s.window += n
	s.pump()
	return nil
}

// widen lets us send n octets more on one stream.
func (s *session) widen(id uint32, n int64) error {
	if s.idle(id) {
		return codeProtocol
	}
	st := s.streams[id]
	switch {
	case st != nil && st.state == streamReset:
		return nil // it cannot know yet
	case st == nil:
		return nil // closed not long ago. See RFC 9113, Section 5.1.
	case n == 0:
		s.abort(st, codeProtocol)
		return nil
	case st.window+n > maxWindow:
		s.abort(st, codeFlowControl)
		return nil
	}
	st.window += n
	s.pump()
	return nil
}
