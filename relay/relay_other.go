//go:build !linux

package relay

import (
	"context"
	"errors"
	"net/netip"
)

// plane is empty: New fails, since flows are relayed on Linux only.
type plane struct{}

func descriptors() (int, error) { return 0, errors.ErrUnsupported }

func (r *Relay) listen() error { return errors.ErrUnsupported }

func (r *Relay) runPlane(context.Context) error { return errors.ErrUnsupported }

func (r *Relay) closePlane() error { return nil }

func (r *Relay) ensureLocal([]netip.Prefix) error { return errors.ErrUnsupported }
