package host

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	"github.com/rs/zerolog"
)

// Addresses are the addresses of this host at the moment: those of its interfaces, and all to which it has a local
// route. They are safe for concurrent use.
type Addresses struct {
	own atomic.Pointer[bart.Lite]
}

// errOverrun means that changes were lost.
var errOverrun = errors.New("changes of this host's addresses were lost")

// retryWatch is how long the watch pauses before it begins again, so that a host whose routes change all the time is
// not read all the time.
const retryWatch = 200 * time.Millisecond

// NewAddresses reads the addresses of this host.
func NewAddresses() (*Addresses, error) {
	a := new(Addresses)
	return a, a.read()
}

// Contains reports whether addr, which is not an IPv4-mapped IPv6 address, is this host's.
func (a *Addresses) Contains(addr netip.Addr) bool { return a.own.Load().Contains(addr) }

func (a *Addresses) read() error {
	own, err := readAddresses()
	if err == nil {
		a.own.Store(own)
	}
	return err
}

// Watch follows the changes of the host's addresses until ctx is done. When changes were lost, it reads all of them again.
func (a *Addresses) Watch(ctx context.Context, log zerolog.Logger) {
	a.follow(ctx, log, watch, a.read)
}

// follow is Watch with the kernel behind functions.
func (a *Addresses) follow(ctx context.Context, log zerolog.Logger,
	watch func(ctx context.Context, changed func()) error, read func() error,
) {
	for {
		err := watch(ctx, func() {
			if err := read(); err != nil {
				log.Warn().Err(err).Msg("the addresses that this host had before count")
			}
		})
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errOverrun):
			log.Debug().Err(err).Msg("reading all again")
		default:
			log.Warn().Err(err).Msg("addresses that this host gets are not known for a moment")
		}
		pause(ctx, retryWatch)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
