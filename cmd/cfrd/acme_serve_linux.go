package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// shareAddress lets listeners of this process for all addresses, such as those of the relay, bind the port as well.
func shareAddress(ln *net.TCPListener) error {
	rc, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); err != nil {
		return err
	}
	return serr
}
