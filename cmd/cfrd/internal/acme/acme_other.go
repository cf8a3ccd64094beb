//go:build !linux

package acme

import (
	"net"
	"os"
)

// shareAddress does nothing: there is no relay to share with.
func shareAddress(*net.TCPListener) error { return nil }

// tryLock does nothing: elsewhere a store is of one process.
func tryLock(*os.File) (bool, error) { return true, nil }
