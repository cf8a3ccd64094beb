//go:build !linux

package link

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// errNotLinux is the answer to everything that needs a socket or an interface.
var errNotLinux = fmt.Errorf("link: this needs Linux, not %s: %w", runtime.GOOS, errors.ErrUnsupported)

// Look is only there on Linux.
func Look(string) (State, error) { return State{}, errNotLinux }

// Watch is only there on Linux.
func Watch(context.Context, string, func(State)) error { return errNotLinux }

// OpenND is only there on Linux.
func OpenND(State) (Conn, error) { return nil, errNotLinux }

// OpenDHCPv6 is only there on Linux.
func OpenDHCPv6(State) (Conn, error) { return nil, errNotLinux }

// OpenDHCPv4 is only there on Linux.
func OpenDHCPv4(State) (Conn, error) { return nil, errNotLinux }

// OpenIP is only there on Linux.
func OpenIP(State) (IPConn, error) { return nil, errNotLinux }
