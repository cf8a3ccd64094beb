package resolver

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// TestSlowZoneOverSockets floods the real server from twelve addresses with questions for a zone whose servers are silent,
// over UDP to the server and over each protocol to the upstream, with few sockets: another client's questions are answered
// all the while, the upstream stays healthy, and no more sockets are open than are allowed.
func TestSlowZoneOverSockets(t *testing.T) {
	const sockets = 128
	cert, roots := testCertificate(t)
	answer := func(q *dns.Msg, tcp bool) *dns.Msg {
		if strings.HasSuffix(q.Question[0].Name, ".slow.test.") {
			return nil
		}
		return says(dns.RcodeSuccess, -1)(q, tcp)
	}
	for transport, serve := range map[string]func(reply) *brokenUpstream{
		"udp4": func(r reply) *brokenUpstream { return serveUDP(t, loopback4, true, r) },
		"udp6": func(r reply) *brokenUpstream { return serveUDP(t, loopback6, true, r) },
		"dot":  func(r reply) *brokenUpstream { return serveTLS(t, loopback4, cert, roots, r) },
	} {
		t.Run(transport, func(t *testing.T) {
			u := serve(answer)
			s := serverFor(t, func(c *Config) { c.Limits.UpstreamSockets = sockets }, u)
			eventually(t, "the upstream is reached", func() bool { return s.Stats().Upstreams[0].Healthy })
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for client := range 12 {
				wg.Go(func() { flood(t, s, fmt.Sprintf("127.0.0.%d", 2+client), stop) })
			}
			for i := range 50 {
				if r := askServer(t, s, fmt.Sprintf("n%d.example.", i), dns.TypeA, false); len(r.Answer) != 1 {
					t.Errorf("bystander's question %d: got\n%v\nwant an answer", i, r)
				}
				if got := upstreamSockets(t, u.Addr.Port()); got > sockets {
					t.Errorf("got %d sockets to the upstream; want at most %d", got, sockets)
				}
			}
			close(stop)
			wg.Wait()
			if st := s.Stats(); !st.Upstreams[0].Healthy {
				t.Errorf("got %+v; want it healthy", st.Upstreams[0])
			}
		})
	}
}

// flood asks s from addr for names of the silent zone until stop is closed, a few for each response.
func flood(t *testing.T, s *Server, addr string, stop <-chan struct{}) {
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(addr)}, net.UDPAddrFromAddrPort(s.Addrs().Do53[0]))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	n := 0
	ask := func() {
		m := dnstest.Query(fmt.Sprintf("n%d-%s.slow.test.", n, strings.ReplaceAll(addr, ".", "-")), dns.TypeA)
		n++
		if msg, err := m.Pack(); err == nil {
			_, _ = c.Write(msg)
		}
	}
	for range 40 {
		ask()
	}
	go func() {
		<-stop
		c.Close()
	}()
	buf := make([]byte, 512)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
		ask()
	}
}

// upstreamSockets returns how many sockets are connected to port over UDP.
func upstreamSockets(t *testing.T, port uint16) (n int) {
	t.Helper()
	for _, file := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 2 && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", port)) {
				n++
			}
		}
	}
	return n
}
