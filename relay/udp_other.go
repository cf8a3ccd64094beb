//go:build !linux

package relay

import (
	"context"
	"errors"
)

// upstream is the half of a flow that has to do with sockets.
type upstream struct{}

// udpPort serves one UDP port at every relay address.
type udpPort struct{}

func newUDP(*Relay, uint16) (*udpPort, error) {
	return nil, errors.New("UDP is relayed on Linux only")
}

func (u *udpPort) run(context.Context) error { return nil }

func (u *udpPort) close() {}
