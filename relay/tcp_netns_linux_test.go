package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestTCPNamespace relays between the namespaces that udpnetns_linux_test.go draws: in both families, and to a
// destination where nobody listens.
func TestTCPNamespace(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	tests := []struct{ name, relay, client, destination string }{
		{"4-to-4", relay4to4, "198.51.100.1", "198.51.100.2"},
		{"6-to-4", relay6to4, "2001:db8:1::1", "198.51.100.2"},
		{"6-to-6", relay6to6, "2001:db8:1::1", "2001:db8:1::2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := dialTCPFrom(tt.client, tt.relay)
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("nobody listens: got error %v; want a reset", err)
			}

			ln := b.listenTCP(t, tt.destination)
			if c, err = dialTCPFrom(tt.client, tt.relay); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			server, err := ln.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			if src := addrPort(server.RemoteAddr()).Addr().Unmap(); !b.relay.egress().owns(src) {
				t.Errorf("got source %v; want an egress address", src)
			}
			write(t, c, "question")
			wantBytes(t, server, "question")
			server.Close()
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Errorf("got error %v; want the end", err)
			}
		})
	}
}

func dialTCPFrom(client, relay string) (*net.TCPConn, error) {
	var d net.Dialer
	c, err := d.DialTCP(context.Background(), "tcp", netip.AddrPortFrom(netip.MustParseAddr(client), 0),
		netip.AddrPortFrom(netip.MustParseAddr(relay), bedPort))
	if err == nil {
		c.SetDeadline(time.Now().Add(deadline))
	}
	return c, err
}

// listenTCP listens in the destination's namespace.
func (b *bed) listenTCP(t *testing.T, addr string) *net.TCPListener {
	t.Helper()
	type result struct {
		ln  net.Listener
		err error
	}
	ch := make(chan result)
	go func() {
		lockNamespace(b.destination) // this thread ends with the goroutine
		ln, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(bedPort)))
		ch <- result{ln, err}
	}()
	res := <-ch
	if res.err != nil {
		t.Fatal(res.err)
	}
	t.Cleanup(func() { res.ln.Close() })
	ln := res.ln.(*net.TCPListener)
	ln.SetDeadline(time.Now().Add(deadline))
	return ln
}
