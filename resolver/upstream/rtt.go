package upstream

import "time"

// A try that has no response yet is not given up, but from then on another one runs as well: a resolver may need seconds
// for a name that nobody asked for in a while. The delay follows the round trip time as a retransmission timer does
// (RFC 6298, Section 2), between these bounds.
const (
	firstDelay = 800 * time.Millisecond
	minDelay   = 200 * time.Millisecond
	maxDelay   = 1500 * time.Millisecond
)

// rtt estimates how long responses take. The zero value knows nothing. Its owner guards it.
type rtt struct {
	smoothed, variation time.Duration
}

// observe takes note of a response that took d. See RFC 6298, Section 2.
func (r *rtt) observe(d time.Duration) {
	if r.smoothed == 0 {
		r.smoothed, r.variation = d, d/2
		return
	}
	r.variation += ((r.smoothed - d).Abs() - r.variation) / 4
	r.smoothed += (d - r.smoothed) / 8
}

// usual returns how long a response takes at most, as a rule.
func (r *rtt) usual() time.Duration {
	if r.smoothed == 0 {
		return firstDelay
	}
	return min(max(r.smoothed+4*r.variation, minDelay), maxDelay)
}
