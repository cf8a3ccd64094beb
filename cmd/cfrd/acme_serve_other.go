//go:build !linux

package main

import "net"

// shareAddress does nothing: there is no relay to share with.
func shareAddress(*net.TCPListener) error { return nil }
