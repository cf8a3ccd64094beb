//go:build !linux

package dnr

import (
	"errors"
	"fmt"
	"runtime"
)

func openLink(linkState) (linkConn, error) {
	return nil, fmt.Errorf("listening needs Linux, not %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
