package relay

import "context"

// udpPort serves one UDP port at every relay address.
type udpPort struct{}

func newUDP(r *Relay, port uint16) (*udpPort, error) { return &udpPort{}, nil }

func (u *udpPort) run(ctx context.Context) error { <-ctx.Done(); return nil }
