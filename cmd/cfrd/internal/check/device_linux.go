package check

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bindToDevice makes a socket send and receive on one interface only.
func bindToDevice(name string) ControlFunc {
	return func(_, _ string, c syscall.RawConn) error {
		var failure error
		if err := c.Control(func(fd uintptr) { failure = unix.BindToDevice(int(fd), name) }); err != nil {
			return err
		}
		return failure
	}
}
