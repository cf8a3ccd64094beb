//go:build !linux

package check

// bindToDevice leaves it to the system: listening on a link, which comes first, needs Linux.
func bindToDevice(string) ControlFunc { return nil }
