package upstream

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"syscall"
)

// Ports are drawn from the largest range there is. See RFC 6056, Section 3.2.
const (
	firstPort = 1024
	portTries = 64
)

// dialFrom connects with d from a port that is drawn at random. A kernel that is left to choose draws from less than
// half of all ports, and over UDP of those only that no socket of this host has at any address: the flows of a relay
// leave it a few hundred, which a forger soon guesses. See RFC 5452, Section 9.2.
func dialFrom(ctx context.Context, d net.Dialer, network, addr string) (net.Conn, error) {
	d.Control = sharePort
	for range portTries {
		d.LocalAddr = portOf(network, randomPort())
		conn, err := d.DialContext(ctx, network, addr)
		switch {
		case err == nil:
			return conn, keepPort(conn)
		case !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EADDRNOTAVAIL):
			return nil, err
		}
	}
	d.LocalAddr, d.Control = nil, nil
	return d.DialContext(ctx, network, addr)
}

// sharePort lets a socket be bound to a port that others, which let it be shared too, have at other addresses. A socket
// gets its own address later than its port, as it connects.
func sharePort(_, _ string, c syscall.RawConn) error { return setReuse(c, 1) }

// keepPort ends that, so that no program of this host can bind the port and address of conn and get its responses.
func keepPort(conn net.Conn) error {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err == nil {
		err = setReuse(raw, 0)
	}
	if err != nil {
		conn.Close()
	}
	return err
}

func setReuse(c syscall.RawConn, value int) (err error) {
	if cerr := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, value)
	}); cerr != nil {
		return cerr
	}
	return err
}

// portOf returns a port of the wildcard address.
func portOf(network string, port int) net.Addr {
	if network == "udp" {
		return &net.UDPAddr{Port: port}
	}
	return &net.TCPAddr{Port: port}
}

// randomPort returns a port that cannot be guessed.
func randomPort() int {
	for {
		var b [2]byte
		rand.Read(b[:])
		if port := int(binary.BigEndian.Uint16(b[:])); port >= firstPort {
			return port
		}
	}
}
