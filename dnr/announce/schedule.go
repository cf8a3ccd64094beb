package announce

import (
	"net/netip"
	"slices"
	"time"

	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// Router and protocol constants. See RFC 4861, Section 10.
const (
	maxInitialInterval  = 16 * time.Second
	maxInitial          = 3
	maxFinal            = 3
	minDelayBetween     = 3 * time.Second
	maxDelayOfAnswer    = 500 * time.Millisecond
	defaultMaxInterval  = 10 * time.Minute
	shortestMaxInterval = 4 * time.Second
	longestMaxInterval  = 30 * time.Minute
)

// maxUnicast is how many hosts that ask at the same time get an answer of their own, which does not wake up all the
// others: see RFC 7772, Section 5.1. If more ask, one answer goes to all, and no more often than that is allowed.
const maxUnicast = 4

// schedule says when Router Advertisements are to be sent to whom, as RFC 4861, Sections 6.2.4 to 6.2.6, asks for. It
// has no clock: every method is told the time.
type schedule struct {
	// set once
	shortest, longest time.Duration                       // between Router Advertisements that nobody asked for
	random            func(d time.Duration) time.Duration // uniform from 0 to d

	initial int          // how many of the first intervals are left, which are short
	last    time.Time    // when all hosts were last sent one; zero if never
	due     time.Time    // when all hosts are to be sent the next one
	askers  []netip.Addr // who is to be sent one at answer
	answer  time.Time    // zero if there are no askers
}

// minInterval returns the default of MinRtrAdvInterval. See RFC 4861, Section 6.2.1, with its upper bound where the
// default would be below the lower one.
func minInterval(longest time.Duration) time.Duration {
	if longest < 9*time.Second {
		return longest * 3 / 4
	}
	return longest / 3
}

// restart begins with a series of short intervals: with a new link, and with news for the hosts on it.
func (s *schedule) restart(now time.Time) {
	s.initial = maxInitial
	s.due = s.earliest(now)
	s.askers, s.answer = nil, time.Time{}
}

// earliest returns when all hosts may be sent the next one.
func (s *schedule) earliest(now time.Time) time.Time {
	if t := s.last.Add(minDelayBetween); !s.last.IsZero() && t.After(now) {
		return t
	}
	return now
}

// solicit notes that from asks; it is unspecified if the host has no address yet.
func (s *schedule) solicit(now time.Time, from netip.Addr) {
	switch {
	case slices.Contains(s.askers, from):
	case from.IsUnspecified() || len(s.askers) >= maxUnicast:
		if t := s.earliest(now).Add(s.random(maxDelayOfAnswer)); t.Before(s.due) {
			s.due = t
		}
	default:
		s.askers = append(s.askers, from)
		if s.answer.IsZero() {
			s.answer = now.Add(s.random(maxDelayOfAnswer))
		}
	}
}

// next returns when take has something to send.
func (s *schedule) next() time.Time {
	if !s.answer.IsZero() && s.answer.Before(s.due) {
		return s.answer
	}
	return s.due
}

// take returns to whom a Router Advertisement is to be sent now. One to all hosts answers everybody who asked.
func (s *schedule) take(now time.Time) (to []netip.Addr) {
	switch {
	case !s.due.After(now):
		s.sent(now)
		return []netip.Addr{link.AllNodes}
	case !s.answer.IsZero() && !s.answer.After(now):
		to, s.askers, s.answer = s.askers, nil, time.Time{}
	}
	return to
}

// sent notes that all hosts are sent one now.
func (s *schedule) sent(now time.Time) {
	d := s.shortest + s.random(s.longest-s.shortest)
	if s.initial > 0 {
		s.initial--
		d = min(d, maxInitialInterval)
	}
	s.last, s.due = now, now.Add(d)
	s.askers, s.answer = nil, time.Time{}
}
