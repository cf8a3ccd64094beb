//go:build !linux

package dnr

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// thisSystem returns functions that say that they cannot.
func thisSystem() system {
	err := fmt.Errorf("announcing needs Linux, not %s: %w", runtime.GOOS, errors.ErrUnsupported)
	open := func(linkState) (packetConn, error) { return nil, err }
	return system{
		look:   func(string) (linkState, error) { return linkState{}, err },
		watch:  func(context.Context, string, func(linkState)) error { return err },
		openND: open, openDHCPv6: open, openDHCPv4: open, random: jitter,
	}
}
