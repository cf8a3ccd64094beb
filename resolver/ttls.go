package resolver

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// TTLs bounds for how long answers of upstreams are kept, and the TTLs that clients get. The values count in whole
// seconds. What is in the cache when a bound is lowered is asked for anew if it was to be kept for longer.
type TTLs struct {
	// Min raises lower TTLs. 0 means that they stay as they are; at most MaxMinTTL, since what has changed is seen late.
	Min time.Duration
	// Max lowers higher TTLs, at most to a day. 0 means a day.
	Max time.Duration
	// MaxNegative lowers those of answers that a name or type does not exist, from MaxNegativeTTL on down. 0 means
	// DefaultMaxNegativeTTL. See RFC 2308, Section 5.
	MaxNegative time.Duration
}

// Bounds of TTLs.
const (
	MaxTTL                = wire.MaxTTL * time.Second
	MaxNegativeTTL        = wire.MaxNegativeTTL * time.Second
	DefaultMaxNegativeTTL = time.Hour
	MaxMinTTL             = time.Hour
)

// Validate reports what is out of bounds, each with the name of the setting in the configuration at its beginning.
func (t TTLs) Validate() error {
	var errs []error
	check := func(name string, value, highest time.Duration) {
		if value < 0 || value > highest || value > 0 && value < time.Second {
			errs = append(errs, fmt.Errorf("%s: must be %s to %s, not %s", name, time.Second, highest, value))
		}
	}
	check("min_ttl", t.Min, MaxMinTTL)
	check("max_ttl", t.Max, MaxTTL)
	check("max_negative_ttl", t.MaxNegative, MaxNegativeTTL)
	if len(errs) == 0 && t.Max != 0 && t.Min > t.Max {
		errs = append(errs, fmt.Errorf("min_ttl: must not be above max_ttl, %s", t.Max))
	}
	return errors.Join(errs...)
}

// bounds returns t as responses take it.
func (t TTLs) bounds() wire.TTLBounds {
	seconds := func(d time.Duration) uint32 { return uint32(d / time.Second) }
	return wire.TTLBounds{
		Min: seconds(t.Min), Max: seconds(cmp.Or(t.Max, MaxTTL)), MaxNegative: seconds(cmp.Or(t.MaxNegative, DefaultMaxNegativeTTL)),
	}
}
