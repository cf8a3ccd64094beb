//go:build !linux

package relay

import "net/netip"

// routes are left to the operator here.
type routes struct{}

func (r *routes) ensure(prefixes []netip.Prefix, add bool) error { return nil }

func (r *routes) remove() error { return nil }
