package relay

import "net/netip"

// proto is a transport protocol as an index of Stats.
type proto uint8

const (
	tcp proto = iota
	udp
)

// grant is the permission to set up one flow; release must be called once, when the flow has ended.
type grant struct {
	dst     netip.AddrPort // where to
	release func()
}
