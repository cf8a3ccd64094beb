//go:build !linux

package relay

import (
	"io"
	"net"
)

func listenerOptions(fd int, v6 bool) error { return nil }

func dialerOptions(fd int, v6 bool) error { return nil }

func sharedPort(p proto, v6 bool, port uint16) (bool, error) { return false, nil }

// splicer is empty here: bytes go through the process.
type splicer struct{}

func newSplicer(from, to *net.TCPConn, pipes *pipes) (splicer, error) { return splicer{}, nil }

// copy copies one direction until it ends.
func (h *half) copy() outcome {
	n, err := io.Copy(h.to, h.from)
	h.moved(n)
	if err != nil {
		return fromReset
	}
	return halfEnded
}

// watch does not notice a reset here; the time that a flow may be half-closed bounds it.
func (h *half) watch() bool { return false }

func (h *half) failed() bool { return false }

func (h *half) wakeHolder() {}

func outstanding(c *net.TCPConn) int { return 0 }

func unacknowledged(c *net.TCPConn) bool { return false }

// pipes is empty here.
type pipes struct{}

func newPipes(limit int) *pipes { return nil }

func (p *pipes) starved() bool { return false }

func (p *pipes) retry() {}

func (p *pipes) close() {}
