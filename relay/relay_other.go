//go:build !linux

package relay

import (
	"context"
	"errors"
)

// plane is empty: New fails, since flows are relayed on Linux only.
type plane struct{}

// RaiseDescriptors is not known here.
func RaiseDescriptors() (int, error) { return 0, errors.ErrUnsupported }

func localPorts() (first, last uint16) { return 0, 0 }

func (r *Relay) listen() error { return errors.ErrUnsupported }

func (r *Relay) runPlane(context.Context) error { return errors.ErrUnsupported }

func (r *Relay) closePlane() {}
