package reuseport

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestShare has a second socket bind the port of the first before and after it is shared.
func TestShare(t *testing.T) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	second := func() error {
		ln, err := lc.Listen(context.Background(), "tcp", first.Addr().String())
		if err == nil {
			ln.Close()
		}
		return err
	}
	if err := second(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("before: got error %v; want the address in use", err)
	}
	if err := Share(first.(*net.TCPListener)); err != nil {
		t.Fatal(err)
	}
	if err := second(); err != nil {
		t.Errorf("after: got error %v; want none", err)
	}
	first.Close()
	if err := Share(first.(*net.TCPListener)); err == nil {
		t.Error("of a closed socket: got no error; want one")
	}
}
