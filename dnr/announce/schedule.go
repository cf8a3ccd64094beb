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
// others: see RFC 7772, Section 5.1. If more ask, all hosts are sent one answer, at most every minDelayBetween.
const maxUnicast = 4

// schedule says when Router Advertisements are to be sent to whom, as RFC 4861, Sections 6.2.4 to 6.2.6, asks for. It
// has no clock: the methods take the time as a parameter.
type schedule struct {
	// set once
	shortest, longest time.Duration                       // bounds of the time between unsolicited Router Advertisements
	random            func(d time.Duration) time.Duration // uniform from 0 to d

	initialLeft int          // how many of the first, short intervals are left
	lastSent    time.Time    // when the last one to all hosts was sent; zero if none was
	nextAt      time.Time    // when the next one to all hosts is due
	solicitors  []netip.Addr // hosts that are to be sent one each at answerAt
	answerAt    time.Time    // zero if there are no solicitors
}

// minInterval returns the default of MinRtrAdvInterval. See RFC 4861, Section 6.2.1, with its upper bound where the
// default would be below the lower one.
func minInterval(longest time.Duration) time.Duration {
	if longest < 9*time.Second {
		return longest * 3 / 4
	}
	return longest / 3
}

// restart begins a series of short intervals, as on a new link and whenever the content has changed.
func (s *schedule) restart(now time.Time) {
	s.initialLeft = maxInitial
	s.nextAt = s.earliest(now)
	s.solicitors, s.answerAt = nil, time.Time{}
}

// earliest returns when the next one to all hosts may be sent.
func (s *schedule) earliest(now time.Time) time.Time {
	if t := s.lastSent.Add(minDelayBetween); !s.lastSent.IsZero() && t.After(now) {
		return t
	}
	return now
}

// solicit schedules the answer to a solicitation from a host, whose address is unspecified if it has none yet.
func (s *schedule) solicit(now time.Time, from netip.Addr) {
	switch {
	case slices.Contains(s.solicitors, from):
	case from.IsUnspecified() || len(s.solicitors) >= maxUnicast:
		if t := s.earliest(now).Add(s.random(maxDelayOfAnswer)); t.Before(s.nextAt) {
			s.nextAt = t
		}
	default:
		s.solicitors = append(s.solicitors, from)
		if s.answerAt.IsZero() {
			s.answerAt = now.Add(s.random(maxDelayOfAnswer))
		}
	}
}

// next returns when take has something to send.
func (s *schedule) next() time.Time {
	if !s.answerAt.IsZero() && s.answerAt.Before(s.nextAt) {
		return s.answerAt
	}
	return s.nextAt
}

// take returns the addresses to which a Router Advertisement is to be sent now. One to all hosts also answers the
// solicitors.
func (s *schedule) take(now time.Time) (to []netip.Addr) {
	switch {
	case !s.nextAt.After(now):
		s.noteSent(now)
		return []netip.Addr{link.AllNodes}
	case !s.answerAt.IsZero() && !s.answerAt.After(now):
		to, s.solicitors, s.answerAt = s.solicitors, nil, time.Time{}
	}
	return to
}

// noteSent notes that one is sent to all hosts now, and schedules the next.
func (s *schedule) noteSent(now time.Time) {
	d := s.shortest + s.random(s.longest-s.shortest)
	if s.initialLeft > 0 {
		s.initialLeft--
		d = min(d, maxInitialInterval)
	}
	s.lastSent, s.nextAt = now, now.Add(d)
	s.solicitors, s.answerAt = nil, time.Time{}
}
