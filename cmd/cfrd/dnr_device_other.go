//go:build !linux

package main

// bindToDevice leaves it to the system: listening on a link, which comes first, needs Linux.
func bindToDevice(string) bindFunc { return nil }
