//go:build !linux

package reuseport

import "syscall"

// Share does nothing: the relay, which is what ports are shared with, needs Linux.
func Share(syscall.Conn) error { return nil }
