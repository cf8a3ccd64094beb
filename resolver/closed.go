package resolver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"

	"github.com/quic-go/quic-go"
)

// unlessClosed returns err, or nil if err only says that a listener was closed or has been stopped.
func unlessClosed(err error) error {
	for _, end := range []error{
		net.ErrClosed, // what quic.ErrServerClosed unwraps to as well
		http.ErrServerClosed,
		quic.ErrTransportClosed,
		context.Canceled,
		os.ErrDeadlineExceeded, // what stops a reader of UDP
	} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}
