//go:build !linux

package host

import (
	"context"
	"errors"
	"net/netip"

	"github.com/gaissmai/bart"
)

// Claim is empty: prefixes are made local on Linux only.
type Claim struct{}

// New returns errors.ErrUnsupported.
func New(Config) (*Claim, error) { return nil, errors.ErrUnsupported }

// Reclaim has nothing to remove.
func Reclaim() error { return nil }

// Change is empty.
type Change struct{}

// Extend returns errors.ErrUnsupported.
func (c *Claim) Extend([]netip.Prefix) (*Change, error) { return nil, errors.ErrUnsupported }

// Commit does nothing.
func (ch *Change) Commit() {}

// Undo does nothing.
func (ch *Change) Undo() error { return nil }

// Warning returns nothing.
func (c *Claim) Warning() string { return "" }

// Release does nothing.
func (c *Claim) Release() error { return nil }

// Abandon does nothing.
func (c *Claim) Abandon() error { return nil }

// Conflicts returns errors.ErrUnsupported: the state of the host is not known.
func Conflicts([]netip.Prefix) ([]Conflict, error) { return nil, errors.ErrUnsupported }

func readAddresses() (*bart.Lite, error) { return nil, errors.ErrUnsupported }

func watch(context.Context, func()) error { return errors.ErrUnsupported }
