package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/http2"
)

// TestAttackConnectionSlots has one customer hold more connections than there are, on all transports, from fifty /64s
// of his /56. On each he asks often enough for it not to be idle, and what is refused he tries again.
func TestAttackConnectionSlots(t *testing.T) {
	a := newAttackLab(t)
	a.serveAttackZones("", nil)
	d := a.startVictim(settings{}, "connections: 400, connections_per_client: 20, idle_timeout: 5s")
	a.underAttack(t, d, growth{128 << 20, 600}, func() {
		a.assault(assault{
			Kind: "hold", Sources: customers6(50), Ways: []string{"tcp", "dot", "doh", "doq"}, Name: "warm1.calm.example",
			Count: 3, Rate: 200, Period: 2 * time.Second, For: 14 * time.Second,
		})
	})
}

// TestAttackFlood has one customer ask as much as a home connection can carry: for new names and for one that is in the
// cache, from one address and from those of a /56.
func TestAttackFlood(t *testing.T) {
	for name, spec := range map[string]assault{
		"new-names-one-address": {Sources: clients4(1), Name: "f%d.flood.example", Count: 40000, Rate: 4000},
		"new-names-one-56":      {Sources: customers6(50), Name: "f%d.flood.example", Count: 40000, Rate: 4000},
		"one-name":              {Sources: clients4(1), Name: "warm1.calm.example", Count: 100000, Rate: 10000},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttackLab(t)
			a.serveAttackZones("", nil)
			d := a.startVictim(settings{}, "")
			spec.Kind, spec.Type = "flood", dns.TypeA
			a.underAttack(t, d, growth{128 << 20, sockets}, func() { a.assault(spec) })
		})
	}
}

// TestAttackDescriptors runs cfrd with 1,024 descriptors, and has eleven clients hold a hundred connections each, which
// is what each of them may. There must be descriptors left to ask the upstream with.
func TestAttackDescriptors(t *testing.T) {
	a := newAttackLab(t)
	a.serveAttackZones("", nil)
	a.nofile = 1024
	d := a.startVictim(settings{}, "")
	a.underAttack(t, d, growth{128 << 20, 1024}, func() {
		a.assault(assault{
			Kind: "hold", Sources: clients4(11), Ways: []string{"tcp"}, Name: "warm1.calm.example",
			Count: 100, Rate: 300, Period: 4 * time.Second, For: 14 * time.Second,
		})
	})
}

// TestAttackHTTP2Memory opens a thousand HTTP/2 connections that ask for large answers and read none. What is buffered
// for all of them together has a bound: a thousand connections take their own memory, and no more than that bound.
func TestAttackHTTP2Memory(t *testing.T) {
	a := newAttackLab(t)
	a.serveAttackZones("big.calm TXT "+strings.Repeat(`"`+strings.Repeat("x", 250)+`" `, 240)+"\n", nil)
	d := a.startVictim(settings{}, "")
	if m := a.attackers.ask("10.0.1.1", "big.calm.example", dns.TypeTXT, 3*time.Second); m == nil || m.Len() < 60000 {
		t.Fatalf("big.calm.example TXT: got no large answer: %v", m)
	}
	a.underAttack(t, d, growth{224 << 20, 1500}, func() {
		a.assault(assault{
			Kind: "stall", Sources: clients4(20), Name: "big.calm.example", Type: dns.TypeTXT,
			Count: 50, Rate: 200, For: 14 * time.Second,
		})
	})
}

// TestAttackHalfPing keeps an HTTP/2 connection alive with PING frames of which half arrives at a time, and asks
// nothing. Such a connection is idle and ends.
func TestAttackHalfPing(t *testing.T) {
	a := newAttackLab(t)
	a.blackHole()
	d := a.startVictim(settings{}, "idle_timeout: 1s, read_timeout: 1s")
	raw, err := a.attackers.dial("tcp", "10.0.1.1", resolver4+":443")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, a.ca.tlsConfig(adn, "h2"))
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	var frames bytes.Buffer
	io.WriteString(&frames, http2.ClientPreface)
	f := http2.NewFramer(&frames, nil)
	f.WriteSettings()
	if _, err := c.Write(frames.Bytes()); err != nil {
		t.Fatal(err)
	}
	frames.Reset()
	f.WritePing(false, [8]byte{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, c)
	}()
	begin := time.Now()
	if err := pingByHalves(c, frames.Bytes(), gone); err != nil {
		t.Errorf("%v: %v connections", err, d.number(connections("doh")))
	}
	t.Logf("the connection was held for %v", time.Since(begin).Round(time.Second))
}

// pingByHalves has always half of a frame under way: it sends the second half of one with the first half of the next,
// every 400 ms, until the server ends the connection. It fails after 15 s.
func pingByHalves(c net.Conn, frame []byte, gone <-chan struct{}) error {
	tick := time.NewTicker(400 * time.Millisecond)
	defer tick.Stop()
	half := len(frame) / 2
	next := frame[:half]
	for range 38 {
		if _, err := c.Write(next); err != nil {
			return nil
		}
		next = slices.Concat(frame[half:], frame[:half])
		select {
		case <-tick.C:
		case <-gone:
			return nil
		}
	}
	return errors.New("a connection without a query is open after 15 s with idle_timeout 1s; want it closed")
}
