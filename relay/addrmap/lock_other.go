//go:build !linux

package addrmap

import (
	"errors"
	"fmt"
	"os"
)

// lock would lock f until it is closed. Nothing that leases addresses runs here.
func lock(*os.File) error { return fmt.Errorf("lock: %w", errors.ErrUnsupported) }

// syncData returns once what was written to f is on disk.
func syncData(f *os.File) error { return f.Sync() }
