package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// relayAddr asks cfrd for a name and returns its one relay address.
func (l *lab) relayAddr(name, qtype string) string {
	l.t.Helper()
	got := answers(l.customer.must("dig", "@"+resolver4, name, qtype), qtype)
	if len(got) != 1 {
		l.t.Fatalf("%s %s: got %v; want one address", name, qtype, got)
	}
	return got[0]
}

// fetch loads a page of name through the relay address addr.
func (l *lab) fetch(ca *authority, name, addr string, more ...string) (string, error) {
	if strings.Contains(addr, ":") {
		addr = "[" + addr + "]"
	}
	args := []string{"-sS", "-f", "--max-time", "20", "--cacert", ca.file, "--resolve", name + ":443:" + addr}
	return l.customer.try("curl", append(args, append(more, "https://"+name+"/")...)...)
}

// TestRelayTCP loads pages through the relay and looks at what the far side saw: the origin's own log, and every
// packet on the internet's link.
func TestRelayTCP(t *testing.T) {
	need(t, "dig", "curl", "openssl", "ss")
	l := newLab(t)
	_, ca := l.serveAll(settings{})
	dump := l.startCapture()

	rows := []struct{ name, host, qtype string }{
		{"table-ipv4", "www.cdn.example", "A"},
		{"table-ipv6", "www.cdn.example", "AAAA"},
		{"sealed-ipv6-to-ipv4", "v4only.cdn.example", "AAAA"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got, err := l.fetch(ca, r.host, l.relayAddr(r.host, r.qtype))
			if err != nil || got != page {
				t.Errorf("got %q, %v; want the page", got, err)
			}
			wantEgress(t, l.originClients(r.host))
		})
	}
	t.Run("sources-differ", func(t *testing.T) {
		addr := l.relayAddr("www.cdn.example", "A")
		for range 12 {
			if _, err := l.fetch(ca, "www.cdn.example", addr); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[netip.Addr]bool{}
		for _, a := range l.originClients("www.cdn.example") {
			seen[a] = true
		}
		if len(seen) < 3 {
			t.Errorf("13 flows came from %d addresses of 14 and 2^64; want a new one for each", len(seen))
		}
	})
	t.Run("one-mebibyte-is-exact", func(t *testing.T) {
		addr := l.relayAddr("www.cdn.example", "A")
		out, err := l.customer.try("bash", "-c", fmt.Sprintf(
			"curl -sf --cacert %s --resolve www.cdn.example:443:%s https://www.cdn.example/big | sha256sum", ca.file, addr))
		want := l.internet.must("bash", "-c", "sha256sum < "+l.dir+"/www/big")
		if err != nil || out != want {
			t.Errorf("got %q, %v; want %q", out, err, want)
		}
	})
	t.Run("openssl-sees-the-relay", func(t *testing.T) {
		cert, key := ca.issue("s_server", "www.cdn.example")
		srv := l.internet.start("openssl", "s_server", "-accept", origin4+":4443", "-cert", cert, "-key", key, "-rev")
		poll(t, 5*time.Second, "s_server", func() error {
			if !strings.Contains(srv.output.String(), "ACCEPT") {
				return errors.New("not listening")
			}
			return nil
		})
		conn, err := l.customer.dial("tcp", "", l.relayAddr("www.cdn.example", "A")+":4443")
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(conn, ca.tlsConfig("www.cdn.example"))
		defer c.Close()
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		if n, err := c.Read(buf); string(buf[:n]) != "olleh\n" {
			t.Errorf("got %q, %v; want the line backwards", buf[:n], err)
		}
		peers := regexp.MustCompile(`198\.51\.100\.2:4443\s+(\S+):\d+`).FindAllStringSubmatch(l.internet.must("ss", "-Htn", "state", "established"), -1)
		if len(peers) == 0 {
			t.Error("ss shows no connection to s_server")
		}
		for _, p := range peers {
			wantEgress(t, []netip.Addr{netip.MustParseAddr(p[1])})
		}
	})
	t.Run("direct-shows-the-customer", func(t *testing.T) {
		if _, err := l.fetch(ca, "direct.example", origin4); err != nil {
			t.Fatal(err)
		}
		for _, a := range l.originClients("direct.example") {
			if a.String() != customer4 {
				t.Errorf("the origin saw %v; want %s, or the checks above prove nothing", a, customer4)
			}
		}
	})
	// All packets of the customer are of the one direct page: nothing else of it crossed the link.
	t.Run("no-packet-of-the-customer", func(t *testing.T) {
		if n := dump.count(func(p packet) bool { return ofCustomer(p) && !(p.is(customer4) && p.port(443)) }); n != 0 {
			t.Errorf("got %d packets with the customer's address; want none", n)
		}
		if n := dump.count(ofRelay); n == 0 {
			t.Error("got no packets of the relay; want many")
		}
	})
}

// TestRelayRefuses holds the relay to a loud no: a reset or an ICMP error, never silence.
func TestRelayRefuses(t *testing.T) {
	need(t, "dig", "curl")
	l := newLab(t)
	d, ca := l.serveAll(settings{})
	addr := l.relayAddr("www.cdn.example", "A")

	wantReset := func(t *testing.T, local, remote string) {
		t.Helper()
		c, err := l.customer.dial("tcp", local, remote)
		if err == nil {
			defer c.Close()
			_, err = readAll(c, 5*time.Second)
		}
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v; want a reset", err)
		}
	}
	t.Run("stranger", func(t *testing.T) { wantReset(t, stranger4, addr+":443") })
	t.Run("unmapped-address", func(t *testing.T) { wantReset(t, "", "10.99.255.77:443") })
	t.Run("unmapped-sealed-address", func(t *testing.T) { wantReset(t, "", "[2001:db8:cf::1234]:443") })
	t.Run("closed-port-of-the-destination", func(t *testing.T) { wantReset(t, "", addr+":4443") })
	t.Run("port-that-is-not-relayed", func(t *testing.T) { wantReset(t, "", addr+":22") })
	t.Run("host-that-is-not-a-relay-address", func(t *testing.T) { wantReset(t, "", "10.0.0.1:443") })
	t.Run("udp-to-an-unmapped-address", func(t *testing.T) {
		c, err := l.customer.dial("udp", "", "10.99.255.77:443")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("hello?")); err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(c, 5*time.Second); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.EACCES) {
			t.Errorf("got %v; want an ICMP error", err)
		}
	})
	if got, err := l.fetch(ca, "www.cdn.example", addr); err != nil || got != page {
		t.Errorf("after all that: got %q, %v; want the page", got, err)
	}
	if strings.Contains(d.output.String(), customer4) {
		t.Error("cfrd wrote the customer's address")
	}
}

// TestRelayQUIC runs an HTTP/3 origin on the internet's host and loads a page from it through the relay.
func TestRelayQUIC(t *testing.T) {
	need(t, "dig")
	l := newLab(t)
	_, ca := l.serveAll(settings{})
	cert, key := ca.issue("quic", "quic.cdn.example")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	clientsSeen := make(chan string, 16)
	srv := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			clientsSeen <- r.RemoteAddr
			io.WriteString(w, page)
		}),
	}
	pc := l.internet.listenUDP(origin4 + ":443")
	served := make(chan struct{})
	go func() { srv.Serve(pc); close(served) }()
	t.Cleanup(func() { srv.Close(); pc.Close(); <-served })
	dump := l.startCapture()

	for _, qtype := range []string{"A", "AAAA"} {
		t.Run(qtype, func(t *testing.T) {
			got, err := l.fetchQUIC(ca.pool(), "quic.cdn.example", l.relayAddr("quic.cdn.example", qtype))
			if err != nil || got != page {
				t.Fatalf("got %q, %v; want the page", got, err)
			}
			wantEgress(t, []netip.Addr{netip.MustParseAddrPort(<-clientsSeen).Addr()})
		})
	}
	if n := dump.count(ofCustomer); n != 0 {
		t.Errorf("got %d packets with the customer's address; want none", n)
	}
}

// fetchQUIC loads a page over HTTP/3 from the customer's host.
func (l *lab) fetchQUIC(roots *x509.CertPool, name, addr string) (string, error) {
	unspecified := "0.0.0.0:0"
	if strings.Contains(addr, ":") {
		unspecified = "[::]:0"
	}
	pc := l.customer.listenUDP(unspecified)
	defer pc.Close()
	qt := &quic.Transport{Conn: pc}
	defer qt.Close()
	remote := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 443))
	tr := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name},
		Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return qt.DialEarly(ctx, remote, tc, qc)
		},
	}
	defer tr.Close()
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+name+"/", nil)
	if err != nil {
		return "", err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// TestKillAndRestart kills cfrd without warning; the addresses that it handed out still lead to their destinations.
func TestKillAndRestart(t *testing.T) {
	need(t, "dig", "curl")
	l := newLab(t)
	d, ca := l.serveAll(settings{})
	type lease struct{ host, qtype, addr string }
	var leases []lease
	for _, q := range [][2]string{{"www.cdn.example", "A"}, {"www.cdn.example", "AAAA"}, {"v4only.cdn.example", "AAAA"}} {
		leases = append(leases, lease{q[0], q[1], l.relayAddr(q[0], q[1])})
	}
	d.kill()
	l.startCfrd(l.read("cfrd.yaml"))
	for _, le := range leases {
		if got, err := l.fetch(ca, le.host, le.addr); err != nil || got != page {
			t.Errorf("%s through %s after the restart: got %q, %v; want the page", le.host, le.addr, got, err)
		}
		if got := l.relayAddr(le.host, le.qtype); got != le.addr {
			t.Errorf("%s %s: got %s; want %s, as before the restart", le.host, le.qtype, got, le.addr)
		}
	}
}

// TestSplitRelay runs the resolver and the relay as two processes that share nothing but the sealing key.
func TestSplitRelay(t *testing.T) {
	need(t, "dig", "curl")
	l := newLab(t)
	ca := l.newAuthority()
	l.serveZones(ca)
	l.serveHTTPS(ca)
	config := l.config(ca, settings{})
	config = regexp.MustCompile(`(?m)^  table:.*\n`).ReplaceAllString(config, "")
	resolver := l.startCfrd(config, "--mode", "resolver")
	relayFile := l.write("relay.yaml", strings.ReplaceAll(config, "127.0.0.1:9153", "127.0.0.1:9154"))
	relay := l.provider.start(cfrd(t), "serve", "--mode", "relay", "--config", relayFile)
	poll(t, 10*time.Second, "the relay is ready", func() error {
		_, err := l.provider.try("curl", "-sf", "http://127.0.0.1:9154/readyz")
		return err
	})
	addr := l.relayAddr("v4only.cdn.example", "AAAA")
	mustBeIn(t, relaySeal6, []string{addr})
	if got, err := l.fetch(ca, "v4only.cdn.example", addr); err != nil || got != page {
		t.Errorf("got %q, %v; want the page", got, err)
	}
	wantEgress(t, l.originClients("v4only.cdn.example"))
	if out := l.provider.must("ss", "-Hlnp"); regexp.MustCompile(fmt.Sprintf(`:53\s.*pid=%d,`, relay.cmd.Process.Pid)).MatchString(out) {
		t.Errorf("the standalone relay listens on port 53:\n%s", out)
	}
	if got := answers(l.customer.must("dig", "@"+resolver4, "v4only.cdn.example", "A"), "A"); len(got) != 0 {
		t.Errorf("a steered name without an IPv4 way: got A %v; want NODATA, never the destination", got)
	}
	resolver.signal(syscall.SIGTERM)
	if err := resolver.wait(10 * time.Second); err != nil {
		t.Errorf("the resolver ended with %v; want a clean end", err)
	}
}

// TestShutdown drains on the first signal and ends at once on the second.
func TestShutdown(t *testing.T) {
	need(t, "dig")
	l := newLab(t)
	d, _ := l.serveAll(settings{})
	c, err := l.customer.dial("tcp", "", l.relayAddr("www.cdn.example", "A")+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request := "GET / HTTP/1.1\r\nHost: www.cdn.example\r\n\r\n"
	ask := func() error {
		if _, err := io.WriteString(c, request); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err == nil && !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200") {
			err = fmt.Errorf("got %q", buf[:n])
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	d.signal(syscall.SIGTERM)
	poll(t, 5*time.Second, "the resolver stops answering", func() error {
		if out, err := l.customer.try("dig", "+tries=1", "+time=1", "@"+resolver4, "direct.example"); err == nil {
			return fmt.Errorf("still answers: %s", out)
		}
		return nil
	})
	if err := ask(); err != nil {
		t.Errorf("a flow while draining: %v; want it to go on", err)
	}
	d.signal(syscall.SIGTERM)
	d.wait(5 * time.Second)
}

// TestReload re-reads the configuration on SIGHUP; an invalid one is reported and changes nothing.
func TestReload(t *testing.T) {
	need(t, "dig")
	l := newLab(t)
	d, _ := l.serveAll(settings{})
	direct := func() []string {
		t.Helper()
		return answers(l.customer.must("dig", "@"+resolver4, "direct.example", "A"), "A")
	}
	if got := direct(); !slices.Equal(got, []string{origin4}) {
		t.Fatalf("got %v; want %s", got, origin4)
	}
	good := l.read("cfrd.yaml")
	l.write("cfrd.yaml", strings.Replace(good, "suffixes: [cdn.example]", "sufixes: [direct.example]", 1))
	d.reload()
	if !strings.Contains(d.output.String(), "steer.rules[1].sufixes") {
		t.Errorf("the log does not name the wrong key:\n%s", tail(d.output.String(), 1000))
	}
	if got := direct(); !slices.Equal(got, []string{origin4}) {
		t.Errorf("after an invalid configuration: got %v; want %s", got, origin4)
	}
	mustBeIn(t, relayPool4, []string{l.relayAddr("www.cdn.example", "A")})
	l.write("cfrd.yaml", strings.Replace(good, "suffixes: [cdn.example]", "suffixes: [direct.example]", 1))
	d.reload()
	mustBeIn(t, relayPool4, direct())
	if got := l.relayAddr("v4only.cdn.example", "A"); got != origin4 {
		t.Errorf("a name that is no longer steered: got %s; want %s, not what the old rules cached", got, origin4)
	}
}
