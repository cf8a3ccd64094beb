package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestSameQuestionSameAnswer(t *testing.T) {
	s := startServer(t, nil)
	overAll(t, func(t *testing.T, tr transport) {
		ask := tr.dial(t, s)
		for _, name := range []string{"now.example", "late.example"} {
			msg := wireQuery(t, name, 4711)
			got, err := ask(t.Context(), msg)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if want := wantReply(msg, tr.is); !bytes.Equal(got, want) {
				t.Errorf("%s: got %x; want %x", name, got, want)
			}
		}
		last := s.fake.last.Load()
		if !last.local.Addr().Is4() || !last.client.Addr().Is4() || last.client.Port() == 0 {
			t.Errorf("got client %v, local %v; want IPv4 addresses", last.client, last.local)
		}
	})
}

func TestLargeReply(t *testing.T) {
	s := startServer(t, nil)
	overAll(t, func(t *testing.T, tr transport) {
		ask := tr.dial(t, s)
		got, err := ask(t.Context(), wireQuery(t, "large.example", 7))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != largeReply {
			t.Errorf("got %d octets; want %d", len(got), largeReply)
		}
	})
}

// What is not a query has no reply: silence over UDP, a status over HTTP, and elsewhere the end of the connection.
func TestUnanswerable(t *testing.T) {
	s := startServer(t, nil)
	reply := wireQuery(t, "now.example", 4)
	reply[2] |= 0x80
	for name, msg := range map[string][]byte{
		"a-reply":      reply,
		"too-short":    {0, 0, 1, 0},
		"empty":        {},
		"no-reply-now": wireQuery(t, "drop.example", 9),
		"silent":       wireQuery(t, "silent.example", 9),
	} {
		t.Run(name, func(t *testing.T) {
			overAll(t, func(t *testing.T, tr transport) {
				if tr.is == UDP && name == "empty" {
					t.Skip("an empty datagram carries no ID to tell its reply by")
				}
				ask := tr.dial(t, s)
				if tr.is == UDP {
					checkSilence(t, ask, msg)
					return
				}
				_, err := ask(t.Context(), msg)
				if err == nil {
					t.Fatal("got a reply; want none")
				}
				var status statusError
				if !tr.stream && (!errors.As(err, &status) || status != http.StatusBadRequest) {
					t.Errorf("got %v; want status 400", err)
				}
				if _, err := ask(t.Context(), wireQuery(t, "now.example", 1)); tr.stream != (err != nil) {
					t.Errorf("the next query: got error %v; want one: %t", err, tr.stream)
				}
			})
		})
	}
}

// checkSilence sends msg, and then a query whose reply proves that msg had none.
func checkSilence(t *testing.T, ask asker, msg []byte) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan []byte, 1)
	go func() {
		b, _ := ask(ctx, msg)
		got <- b
	}()
	for id := range uint16(3) {
		if _, err := ask(t.Context(), wireQuery(t, "now.example", 1000+id)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if b := <-got; b != nil {
		t.Errorf("got %x; want no reply", b)
	}
}

// A query that waits does not hold up the next one on the same connection. See RFC 7766, Section 6.2.1.1.
func TestOutOfOrder(t *testing.T) {
	overAll(t, func(t *testing.T, tr transport) {
		s := startServer(t, nil)
		ask := tr.dial(t, s)
		slow := make(chan error, 1)
		msg := wireQuery(t, "slow.example", 1)
		go func() {
			got, err := ask(t.Context(), msg)
			if err == nil && !bytes.Equal(got, wantReply(msg, tr.is)) {
				err = fmt.Errorf("got %x; want %x", got, wantReply(msg, tr.is))
			}
			slow <- err
		}()
		eventually(t, "the slow query waits", func() bool { return s.Stats().InFlight == 1 })
		for _, name := range []string{"now.example", "late.example"} {
			if _, err := ask(t.Context(), wireQuery(t, name, 2)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		close(s.fake.release)
		if err := <-slow; err != nil {
			t.Errorf("slow.example: %v", err)
		}
		eventually(t, "nothing is in flight", func() bool { return s.Stats().InFlight == 0 })
	})
}

func TestManyAtOnce(t *testing.T) {
	s := startServer(t, nil)
	overAll(t, func(t *testing.T, tr transport) {
		ask := tr.dial(t, s)
		var wg sync.WaitGroup
		for id := range uint16(200) {
			name := "now.example"
			if id%3 == 0 {
				name = "late.example"
			}
			msg := wireQuery(t, name, id)
			wg.Go(func() {
				got, err := ask(t.Context(), msg)
				if err != nil {
					t.Errorf("%d: %v", id, err)
				} else if want := wantReply(msg, tr.is); !bytes.Equal(got, want) {
					t.Errorf("%d: got %x; want %x", id, got, want)
				}
			})
		}
		wg.Wait()
	})
}

// Queries under way are answered when the server stops, and then it takes no more.
func TestDrain(t *testing.T) {
	overAll(t, func(t *testing.T, tr transport) {
		s := startServer(t, nil)
		ask := tr.dial(t, s)
		slow := make(chan error, 1)
		go func() {
			_, err := ask(t.Context(), wireQuery(t, "slow.example", 1))
			slow <- err
		}()
		eventually(t, "the slow query waits", func() bool { return s.Stats().InFlight == 1 })
		s.stop()
		close(s.fake.release)
		if err := <-slow; err != nil {
			t.Errorf("slow.example: %v", err)
		}
		if err := s.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		checkNothingLeft(t, s)
	})
}

// What is still under way after DrainTimeout is ended.
func TestDrainTimeout(t *testing.T) {
	overAll(t, func(t *testing.T, tr transport) {
		s := startServer(t, func(c *Config) { c.Limits.DrainTimeout = 20 * time.Millisecond })
		ask := tr.dial(t, s)
		go ask(t.Context(), wireQuery(t, "slow.example", 1))
		eventually(t, "the slow query waits", func() bool { return s.Stats().InFlight == 1 })
		s.stop()
		if err := s.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		checkNothingLeft(t, s)
	})
}

func checkNothingLeft(t *testing.T, s *testServer) {
	t.Helper()
	if n := s.fake.answering.Load(); n != 0 {
		t.Errorf("got %d queries under way; want 0", n)
	}
	eventually(t, "no connection is counted", func() bool {
		return s.Stats().Connections == [NumTransports]int{} && s.Stats().InFlight == 0
	})
}

// With all of Limits.InFlight taken, what could be answered at once still is. The rest is shed.
func TestOverload(t *testing.T) {
	overAll(t, func(t *testing.T, tr transport) {
		s := startServer(t, func(c *Config) { c.Limits.InFlight = 1 })
		ask := tr.dial(t, s)
		go ask(t.Context(), wireQuery(t, "slow.example", 1))
		eventually(t, "the slow query waits", func() bool { return s.Stats().InFlight == 1 })
		checkShed(t, tr, ask)
		if _, err := ask(t.Context(), wireQuery(t, "now.example", 3)); err != nil {
			t.Error(err)
		}
		if got := s.Stats().Shed; got == 0 {
			t.Errorf("got %d queries shed; want 1", got)
		}
		close(s.fake.release)
		eventually(t, "nothing is in flight", func() bool { return s.Stats().InFlight == 0 })
	})
}

func checkShed(t *testing.T, tr transport, ask asker) {
	t.Helper()
	msg := wireQuery(t, "late.example", 2)
	if tr.is == UDP {
		checkSilence(t, ask, msg)
		return
	}
	got, err := ask(t.Context(), msg)
	switch tr.is {
	case TCP, DoT:
		var m dns.Msg
		if err = errors.Join(err, m.Unpack(got)); err != nil || m.Rcode != dns.RcodeServerFailure || len(m.Question) != 1 {
			t.Errorf("got %v, %v; want SERVFAIL", &m, err)
		}
	default:
		if err == nil {
			t.Errorf("got %x; want an error", got)
		}
	}
}

// A connection over the limit is refused, and finds room when another one has ended.
func TestConnectionLimit(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits Limits
	}{
		{"in-all", Limits{Connections: 1}},
		{"per-client", Limits{ConnectionsPerClient: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			overAll(t, func(t *testing.T, tr transport) {
				if tr.is == UDP {
					t.Skip("has no connections")
				}
				s := startServer(t, func(c *Config) { c.Limits = test.limits })
				blocker := tcpConn(t, s.Addrs().Do53[0])
				eventually(t, "the first connection is counted", func() bool { return s.Stats().Connections[TCP] == 1 })
				tryRefused(t, s, tr)
				blocker.Close()
				eventually(t, "there is room", func() bool { return s.Stats().Connections[TCP] == 0 })
				if _, err := tr.dial(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// tryRefused connects at a low level, because dialing is what fails.
func tryRefused(t *testing.T, s *testServer, tr transport) {
	t.Helper()
	before := s.Stats().Refused[tr.is]
	switch tr.is {
	case TCP:
		refusedTCP(t, s.Addrs().Do53[0])
	case DoT:
		refusedTCP(t, s.Addrs().DoT[0])
	case DoH:
		refusedTCP(t, s.Addrs().DoH[0])
	case DoH3:
		refusedQUIC(t, s, s.Addrs().DoH[0], "h3")
	case DoQ:
		refusedQUIC(t, s, s.Addrs().DoQ[0], "doq")
	}
	eventually(t, "it is refused", func() bool { return s.Stats().Refused[tr.is] > before })
}

// refusedTCP connects to addr and expects a reset, which may come before the connection is known to stand.
func refusedTCP(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v; want a reset", err)
	}
}

// A connection on which nothing is under way does not hold up the end.
func TestDrainIdle(t *testing.T) {
	overAll(t, func(t *testing.T, tr transport) {
		s := startServer(t, func(c *Config) {
			c.Limits = Limits{DrainTimeout: time.Hour, IdleTimeout: time.Hour}
		})
		if _, err := tr.dial(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
			t.Fatal(err)
		}
		s.stop()
		if err := s.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		checkNothingLeft(t, s)
	})
}
