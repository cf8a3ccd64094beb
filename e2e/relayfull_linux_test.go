package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestPoolExhausted hands out all addresses of a small pool; then the policy decides.
func TestPoolExhausted(t *testing.T) {
	need(t, "dig")
	for mode, want := range map[string]string{"pass": "198.51.100.", "fail": "Not Ready"} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t)
			ca := l.newAuthority()
			l.blackHole()
			config := strings.NewReplacer(
				fmt.Sprintf("[%s, %q]", relayPool4, relayPool6), "[10.99.0.0/30]", "on_failure: pass", "on_failure: "+mode,
			).Replace(l.config(ca, settings{}))
			d := l.startCfrd(config)
			ask := func(host int) string {
				return l.customer.must("dig", "+noall", "+answer", "+comments", "@"+resolver4, fmt.Sprintf("warm%d.cdn.example", host), "A")
			}
			for host := 21; host < 23; host++ {
				mustBeIn(t, "10.99.0.0/30", answers(ask(host), "A"))
			}
			if got := ask(23); !strings.Contains(got, want) {
				t.Errorf("without an address left: got\n%s\nwant %q in it", got, want)
			}
			mustBeIn(t, "10.99.0.0/30", answers(ask(21), "A"))
			if got := d.metric("cfrd_steer_failed_total"); got != "1" {
				t.Errorf("got %s failures to steer; want 1", got)
			}
		})
	}
}

// TestRelayFull: a flood of UDP flows does not stop TCP; and while the relay is full of TCP flows, the policy decides
// what the resolver says, also of names whose relay addresses are in its cache.
func TestRelayFull(t *testing.T) {
	need(t, "dig", "curl")
	for mode, want := range map[string]string{"pass": "198.51.100.2", "fail": "Not Ready"} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t)
			ca := l.newAuthority()
			l.blackHole()
			config := l.config(ca, settings{relay: "  limits: {tcp_flows: 2, udp_flows: 5}"})
			d := l.startCfrd(strings.Replace(config, "on_failure: pass", "on_failure: "+mode, 1))
			addr := l.relayAddr("warm2.cdn.example", "A")
			mustBeIn(t, relayPool4, []string{addr})
			l.fillUDP(d, addr+":4443")
			flows := l.fillTCP(addr+":4443", 2)
			if got := l.customer.must("dig", "@"+resolver4, "warm2.cdn.example", "A"); !strings.Contains(got, want) {
				t.Errorf("while the relay is full: got\n%s\nwant %q in it", got, want)
			}
			if got, err := l.provider.try("curl", "-s", "http://127.0.0.1:9153/readyz"); err != nil || !strings.Contains(got, "relay") {
				t.Errorf("readyz: got %q, %v; want it to speak of the relay", got, err)
			}
			for _, c := range flows {
				c.Close()
			}
			poll(t, 15*time.Second, "steering once there is room", func() error {
				if got := answers(l.customer.must("dig", "@"+resolver4, "warm2.cdn.example", "A"), "A"); len(got) != 1 || got[0] != addr {
					return fmt.Errorf("got %v; want %s", got, addr)
				}
				return nil
			})
		})
	}
}

// fillUDP begins flows to a silent destination until the relay refuses one.
func (l *lab) fillUDP(d *daemon, addr string) {
	l.t.Helper()
	poll(l.t, 5*time.Second, "the relay is full of UDP flows", func() error {
		c, err := l.customer.dial("udp", "", addr)
		if err != nil {
			return err
		}
		l.t.Cleanup(func() { c.Close() })
		if _, err := c.Write([]byte("anybody?")); err != nil {
			return err
		}
		if n := d.number(`cfrd_relay_flows{protocol="udp"}`); n < 5 {
			return fmt.Errorf("got %v flows; want 5", n)
		}
		return nil
	})
}

// fillTCP returns both ends of n flows to port 4443 of the origin.
func (l *lab) fillTCP(addr string, n int) (ends []net.Conn) {
	l.t.Helper()
	var ln net.Listener
	err := l.internet.do(func() (err error) {
		ln, err = net.Listen("tcp", origin4+":4443")
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ln.Close() })
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	for range n {
		client, err := l.customer.dial("tcp", "", addr)
		if err != nil {
			l.t.Fatal(err)
		}
		server, err := ln.Accept()
		if err != nil {
			l.t.Fatal(err)
		}
		ends = append(ends, client, server)
	}
	return ends
}

// TestKillWhileLeasing kills cfrd at moments in which it writes leases. Whatever address a client had got by then
// stands for the same destination afterwards.
func TestKillWhileLeasing(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.blackHole()
	config := l.config(ca, settings{})
	leased := map[byte]string{}
	for round := range 6 {
		d := l.startCfrd(config)
		// Some more destinations each time, and the kill after some more answers.
		l.leaseUntil(leased, 30*round, 30*round+60, 10*round)
		d.kill()
	}
	if len(leased) < 50 {
		t.Errorf("got %d leases; want many, or this proves little", len(leased))
	}
	l.startCfrd(config)
	for host, addr := range leased {
		if got := l.relayAddr(fmt.Sprintf("warm%d.cdn.example", host), "A"); got != addr {
			t.Errorf("198.51.100.%d: got %s; want %s, as before", host, got, addr)
		}
	}
}

// leaseUntil asks at once for names of the destinations from first to last, notes the relay addresses, and returns
// after some answers, or when none come any more.
func (l *lab) leaseUntil(leased map[byte]string, first, last, some int) {
	l.t.Helper()
	c, err := l.customer.dial("udp", "", resolver4+":53")
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	for host := first; host < last; host++ {
		msg := question(fmt.Sprintf("warm%d.cdn.example", host))
		binary.BigEndian.PutUint16(msg, uint16(host))
		c.Write(msg)
	}
	c.SetReadDeadline(time.Now().Add(3 * time.Second))
	buf := make([]byte, 512)
	for range some {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		host, addr := buf[1], net.IP(buf[n-4:n]).String()
		if old := leased[host]; old != "" && old != addr {
			l.t.Errorf("198.51.100.%d: got %s; want %s, as before", host, addr, old)
		}
		leased[host] = addr
	}
}
