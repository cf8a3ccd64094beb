package upstream

import (
	"context"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

const (
	// plainFor is how long an upstream that knows no EDNS is asked without. It may be replaced by one that does. See
	// RFC 6891, Section 6.2.2.
	plainFor = 15 * time.Minute
	// ednsFor is how long an upstream that answered with EDNS is not asked without: an error that says otherwise is
	// forged, or about something else.
	ednsFor = time.Hour
)

// edns is what is known about an upstream's EDNS.
type edns struct {
	spoken     time.Time // when a response had an OPT record
	plainUntil time.Time // until then, queries go without
}

// exchangeEDNS sends query to u, without its OPT record if u knows no EDNS. Those that do not must say FORMERR; some say
// NOTIMP. See RFC 6891, Section 7.
func (u *upstream) exchangeEDNS(ctx context.Context, query []byte) ([]byte, error) {
	if u.plain() {
		return u.x.Exchange(ctx, wire.WithoutOPT(query))
	}
	msg, err := u.x.Exchange(ctx, query)
	if err != nil || !rejectsEDNS(msg) || !u.mayBePlain() {
		return msg, err
	}
	again, err := u.x.Exchange(ctx, wire.WithoutOPT(query))
	if err != nil {
		return msg, nil
	}
	if !rejectsEDNS(again) {
		u.avoidEDNS()
	}
	return again, nil
}

// rejectsEDNS reports whether msg may be what an upstream says that does not know OPT records.
func rejectsEDNS(msg []byte) bool {
	if len(msg) < wire.HeaderLen || msg[10]|msg[11] != 0 {
		return false
	}
	rcode := msg[3] & 0xf
	return rcode == dns.RcodeFormatError || rcode == dns.RcodeNotImplemented
}

// plain reports whether u is to be asked without EDNS.
func (u *upstream) plain() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.edns.plainUntil.IsZero() && time.Now().Before(u.edns.plainUntil)
}

// mayBePlain reports whether nothing shows that u knows EDNS.
func (u *upstream) mayBePlain() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.edns.spoken.IsZero() || time.Since(u.edns.spoken) > ednsFor
}

// avoidEDNS takes note that u answers if it is asked without EDNS.
func (u *upstream) avoidEDNS() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.edns.plainUntil = time.Now().Add(plainFor)
}

// speaksEDNS takes note that u knows EDNS.
func (u *upstream) speaksEDNS() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.edns = edns{spoken: time.Now()}
}
