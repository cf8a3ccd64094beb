package resolver

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/net/http2/hpack"
)

// h2MaxQueued bounds what is kept of responses that a client makes no room for.
const h2MaxQueued = 4 << 16

// Indices of names in the static table. See RFC 7541, Appendix A.
const (
	hpackStatus        = 8
	hpackAllow         = 22
	hpackCacheControl  = 24
	hpackContentLength = 28
	hpackContentType   = 31
	hpackDate          = 33
	hpackRetryAfter    = 53
	hpackStatus200     = 0x88 // a whole field
)

// h2Head are header fields of responses in HPACK form, without a dynamic table.
type h2Head struct {
	ok, altSvc, noStore, allow, retryAfter []byte
}

func newH2Head(d *doh) h2Head {
	return h2Head{
		ok:         appendHpackIndexed([]byte{hpackStatus200}, hpackContentType, dnsMessage),
		altSvc:     appendHpackNamed(nil, "alt-svc", d.altSvc[0]),
		noStore:    appendHpackIndexed(nil, hpackCacheControl, d.noStore[0]),
		allow:      appendHpackIndexed(nil, hpackAllow, d.allow[0]),
		retryAfter: appendHpackIndexed(nil, hpackRetryAfter, d.retryAfter[0]),
	}
}

// appendHpackIndexed appends a literal field without indexing whose name is in the static table. See RFC 7541,
// Section 6.2.2.
func appendHpackIndexed(b []byte, name uint8, value string) []byte {
	return appendHpackString(appendHpackName(b, name), value)
}

func appendHpackName(b []byte, name uint8) []byte {
	if name < 15 {
		return append(b, name)
	}
	return append(b, 15, name-15)
}

func appendHpackNamed(b []byte, name, value string) []byte {
	return appendHpackString(appendHpackString(append(b, 0), name), value)
}

// appendHpackString appends s in the shorter of its two forms. See RFC 7541, Section 5.2.
func appendHpackString(b []byte, s string) []byte {
	if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
		return hpack.AppendHuffmanString(appendHpackInt(b, 0x80, n), s)
	}
	return append(appendHpackInt(b, 0, uint64(len(s))), s...)
}

// appendHpackInt appends n with a prefix of seven bits behind flag. See RFC 7541, Section 5.1.
func appendHpackInt(b []byte, flag byte, n uint64) []byte {
	if n < 127 {
		return append(b, flag|byte(n))
	}
	b = append(b, flag|127)
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(b, byte(n))
}

// appendHpackDecimal appends a field whose value is a number.
func appendHpackDecimal(b []byte, name uint8, prefix string, n uint64) []byte {
	b = append(appendHpackName(b, name), 0)
	start := len(b)
	b = strconv.AppendUint(append(b, prefix...), n, 10)
	b[start-1] = byte(len(b) - start)
	return b
}

// buffer returns where frames are gathered.
func (h *h2Conn) buffer() *job {
	if h.out == nil {
		h.out = h.jobs.Get().(*job)
		h.out.reply = h.out.reply[:0]
	}
	return h.out
}

// job returns the job for the query at hand.
func (h *h2Conn) job() *job {
	if h.j == nil {
		h.j = h.jobs.Get().(*job)
	}
	return h.j
}

func (h *h2Conn) appendFrame(kind, flags uint8, id uint32, payload []byte) {
	out := h.buffer()
	out.reply = append(appendH2FrameHeader(out.reply, len(payload), kind, flags, id), payload...)
}

func appendH2FrameHeader(b []byte, n int, kind, flags uint8, id uint32) []byte {
	b = append(b, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	return binary.BigEndian.AppendUint32(b, id)
}

func (h *h2Conn) appendSettings(settings ...h2Setting) {
	var b []byte
	for _, s := range settings {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, s.id), s.value)
	}
	h.appendFrame(h2Settings, 0, 0, b)
}

func (h *h2Conn) appendWindowUpdate(id, n uint32) {
	h.appendFrame(h2WindowUpdate, 0, id, binary.BigEndian.AppendUint32(nil, n))
}

// giveCredit lets the client send again what it has sent, once that is worth a frame.
func (h *h2Conn) giveCredit() {
	if h.credit < h2CreditSize {
		return
	}
	h.appendWindowUpdate(0, uint32(h.credit))
	h.recvWindow += h.credit
	h.credit = 0
}

func (h *h2Conn) appendReset(id uint32, code h2Code) {
	h.appendFrame(h2RSTStream, 0, id, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

func (h *h2Conn) appendPing(flags uint8, content uint64) {
	h.appendFrame(h2Ping, flags, 0, binary.BigEndian.AppendUint64(nil, content))
}

// appendGoAway says that no streams behind lastAnswered are answered.
func (h *h2Conn) appendGoAway(code h2Code) {
	b := binary.BigEndian.AppendUint32(nil, h.lastAnswered)
	h.appendFrame(h2GoAway, 0, 0, binary.BigEndian.AppendUint32(b, uint32(code)))
}

// appendAnswer appends the headers of the reply in j. See RFC 8484, Section 5.1, for Cache-Control.
func (h *h2Conn) appendAnswer(s *h2Stream, j *job) {
	start := h.beginBlock(s.id, 0)
	b := append(h.out.reply, h.head.ok...)
	if j.q.ttl > 0 {
		b = appendHpackDecimal(b, hpackCacheControl, "max-age=", uint64(j.q.ttl))
	} else {
		b = append(b, h.head.noStore...)
	}
	h.out.reply = appendHpackDecimal(b, hpackContentLength, "", uint64(len(j.reply)))
	h.appendCommon()
	h.endBlock(start)
}

// refuse sends a response that has only a status.
func (h *h2Conn) refuse(s *h2Stream, status int) {
	start := h.beginBlock(s.id, h2FlagEndStream)
	h.appendStatus(status)
	switch status {
	case http.StatusMethodNotAllowed:
		h.out.reply = append(h.out.reply, h.head.allow...)
	case http.StatusServiceUnavailable:
		h.out.reply = append(h.out.reply, h.head.retryAfter...)
	}
	h.appendCommon()
	h.endBlock(start)
	h.finished(s)
}

// goOn has a client send its body that waits to be told so. See RFC 9110, Section 10.1.1.
func (h *h2Conn) goOn(s *h2Stream) {
	start := h.beginBlock(s.id, 0)
	h.appendStatus(http.StatusContinue)
	h.endBlock(start)
}

func (h *h2Conn) appendStatus(status int) {
	h.out.reply = appendHpackDecimal(h.out.reply, hpackStatus, "", uint64(status))
}

// appendCommon appends what all responses have.
func (h *h2Conn) appendCommon() {
	h.out.reply = append(h.out.reply, h.head.altSvc...)
	h.appendDate()
}

// appendDate appends when this is. See RFC 9110, Section 6.6.1.
func (h *h2Conn) appendDate() {
	if now := h.now.Unix(); now != h.dateSecond {
		h.dateSecond = now
		h.date = h.now.UTC().AppendFormat(append(appendHpackName(h.date[:0], hpackDate), byte(len(http.TimeFormat))), http.TimeFormat)
	}
	h.out.reply = append(h.out.reply, h.date...)
}

// beginBlock begins a HEADERS frame. With the first one our encoder gives up its dynamic table, and again when the
// client has changed its size. See RFC 9113, Section 4.3.1.
func (h *h2Conn) beginBlock(id uint32, flags uint8) (start int) {
	out := h.buffer()
	start = len(out.reply)
	out.reply = appendH2FrameHeader(out.reply, 0, h2Headers, flags|h2FlagEndHeaders, id)
	if h.resizeNext {
		out.reply = append(out.reply, 0x20) // see RFC 7541, Section 6.3
		h.resizeNext = false
	}
	return start
}

// endBlock sets the length of the frame at start.
func (h *h2Conn) endBlock(start int) {
	n := len(h.out.reply) - start - h2FrameHeader
	b := h.out.reply[start:]
	b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n)
}

// send sends the body of a response, or as much of it as the client has room for.
func (h *h2Conn) send(s *h2Stream, body []byte) {
	n := h.sendSome(s, body)
	if n == len(body) {
		h.finished(s)
		return
	}
	s = h.track(s)
	s.state, s.until = h2Sending, h.now.Add(writeTimeout)
	if h.queued+len(body)-n > h2MaxQueued {
		h.abort(s, h2EnhanceYourCalm)
		return
	}
	s.rest = bytes.Clone(body[n:])
	h.queued += len(s.rest)
	h.blocked = append(h.blocked, s)
}

// sendSome sends the beginning of body for which there is room, and returns its length.
func (h *h2Conn) sendSome(s *h2Stream, body []byte) int {
	n := int(max(0, min(int64(len(body)), s.window, h.window)))
	s.window -= int64(n)
	h.window -= int64(n)
	for b := body[:n]; len(b) > 0; {
		part := b[:min(len(b), h2FrameSize)]
		b = b[len(part):]
		var flags uint8
		if len(b) == 0 && n == len(body) {
			flags = h2FlagEndStream
		}
		h.appendFrame(h2Data, flags, s.id, part)
	}
	return n
}

// pump sends what has waited for room, the oldest first. The time that a client has for all of it does not begin anew
// when it makes a little room.
func (h *h2Conn) pump() {
	for i := 0; i < len(h.blocked); {
		s := h.blocked[i]
		n := h.sendSome(s, s.rest)
		s.rest = s.rest[n:]
		h.queued -= n
		if len(s.rest) > 0 {
			i++
			continue
		}
		h.blocked = slices.Delete(h.blocked, i, i+1)
		h.finished(s)
	}
}

// flush writes what is gathered. While somebody else writes already it is left to them; only when much is gathered
// this waits for them, so that who reads our frames too slowly is not read from.
func (h *h2Conn) flush() {
	for h.writing && h.out != nil && len(h.out.reply) >= burstSize {
		h.written.Wait()
	}
	for h.out != nil && !h.writing && h.err == nil {
		out := h.out
		h.out, h.writing = nil, true
		h.mu.Unlock()
		err := h.write(out)
		h.mu.Lock()
		h.writing = false
		h.free(out)
		if err != nil {
			h.fail(err)
			h.hangUp()
		}
		h.written.Broadcast()
	}
}

// write writes the frames in out. It is called without mu, by one at a time. The deadline is moved only when half of it
// is gone.
func (h *h2Conn) write(out *job) error {
	if now := time.Now(); h.writable.Sub(now) < writeTimeout/2 {
		h.writable = now.Add(writeTimeout)
		if err := h.c.SetWriteDeadline(h.writable); err != nil {
			return err
		}
	}
	b := out.reply
	if h.below == nil || endOfResponse(b) == len(b) {
		_, err := h.c.Write(b)
		return err
	}
	h.below.cork(out.msg[:0])
	var err error
	for len(b) > 0 && err == nil {
		n := endOfResponse(b)
		_, err = h.c.Write(b[:n])
		b = b[n:]
	}
	out.msg, err = h.below.uncork(err)
	return err
}

// endOfResponse returns where the first response in b ends. Each has a TLS record of its own, though all go out
// with one write: dnsperf (2.10) finds only one response in what it reads at once, and waits for the others for ever.
func endOfResponse(b []byte) int {
	n := 0
	for n+h2FrameHeader <= len(b) {
		frame := b[n:]
		n += h2FrameHeader + (int(frame[0])<<16 | int(frame[1])<<8 | int(frame[2]))
		if frame[3] <= h2Headers && frame[4]&h2FlagEndStream != 0 {
			break
		}
	}
	return min(n, len(b))
}

// hangUp ends the connection without goodbye, for which a client that does not read has no room either.
func (h *h2Conn) hangUp() {
	if h.below != nil {
		h.below.Close()
		return
	}
	h.c.Close()
}
