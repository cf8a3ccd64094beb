// Package reuseport lets sockets of this process share a port, which the relay needs: it listens on its ports at all
// addresses, beside listeners of the same port at one address. The kernel prefers the more specific socket.
package reuseport

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Share lets sockets that this process binds later have the port of c, which is bound already and was so for itself
// alone: an address that is in use stays an error.
func Share(c syscall.Conn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	if err := rc.Control(func(fd uintptr) {
		failure = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); err != nil {
		return err
	}
	return failure
}
