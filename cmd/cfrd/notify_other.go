//go:build !linux

package main

// notifyReloading returns the message that a reload begins, without the time that systemd, on Linux, asks for.
func notifyReloading() string { return "RELOADING=1" }
