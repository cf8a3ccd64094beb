package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// TestFirewall: programs of the relay's host that listen on all addresses, as sshd does, answer at the host's own
// addresses and at none of the relay's, while flows go on.
func TestFirewall(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	if w := b.relay.Warnings(); len(w) != 0 {
		t.Fatalf("got warnings %v; want none", w)
	}
	const port = 2222
	for _, network := range []string{"tcp4", "tcp6"} {
		greet(t, network, port)
	}
	for _, network := range []string{"udp4", "udp6"} {
		echo(t, network, port)
	}
	tests := []struct {
		name, from, to string
		client         bool // ask from the relay's namespace, and else from the destination's
		answers        bool
	}{
		{"own-address-4", "198.51.100.2", "198.51.100.1", false, true},
		{"own-address-6", "2001:db8:1::2", "2001:db8:1::1", false, true},
		{"egress-4", "198.51.100.2", "192.0.2.7", false, false},
		{"egress-6", "2001:db8:1::2", "2001:db8:e::7", false, false},
		{"relay-4", "198.51.100.1", relay4to4, true, false},
		{"relay-6", "2001:db8:1::1", relay6to6, true, false},
		{"relay-6-unmapped", "2001:db8:1::1", "2001:db8:cf::77", true, false},
	}
	for _, tt := range tests {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(tt.name+"-"+network, func(t *testing.T) {
				err := b.ask(tt.client, network, tt.from, tt.to, port)
				if tt.answers && err != nil || !tt.answers && !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("got error %v; want an answer: %v", err, tt.answers)
				}
			})
		}
	}
}

// ask connects to a port and reads what is sent there, or returned.
func (b *bed) ask(client bool, network, from, to string, port uint16) error {
	ch := make(chan error)
	go func() {
		if !client {
			lockNamespace(b.destination) // this thread ends with the goroutine
		}
		d := net.Dialer{Timeout: deadline}
		if local := netip.AddrPortFrom(netip.MustParseAddr(from), 0); network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(local)
		} else {
			d.LocalAddr = net.TCPAddrFromAddrPort(local)
		}
		c, err := d.Dial(network, net.JoinHostPort(to, fmt.Sprint(port)))
		if err != nil {
			ch <- err
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(deadline))
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				ch <- err
				return
			}
		}
		_, err = c.Read(make([]byte, 1))
		ch <- err
	}()
	return <-ch
}

// greet runs a TCP server that sends an octet to whoever connects.
func greet(t *testing.T, network string, port uint16) {
	t.Helper()
	ln, err := net.Listen(network, fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("!"))
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
}

// echo runs a UDP server that sends back what it gets.
func echo(t *testing.T, network string, port uint16) {
	t.Helper()
	c, err := net.ListenUDP(network, &net.UDPAddr{Port: int(port)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
}
