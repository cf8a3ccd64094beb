package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// TestWatch: addresses and local routes count from when they come to when they go.
func TestWatch(t *testing.T) {
	uplink(t)
	a, err := NewAddresses()
	if err != nil {
		t.Fatal(err)
	}
	if !a.Contains(netip.MustParseAddr("127.0.0.1")) {
		t.Error("got no 127.0.0.1; want every address that there is at the start")
	}
	ctx, stop := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { a.Watch(ctx, zerolog.Nop()); return nil })
	for _, row := range []struct{ come, leave, addr string }{
		{"addr add 198.51.100.7/24 dev uplink", "addr del 198.51.100.7/24 dev uplink", "198.51.100.7"},
		{"addr add 2001:db8:1::7/64 dev uplink nodad", "addr del 2001:db8:1::7/64 dev uplink", "2001:db8:1::7"},
		{"route add local 203.0.113.0/24 dev lo", "route del local 203.0.113.0/24 dev lo", "203.0.113.77"},
		{"-6 route add local 2001:db8:77::/64 dev lo", "-6 route del local 2001:db8:77::/64 dev lo", "2001:db8:77::1"},
		{"route add local 203.0.113.0/24 dev lo table 77", "route del local 203.0.113.0/24 dev lo table 77", "203.0.113.77"},
	} {
		ip(t, row.come)
		wantSoon(t, a, row.addr, true)
		ip(t, row.leave)
		wantSoon(t, a, row.addr, false)
	}
	// A burst is more than the kernel keeps for a watcher.
	var burst strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&burst, "route add local 10.1.%d.%d/32 dev lo\n", i>>8, i&0xff)
	}
	burst.WriteString("addr add 198.51.100.8/24 dev uplink\n")
	ipBatch(t, burst.String())
	wantSoon(t, a, "198.51.100.8", true)
	wantSoon(t, a, "10.1.78.31", true)
	ipBatch(t, strings.ReplaceAll(burst.String(), " add ", " del "))
	wantSoon(t, a, "198.51.100.8", false)
	wantSoon(t, a, "10.1.78.31", false)
	stop()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// wantSoon waits until a has an address, or no longer.
func wantSoon(t *testing.T, a *Addresses, addr string, want bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for a.Contains(netip.MustParseAddr(addr)) != want {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: got contained %v for a minute; want %v", addr, !want, want)
		}
	}
}

// TestFollow reads everything again after changes were lost, and whenever watching becomes possible.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ends := make(chan error)
		watches, reads := 0, 0
		watch := func(ctx context.Context, changed func()) error {
			watches++
			changed()
			select {
			case err := <-ends:
				return err
			case <-ctx.Done():
				return nil
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			new(Addresses).follow(ctx, zerolog.Nop(), watch, func() error { reads++; return nil })
		}()
		for i, err := range []error{errOverrun, errors.New("no socket"), errOverrun} {
			synctest.Wait()
			if watches != i+1 || reads != i+1 {
				t.Errorf("got %d watches and %d reads; want %d", watches, reads, i+1)
			}
			ends <- err
			time.Sleep(retryWatch)
		}
		stop()
		<-done
	})
}
