package h2

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// stream is one stream, which carries one request and its response.
type stream struct {
	id     uint32
	state  streamState
	ended  bool      // the client sends nothing more
	until  time.Time // when it is ended if it did not move on, or zero
	window int64     // what we may send

	// of the request
	recvWindow int     // what the client may send, with padding
	padding    int     // what of it is to be given back
	length     int64   // of the body as announced, or -1
	got        int64   // of the body
	r          Request // while its body is awaited
	received   []byte  // the beginning of the body

	started bool               // a goroutine of conn.finish has it, perhaps longer than the session
	cancel  context.CancelFunc // ends the wait for an answer, or nil
	rest    []byte             // of the response, what could not be sent yet
}

// streamState says what a stream waits for.
type streamState uint8

const (
	streamReceiving streamState = iota // the body of the request
	streamWaiting                      // an answer
	streamSending                      // room for the rest of the response
	streamAnswered                     // the end of a request that has its response already
	streamReset                        // nothing, it was reset; but the client may not know yet
)

// beginStream returns a stream for a new request. Most are answered at once: the stream is only kept if it is tracked,
// and else overwritten by the next one.
func (s *session) beginStream(id uint32, ended bool) *stream {
	s.transient = stream{id: id, ended: ended, window: s.initial, recvWindow: s.srv.streamWindow(), length: -1}
	return &s.transient
}

// track returns st as a stream that is kept until it is forgotten. If st was not kept before, it must not be used any
// more.
func (s *session) track(st *stream) *stream {
	if st == &s.transient {
		if st = s.spare; st == nil {
			st = new(stream)
		}
		s.spare = nil
		*st = s.transient
		s.streams[st.id] = st
		s.open++
	}
	return st
}

// forget ends a stream that both sides know to be closed.
func (s *session) forget(st *stream) {
	if st == &s.transient {
		return
	}
	s.release(st)
	delete(s.streams, st.id)
	if !st.started {
		s.spare = st // until track overwrites it, callers may still look at it
	}
}

// release gives up what a stream holds, which is no longer under way.
func (s *session) release(st *stream) {
	if st.state == streamReset {
		return
	}
	if st.cancel != nil {
		st.cancel()
		st.cancel = nil
	}
	s.credit += len(st.received)
	s.queued -= len(st.rest)
	st.received, st.rest, st.r = nil, nil, Request{}
	if i := slices.Index(s.blocked, st); i >= 0 {
		s.blocked = slices.Delete(s.blocked, i, i+1)
	}
	st.until = time.Time{}
	s.active = s.now
	if s.open--; s.open == 0 && s.phase == phaseLeaving {
		s.host.wake()
	}
}

// abort resets a stream. What the client still sends on it is ignored for a while, because it cannot know yet. See RFC
// 9113, Section 5.1. Clients can make a server reset streams, which counts as if they had done it themselves. See
// CVE-2025-8671.
func (s *session) abort(st *stream, c code) {
	s.resets.spend(s.now)
	s.appendReset(st.id, c)
	if st.ended {
		s.forget(st)
		return
	}
	st = s.track(st)
	s.release(st)
	st.state = streamReset
	if s.resetIDs = append(s.resetIDs, st.id); len(s.resetIDs) > s.srv.cfg.MaxConcurrent {
		delete(s.streams, s.resetIDs[0])
		s.resetIDs = slices.Delete(s.resetIDs, 0, 1)
	}
}

// finished notes that the whole response of st is gathered. A request that is still on its way has some time to end by
// itself: many clients do not expect to be interrupted. See RFC 9113, Section 8.1.
func (s *session) finished(st *stream) {
	s.control.earn(controlPerAnswer)
	if st.ended {
		s.forget(st)
		return
	}
	st = s.track(st)
	s.credit += len(st.received)
	st.received, st.state, st.until = nil, streamAnswered, s.now.Add(s.srv.cfg.ReadTimeout)
}

// handleReset ends a stream, and the wait for its answer. See RFC 9113, Section 6.4.
func (s *session) handleReset(f *frame) error {
	switch {
	case s.idle(f.id):
		return codeProtocol
	case len(f.payload) != 4:
		return codeFrameSize
	}
	st := s.streams[f.id]
	if st == nil || st.state == streamReset {
		delete(s.streams, f.id)
		s.control.spend(s.now)
		return nil
	}
	s.forget(st)
	s.resets.spend(s.now)
	return nil
}

// handleData takes a part of a message. See RFC 9113, Section 6.1.
func (s *session) handleData(f *frame) error {
	if s.idle(f.id) {
		return codeProtocol
	}
	n := len(f.payload)
	if n > s.recvWindow {
		return codeFlowControl
	}
	data, ok := f.unpadded()
	if !ok {
		return codeProtocol
	}
	s.recvWindow -= n
	s.credit += n - len(data)
	ends := f.flags&flagEndStream != 0
	if len(data) == 0 && !ends {
		s.control.spend(s.now)
	}
	st := s.streams[f.id]
	switch {
	case st == nil:
		s.credit += len(data)
		s.abort(s.beginStream(f.id, false), codeStreamClosed)
		return nil
	case st.state == streamReset:
		s.credit += len(data)
		if ends {
			s.forget(st)
		}
		return nil
	case st.ended:
		s.credit += len(data)
		s.abort(st, codeStreamClosed)
		return nil
	case n > st.recvWindow:
		s.credit += len(data)
		s.abort(st, codeFlowControl)
		return nil
	}
	st.recvWindow -= n
	s.returnPadding(st, n-len(data))
	s.body(st, data, ends)
	return nil
}

// returnPadding keeps padding from using up the window that the message needs.
func (s *session) returnPadding(st *stream, n int) {
	if st.padding += n; st.padding >= paddingCredit && st.state == streamReceiving {
		s.appendWindowUpdate(st.id, uint32(st.padding))
		st.recvWindow += st.padding
		st.padding = 0
	}
}

// body takes a part of the body of st. What is kept of it is given back to the window only when it is no longer.
func (s *session) body(st *stream, data []byte, ends bool) {
	st.got += int64(len(data))
	wrong := st.length >= 0 && (st.got > st.length || ends && st.got < st.length)
	keeps := st.state == streamReceiving && !ends && st.got <= int64(s.srv.cfg.MaxBody) && !wrong
	if !keeps {
		s.credit += len(data)
	}
	switch {
	case wrong:
		s.abort(st, codeProtocol) // see RFC 9113, Section 8.1.1
	case keeps:
		st.received = append(st.received, data...)
	case st.state == streamReceiving && st.got > int64(s.srv.cfg.MaxBody):
		st.ended = ends
		s.interrupt(st, http.StatusRequestEntityTooLarge)
	case st.state == streamReceiving:
		s.endMessage(st, data)
	case ends:
		s.endBody(st)
	}
}

// endBody notes the end of a request whose body nobody looks at.
func (s *session) endBody(st *stream) {
	st.ended = true
	if st.state == streamAnswered {
		s.forget(st)
	}
}

// endMessage has the request answered whose body ends with last.
func (s *session) endMessage(st *stream, last []byte) {
	body := last
	if len(st.received) > 0 {
		body = append(st.received, last...)
		s.credit += len(st.received)
		st.received = nil
	}
	st.ended, st.until = true, time.Time{}
	st.r.Complete = true
	s.answer(st, &st.r, body)
}

// interrupt refuses a request before it has ended.
func (s *session) interrupt(st *stream, status int) {
	st = s.track(st)
	s.refuse(st, status)
	if !st.ended {
		s.abort(st, codeNo)
	}
}

// later has the request in x answered by a goroutine. Streams that the client has reset count until their goroutines
// have ended, so that resets do not get it more than its share. See CVE-2023-44487.
func (s *session) later(st *stream, x *exchange) {
	if s.running >= s.srv.cfg.MaxConcurrent {
		s.abort(st, codeRefusedStream)
		return
	}
	st = s.track(st)
	st.state, st.until, st.started = streamWaiting, time.Time{}, true
	ctx, cancel := context.WithCancel(s.ctx)
	st.cancel = cancel
	x.body = append(x.body[:0], x.r.Body...) // the reader uses its buffer again
	x.r.Body = x.body
	s.x = nil
	s.running++
	s.host.start(ctx, st, x)
}

// finish sends the response in x, unless st was reset meanwhile.
func (s *session) finish(st *stream, x *exchange) {
	s.running--
	if st.cancel != nil {
		st.cancel()
		st.cancel = nil
		s.respond(st, x)
	}
}

// nextExpiry returns when the first of the streams has waited for the client for too long, or zero.
func (s *session) nextExpiry() (first time.Time) {
	if s.open == 0 {
		return first
	}
	for _, st := range s.streams {
		if !st.until.IsZero() && (first.IsZero() || st.until.Before(first)) {
			first = st.until
		}
	}
	return first
}

// expire ends the streams that have waited for the client for too long.
func (s *session) expire() {
	for _, st := range s.streams {
		switch {
		case st.until.IsZero() || st.until.After(s.now):
		case st.state == streamReceiving:
			s.interrupt(st, http.StatusRequestTimeout)
		case st.state == streamSending:
			s.abort(st, codeCancel)
		default:
			s.abort(st, codeNo)
		}
	}
	s.giveCredit() // the client may wait for it, and the reader for the client
}
