package resolver

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// h2Stream is a stream that could not be answered and forgotten at once.
type h2Stream struct {
	id     uint32
	state  h2State
	ended  bool      // the client sends nothing more
	until  time.Time // when it is ended if it did not move on, or zero
	window int64     // what we may send

	// of the request
	recvWindow int    // what the client may send, with padding
	padding    int    // what of it is to be given back
	length     int64  // of the body as announced, or -1
	got        int64  // of the body
	msg        []byte // its beginning

	cancel context.CancelFunc // ends the wait for an answer, or nil
	rest   []byte             // of the response, what could not be sent yet
}

// h2State says what a stream waits for.
type h2State uint8

const (
	h2Receiving h2State = iota // the rest of the message
	h2Waiting                  // an answer
	h2Sending                  // room for the rest of the response
	h2Answered                 // the end of a request that has its response already
	h2Gone                     // nothing, it was reset; but the client may not know yet
)

// beginStream returns a stream for a request that is answered at once. It lasts until the next one, unless it is tracked.
func (h *h2Conn) beginStream(id uint32, ended bool) *h2Stream {
	h.passing = h2Stream{id: id, ended: ended, window: h.initial, recvWindow: h2StreamWindow, length: -1}
	return &h.passing
}

// track returns s as a stream that lasts until it is forgotten.
func (h *h2Conn) track(s *h2Stream) *h2Stream {
	if s == &h.passing {
		s = new(h2Stream)
		*s = h.passing
		h.streams[s.id] = s
		h.open++
	}
	return s
}

// forget ends a stream that both sides know to be closed.
func (h *h2Conn) forget(s *h2Stream) {
	if s == &h.passing {
		return
	}
	h.release(s)
	delete(h.streams, s.id)
}

// release gives up what a stream holds, which is no longer under way.
func (h *h2Conn) release(s *h2Stream) {
	if s.state == h2Gone {
		return
	}
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
	h.credit += len(s.msg)
	h.queued -= len(s.rest)
	s.msg, s.rest = nil, nil
	if i := slices.Index(h.blocked, s); i >= 0 {
		h.blocked = slices.Delete(h.blocked, i, i+1)
	}
	s.until = time.Time{}
	h.active = h.now
	if h.open--; h.open == 0 && h.phase == h2Leaving {
		h.wake()
	}
}

// abort ends a stream from our side. What the client still sends on it is ignored for a while: it cannot know yet. See
// RFC 9113, Section 5.1. Clients can make us do this as well as they can do it themselves, and it counts the same. See
// CVE-2025-8671.
func (h *h2Conn) abort(s *h2Stream, code h2Code) {
	h.resets.spend(h.now)
	h.appendReset(s.id, code)
	if s.ended {
		h.forget(s)
		return
	}
	s = h.track(s)
	h.release(s)
	s.state = h2Gone
	if h.gone = append(h.gone, s.id); len(h.gone) > h.limits.InFlightPerConn {
		delete(h.streams, h.gone[0])
		h.gone = slices.Delete(h.gone, 0, 1)
	}
}

// finished notes that s has its whole response. A request that is still on its way has some time to end by itself:
// many clients do not expect to be interrupted. See RFC 9113, Section 8.1.
func (h *h2Conn) finished(s *h2Stream) {
	h.chores.earn(h2ChoresPerAnswer)
	if s.ended {
		h.forget(s)
		return
	}
	s = h.track(s)
	h.credit += len(s.msg)
	s.msg, s.state, s.until = nil, h2Answered, h.now.Add(h.limits.ReadTimeout)
}

// handleReset ends a stream, and the wait for its answer. See RFC 9113, Section 6.4.
func (h *h2Conn) handleReset(f *h2Frame) error {
	switch {
	case h.idle(f.id):
		return h2ProtocolError
	case len(f.payload) != 4:
		return h2FrameSizeError
	}
	s := h.streams[f.id]
	if s == nil || s.state == h2Gone {
		delete(h.streams, f.id)
		h.chores.spend(h.now)
		return nil
	}
	h.forget(s)
	h.resets.spend(h.now)
	return nil
}

// handleData takes a part of a message. See RFC 9113, Section 6.1.
func (h *h2Conn) handleData(f *h2Frame) error {
	if h.idle(f.id) {
		return h2ProtocolError
	}
	n := len(f.payload)
	if n > h.recvWindow {
		return h2FlowControlError
	}
	data, ok := f.unpadded()
	if !ok {
		return h2ProtocolError
	}
	h.recvWindow -= n
	h.credit += n - len(data)
	ends := f.flags&h2FlagEndStream != 0
	if len(data) == 0 && !ends {
		h.chores.spend(h.now)
	}
	s := h.streams[f.id]
	switch {
	case s == nil:
		h.credit += len(data)
		h.abort(h.beginStream(f.id, false), h2StreamClosed)
		return nil
	case s.state == h2Gone:
		h.credit += len(data)
		if ends {
			h.forget(s)
		}
		return nil
	case s.ended:
		h.credit += len(data)
		h.abort(s, h2StreamClosed)
		return nil
	case n > s.recvWindow:
		h.credit += len(data)
		h.abort(s, h2FlowControlError)
		return nil
	}
	s.recvWindow -= n
	h.returnPadding(s, n-len(data))
	h.body(s, data, ends)
	return nil
}

// returnPadding keeps padding from using up the window that the message needs.
func (h *h2Conn) returnPadding(s *h2Stream, n int) {
	if s.padding += n; s.padding >= h2PaddingSize && s.state == h2Receiving {
		h.appendWindowUpdate(s.id, uint32(s.padding))
		s.recvWindow += s.padding
		s.padding = 0
	}
}

// body takes a part of the body of s. What is kept of it is given back to the window only when it is no longer.
func (h *h2Conn) body(s *h2Stream, data []byte, ends bool) {
	s.got += int64(len(data))
	wrong := s.length >= 0 && (s.got > s.length || ends && s.got < s.length)
	keeps := s.state == h2Receiving && !ends && s.got <= maxMessage && !wrong
	if !keeps {
		h.credit += len(data)
	}
	switch {
	case wrong:
		h.abort(s, h2ProtocolError) // see RFC 9113, Section 8.1.1
	case keeps:
		s.msg = append(s.msg, data...)
	case s.state == h2Receiving && s.got > maxMessage:
		s.ended = ends
		h.interrupt(s, http.StatusRequestEntityTooLarge)
	case s.state == h2Receiving:
		h.endMessage(s, data)
	case ends:
		h.endBody(s)
	}
}

// endBody notes the end of a request whose body nobody looks at.
func (h *h2Conn) endBody(s *h2Stream) {
	s.ended = true
	if s.state == h2Answered {
		h.forget(s)
	}
}

// endMessage has the message answered whose last part is last.
func (h *h2Conn) endMessage(s *h2Stream, last []byte) {
	msg := last
	if len(s.msg) > 0 {
		msg = append(s.msg, last...)
		h.credit += len(s.msg)
		s.msg = nil
	}
	s.ended, s.until = true, time.Time{}
	if len(msg) == 0 {
		h.refuse(s, http.StatusBadRequest)
		return
	}
	h.ask(s, msg)
}

// interrupt refuses a request before it has ended.
func (h *h2Conn) interrupt(s *h2Stream, status int) {
	s = h.track(s)
	h.refuse(s, status)
	if !s.ended {
		h.abort(s, h2NoError)
	}
}

// ask has msg answered.
func (h *h2Conn) ask(s *h2Stream, msg []byte) {
	j := h.job()
	j.q = query{msg: msg, client: h.peer.client, local: h.peer.local, transport: h.peer.transport}
	var did outcome
	j.reply, did = h.h.answerNow(&j.q, j.reply[:0])
	if did == pending {
		h.later(s, j)
		return
	}
	h.answer(s, j, did)
}

// answer sends the reply in j.
func (h *h2Conn) answer(s *h2Stream, j *job, did outcome) {
	if did == dropped || len(j.reply) == 0 {
		h.refuse(s, http.StatusBadRequest)
		return
	}
	h.appendAnswer(s, j)
	h.send(s, j.reply)
}

// later has the query in j answered by upstreams. Streams that the client has reset count until their goroutines have
// ended, so that resets do not get it more than its share. See CVE-2023-44487.
func (h *h2Conn) later(s *h2Stream, j *job) {
	if h.running >= h.limits.InFlightPerConn {
		h.abort(s, h2RefusedStream)
		return
	}
	if !h.takeSlot(j.q.client.Addr()) {
		h.refuse(s, http.StatusServiceUnavailable)
		return
	}
	s = h.track(s)
	s.state, s.until = h2Waiting, time.Time{}
	ctx, cancel := context.WithCancel(h.ctx)
	s.cancel = cancel
	j.msg = append(j.msg[:0], j.q.msg...)
	j.q.msg = j.msg
	h.j = nil
	h.running++
	h.work.Add(1)
	go h.finish(ctx, s, j)
}

// finish answers s when upstreams have. It takes mu.
func (h *h2Conn) finish(ctx context.Context, s *h2Stream, j *job) {
	defer h.work.Done()
	j.reply = h.wait(ctx, &j.q, j.reply[:0])
	// The slot is free before the write, which can take as long as the client likes to read nothing.
	h.giveSlot(j.q.client.Addr())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running--
	h.now = time.Now()
	if s.cancel != nil { // it was not reset
		s.cancel()
		s.cancel = nil
		h.answer(s, j, answered)
		h.armExpiry()
	}
	h.free(j)
	h.flush()
}

// armExpiry sets the timer to the first of the streams that wait for the client.
func (h *h2Conn) armExpiry() {
	if h.expires || h.open == 0 {
		return
	}
	var first time.Time
	for _, s := range h.streams {
		if !s.until.IsZero() && (first.IsZero() || s.until.Before(first)) {
			first = s.until
		}
	}
	if !first.IsZero() {
		h.expires = true
		h.expiry.Reset(first.Sub(h.now))
	}
}

// expire ends the streams that have waited for too long. It takes mu.
func (h *h2Conn) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expires, h.now = false, time.Now()
	if h.err != nil {
		return
	}
	for _, s := range h.streams {
		switch {
		case s.until.IsZero() || s.until.After(h.now):
		case s.state == h2Receiving:
			h.interrupt(s, http.StatusRequestTimeout)
		case s.state == h2Sending:
			h.abort(s, h2Cancel)
		default:
			h.abort(s, h2NoError)
		}
	}
	h.giveCredit() // the reader may wait for a client that waits for this
	h.armExpiry()
	h.flush()
}
