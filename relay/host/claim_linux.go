package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// Claim is what one relay has put in place on its host. It is safe for concurrent use.
type Claim struct {
	cfg  Config
	slot *slot // or nil if nothing is put in place

	mu       sync.Mutex
	routes   routes
	egress   []netip.Prefix // in force
	firewall firewall
}

// New removes what relays that have ended left behind, and puts in place what cfg says, the firewall first, so that
// nothing answers at an address that is not the relay's yet. An error leaves nothing of this process in place. A Claim
// must be given back by Release, or by Abandon if the relay has never run.
func New(cfg Config) (*Claim, error) {
	c := &Claim{cfg: cfg, egress: cfg.Egress}
	if err := reclaim(c.wanted()); err != nil {
		cfg.Log.Warn().Err(err).Msg("what another run of the relay left behind stays")
	}
	if !cfg.Firewall || len(withoutLoopback(c.wanted())) == 0 { // else extend replaces what is left
		if err := reclaimFirewalls(); err != nil {
			cfg.Log.Debug().Err(err).Msg("look for tables of a relay that has ended")
		}
	}
	if _, err := c.extend(nil); err != nil {
		return nil, errors.Join(err, c.Abandon())
	}
	return c, nil
}

// Reclaim removes the routes and tables of relays that have ended. It is for a start without a relay.
func Reclaim() error { return errors.Join(reclaim(nil), reclaimFirewalls()) }

// takeSlot takes a slot, if anything may be put in place for prefixes and there is none yet.
func (c *Claim) takeSlot(prefixes []netip.Prefix) (err error) {
	if c.slot != nil || len(withoutLoopback(prefixes)) == 0 || !c.cfg.Routes && !c.cfg.Firewall {
		return nil
	}
	if c.slot, err = takeSlot(); err != nil {
		return fmt.Errorf("register with the other relays of this host: %w", err)
	}
	c.routes.number = c.slot.number
	return nil
}

// wanted returns the prefixes in force.
func (c *Claim) wanted() []netip.Prefix { return slices.Concat(c.egress, c.cfg.Relay) }

// extend makes the prefixes in force and more ones the relay's, and returns those that were not before. Without
// success nothing has changed.
func (c *Claim) extend(more []netip.Prefix) (added []netip.Prefix, err error) {
	all := slices.Concat(c.wanted(), more)
	if err := c.takeSlot(all); err != nil {
		return nil, err
	}
	c.protect(more)
	added, err = c.routes.ensure(all, c.cfg.Routes)
	if err != nil {
		err = errors.Join(err, c.routes.undo(added))
		c.protect(nil)
		return nil, err
	}
	return added, nil
}

// protect makes the firewall that of the relay's prefixes, those that are no longer in force among them, and of more.
func (c *Claim) protect(more []netip.Prefix) {
	if !c.cfg.Firewall {
		return
	}
	egress := slices.Concat(c.routes.local, c.egress, more)
	c.firewall.set(c.slot, rules{relay: c.cfg.Relay, egress: egress, ports: c.cfg.Ports}, c.cfg.Log)
}

// Change is a change of the egress that is prepared: both the old prefixes and the new ones are the relay's.
type Change struct {
	claim         *Claim
	egress, added []netip.Prefix
}

// Extend makes other egress prefixes the relay's. It must be followed by Commit or Undo, and there must be no other
// Change meanwhile.
func (c *Claim) Extend(egress []netip.Prefix) (*Change, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	added, err := c.extend(egress)
	if err != nil {
		return nil, err
	}
	return &Change{c, egress, added}, nil
}

// Commit puts the new egress prefixes in force. Those before stay the relay's to the end, for the flows that use them.
func (ch *Change) Commit() {
	ch.claim.mu.Lock()
	defer ch.claim.mu.Unlock()
	ch.claim.egress = ch.egress
}

// Undo gives back the prefixes that were not the relay's before.
func (ch *Change) Undo() error {
	c := ch.claim
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.routes.undo(ch.added)
	c.protect(nil)
	return err
}

// Warning returns what is wanted and not possible, or nothing.
func (c *Claim) Warning() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.firewall.warning
}

// Release gives everything back after the relay has run. The prefixes in force become unreachable.
func (c *Claim) Release() error {
	return c.close(func() error { return c.routes.end(c.wanted()) })
}

// Abandon gives everything back as if there had been no relay.
func (c *Claim) Abandon() error {
	return c.close(func() error { return c.routes.undo(slices.Clone(c.routes.local)) })
}

// close gives back the routes, and then the firewall, which refuses for as long as there are addresses. The slot is the
// last to go.
func (c *Claim) close(routes func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.slot.release()
	return errors.Join(routes(), c.firewall.remove(c.slot))
}
