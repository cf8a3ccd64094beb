package h2

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"slices"
)

// maxQueued bounds what is kept of responses that a client makes no room for, in octets per connection.
const maxQueued = 4 << 16

// Names of the fields that the server adds.
var (
	nameStatus        = FieldName(appendName(nil, indexStatus))
	nameContentLength = FieldName(appendName(nil, indexContentLength))
	nameDate          = FieldName(appendName(nil, indexDate))
)

// buffer returns where frames are gathered.
func (s *session) buffer() *buffer {
	if s.out == nil {
		s.out = s.srv.buffer()
	}
	return s.out
}

// exchange returns the exchange for the request at hand.
func (s *session) exchange() *exchange {
	if s.x == nil {
		s.x = s.srv.exchange()
	}
	return s.x
}

func (s *session) appendFrame(kind, flags uint8, id uint32, payload []byte) {
	out := s.buffer()
	out.b = append(appendFrameHeader(out.b, len(payload), kind, flags, id), payload...)
}

func appendFrameHeader(b []byte, n int, kind, flags uint8, id uint32) []byte {
	b = append(b, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	return binary.BigEndian.AppendUint32(b, id)
}

func (s *session) appendSettings(settings ...setting) {
	var b []byte
	for _, p := range settings {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, p.id), p.value)
	}
	s.appendFrame(frameSettings, 0, 0, b)
}

func (s *session) appendWindowUpdate(id, n uint32) {
	s.appendFrame(frameWindowUpdate, 0, id, binary.BigEndian.AppendUint32(nil, n))
}

// giveCredit lets the client send again as much as it has sent, once that is worth a frame.
func (s *session) giveCredit() {
	if s.credit < windowCredit {
		return
	}
	s.appendWindowUpdate(0, uint32(s.credit))
	s.recvWindow += s.credit
	s.credit = 0
}

func (s *session) appendReset(id uint32, c code) {
	s.appendFrame(frameRSTStream, 0, id, binary.BigEndian.AppendUint32(nil, uint32(c)))
}

func (s *session) appendPing(flags uint8, content uint64) {
	s.appendFrame(framePing, flags, 0, binary.BigEndian.AppendUint64(nil, content))
}

// appendGoAway says that no streams after lastAnswered are answered.
func (s *session) appendGoAway(c code) {
	b := binary.BigEndian.AppendUint32(nil, s.lastAnswered)
	s.appendFrame(frameGoAway, 0, 0, binary.BigEndian.AppendUint32(b, uint32(c)))
}

// respond sends the response in x, the body of which waits where the client has no room for it.
func (s *session) respond(st *stream, x *exchange) {
	w := &x.w
	if w.Status == 0 {
		s.abort(st, codeInternal)
		return
	}
	bare := len(w.Body) == 0 || x.r.Method == http.MethodHead
	start := s.beginBlock(st.id, w.Status, bare)
	s.out.b = append(s.out.b, w.fields...)
	if len(w.Body) > 0 {
		s.out.b = appendDecimal(s.out.b, nameContentLength, "", uint64(len(w.Body)))
	}
	if !s.endResponse(start) {
		s.abort(st, codeInternal)
		return
	}
	if bare {
		s.noteEnd()
		s.finished(st)
		return
	}
	s.send(st, w.Body)
}

// refuse sends a response that has only a status, for requests that no handler gets to see or the end of.
func (s *session) refuse(st *stream, status int) {
	s.endResponse(s.beginBlock(st.id, status, true))
	s.noteEnd()
	s.finished(st)
}

// goOn has a client send its body that waits to be told so. See RFC 9110, Section 10.1.1.
func (s *session) goOn(st *stream) { s.endBlock(s.beginBlock(st.id, http.StatusContinue, false)) }

// beginBlock begins a HEADERS frame. With the first one our encoder gives up its dynamic table, and again when the
// client has changed its size. See RFC 9113, Section 4.3.1.
func (s *session) beginBlock(id uint32, status int, last bool) (start int) {
	flags := uint8(flagEndHeaders)
	if last {
		flags |= flagEndStream
	}
	out := s.buffer()
	start = len(out.b)
	out.b = appendFrameHeader(out.b, 0, frameHeaders, flags, id)
	if s.resizeNext {
		out.b = append(out.b, 0x20) // see RFC 7541, Section 6.3
		s.resizeNext = false
	}
	if status == http.StatusOK {
		out.b = append(out.b, indexedStatus200)
	} else {
		out.b = appendDecimal(out.b, nameStatus, "", uint64(status))
	}
	return start
}

// endResponse ends the HEADERS frame at start of a final response. It takes the frame back and reports false if that
// is too large.
func (s *session) endResponse(start int) bool {
	s.appendDate()
	if len(s.out.b)-start-frameHeaderLen > maxFrame {
		s.out.b, s.resizeNext = s.out.b[:start], true
		return false
	}
	s.endBlock(start)
	return true
}

// endBlock sets the length of the frame at start.
func (s *session) endBlock(start int) {
	n := len(s.out.b) - start - frameHeaderLen
	b := s.out.b[start:]
	b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n)
}

// appendDate appends the time of the response. See RFC 9110, Section 6.6.1.
func (s *session) appendDate() {
	if now := s.now.Unix(); now != s.dateSecond {
		s.dateSecond = now
		s.date = s.now.UTC().AppendFormat(append(append(s.date[:0], nameDate...), byte(len(http.TimeFormat))), http.TimeFormat)
	}
	s.out.b = append(s.out.b, s.date...)
}

// send sends the body of a response, or as much of it as the client has room for.
func (s *session) send(st *stream, body []byte) {
	n := s.sendSome(st, body)
	if n == len(body) {
		s.finished(st)
		return
	}
	st = s.track(st)
	st.state, st.until = streamSending, s.now.Add(s.srv.cfg.WriteTimeout)
	if s.queued+len(body)-n > maxQueued {
		s.abort(st, codeEnhanceYourCalm)
		return
	}
	st.rest = bytes.Clone(body[n:])
	s.queued += len(st.rest)
	s.blocked = append(s.blocked, st)
}

// sendSome sends the beginning of body for which there is room, and returns its length.
func (s *session) sendSome(st *stream, body []byte) int {
	n := int(max(0, min(int64(len(body)), st.window, s.window)))
	st.window -= int64(n)
	s.window -= int64(n)
	for b := body[:n]; len(b) > 0; {
		part := b[:min(len(b), maxFrame)]
		b = b[len(part):]
		var flags uint8
		if len(b) == 0 && n == len(body) {
			flags = flagEndStream
		}
		s.appendFrame(frameData, flags, st.id, part)
	}
	if n == len(body) {
		s.noteEnd()
	}
	return n
}

// noteEnd notes that a response ends here.
func (s *session) noteEnd() { s.out.ends = append(s.out.ends, len(s.out.b)) }

// pump sends what has waited for room, the oldest first. The time that a client has for all of it does not begin anew
// when it makes a little room.
func (s *session) pump() {
	for i := 0; i < len(s.blocked); {
		st := s.blocked[i]
		n := s.sendSome(st, st.rest)
		st.rest = st.rest[n:]
		s.queued -= n
		if len(st.rest) > 0 {
			i++
			continue
		}
		s.blocked = slices.Delete(s.blocked, i, i+1)
		s.finished(st)
	}
}
