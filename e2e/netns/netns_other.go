//go:build !linux

package netns

// rerun reports that there are no network namespaces here.
func rerun() (code int, ok bool) { return 0, false }

// prepare has nothing to prepare.
func prepare() error { return nil }
