//go:build !linux

package main

import (
	"errors"
	"syscall"
)

// reusePort says that the demo needs Linux, as the relay does.
func reusePort(string, string, syscall.RawConn) error {
	return errors.New("the demo runs on Linux only")
}
