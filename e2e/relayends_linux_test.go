package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRelayEnds ends flows through the relay in every way there is. What one side does is what the other side sees: a
// stream that was cut never looks complete.
func TestRelayEnds(t *testing.T) {
	need(t, "dig")
	l := newLab(t)
	ca := l.newAuthority()
	l.blackHole()
	d := l.startCfrd(l.config(ca, settings{}))
	ends := l.fillTCP(l.relayAddr("warm2.cdn.example", "A")+":4443", 6)
	flow := func(i int) (client, server *net.TCPConn) {
		client, server = ends[2*i].(*net.TCPConn), ends[2*i+1].(*net.TCPConn)
		for _, c := range []*net.TCPConn{client, server} {
			c.SetDeadline(time.Now().Add(10 * time.Second))
			t.Cleanup(func() { c.Close() })
		}
		return client, server
	}
	for i, name := range []string{"client-first", "server-first"} {
		t.Run("half-close/"+name, func(t *testing.T) {
			a, b := flow(i)
			if name == "server-first" {
				a, b = b, a
			}
			io.WriteString(a, "question")
			a.CloseWrite()
			if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
				t.Errorf("got %q, %v; want the question and its end", got, err)
			}
			io.WriteString(b, "answer")
			b.CloseWrite()
			if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
				t.Errorf("got %q, %v; want the answer and its end", got, err)
			}
		})
	}
	for i, name := range []string{"by-client", "by-server"} {
		t.Run("reset/"+name, func(t *testing.T) {
			a, b := flow(2 + i)
			if name == "by-server" {
				a, b = b, a
			}
			a.SetLinger(0)
			a.Close()
			if _, err := io.ReadAll(b); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v; want a reset", err)
			}
		})
	}
	t.Run("urgent", func(t *testing.T) {
		a, b := flow(4)
		io.WriteString(a, "one")
		if err := sendUrgent(a, '!'); err != nil {
			t.Fatal(err)
		}
		io.WriteString(a, "two")
		a.CloseWrite()
		if got, err := io.ReadAll(b); err != nil || len(got) < len("onetwo") || string(got[:3]) != "one" || string(got[len(got)-3:]) != "two" {
			t.Errorf("got %q, %v; want what comes before and after", got, err)
		}
		b.Close()
	})
	t.Run("drain", func(t *testing.T) {
		a, b := flow(5)
		d.signal(syscall.SIGTERM)
		poll(t, 5*time.Second, "the relay takes no new flows", func() error {
			c, err := l.customer.dial("tcp", "", a.RemoteAddr().String())
			if err == nil {
				c.(*net.TCPConn).SetLinger(0) // nobody at the origin would end it
				c.Close()
				return errors.New("it does")
			}
			return nil
		})
		io.WriteString(a, "still")
		got := make([]byte, 5)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "still" {
			t.Errorf("got %q, %v; want the flow to go on", got, err)
		}
		a.Close()
		b.Close()
		if err := d.wait(10 * time.Second); err != nil {
			t.Errorf("got %v; want a clean end after the last flow", err)
		}
	})
}

func sendUrgent(c *net.TCPConn, b byte) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Sendto(int(fd), []byte{b}, unix.MSG_OOB, nil) }); err != nil {
		return err
	}
	if serr != nil {
		return fmt.Errorf("send urgent octet: %w", serr)
	}
	return nil
}
