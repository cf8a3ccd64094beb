package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// notifyReloading returns the message that a reload begins. It carries the time, which the service type notify-reload
// asks for.
func notifyReloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return "RELOADING=1"
	}
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}
