//go:build !linux

package upstream

import (
	"context"
	"net"
)

// dialFrom connects with d from a port that the kernel draws. Only Linux has a relay, whose flows leave the kernel few.
func dialFrom(ctx context.Context, d net.Dialer, network, addr string) (net.Conn, error) {
	return d.DialContext(ctx, network, addr)
}
