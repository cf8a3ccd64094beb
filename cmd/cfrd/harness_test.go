package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/e2e/netns"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMain runs the tests in a network namespace of their own, so that no other program has one of the fixed ports.
func TestMain(m *testing.M) { netns.Main(m) }

var loopbacks atomic.Uint32

// loopback returns an address of 127.0.0.0/8 that no other test has, so that fixed ports can be used on it.
func loopback(t *testing.T) netip.Addr {
	t.Helper()
	netns.Require(t)
	n := loopbacks.Add(1)
	return netip.AddrFrom4([4]byte{127, 100, byte(n / 254), byte(n%254 + 1)})
}

// lab is a directory with a configuration, a certificate and a zone, for a resolver on an address of its own.
type lab struct {
	dir    string
	addr   netip.Addr        // of all listeners: Do53 8053, DoT and DoQ 8853, DoH 8443, admin 9153
	roots  *x509.CertPool    // that verify its certificate
	config map[string]string // sections of the configuration, by key
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir(), addr: loopback(t), roots: x509.NewCertPool()}
	l.roots.AddCert(certstest.Template{Names: []string{"dns.isp.example"}, Addrs: []netip.Addr{l.addr}}.Write(t, l.dir))
	writeFile(t, filepath.Join(l.dir, "isp.zone"), "$ORIGIN isp.example.\n$TTL 300\n"+
		"@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\n")
	l.config = map[string]string{
		"name":    "dns.isp.example",
		"clients": "[127.0.0.0/8]",
		"listen": fmt.Sprintf(`{do53: ["%[1]s:8053"], dot: ["%[1]s:8853"], doh: ["%[1]s:8443"], doq: ["%[1]s:8853"], `+
			`admin: "%[1]s:9153"}`, l.addr),
		"tls":       "{certificate: cert.pem, key: key.pem}",
		"upstreams": fmt.Sprintf(`["udp://%s:9053"]`, l.addr),
		"zones":     "[isp.zone]",
		"log":       "{level: debug, format: json}",
	}
	return l
}

func (l *lab) path() string { return filepath.Join(l.dir, "cfrd.yaml") }

// write writes the configuration file.
func (l *lab) write(t *testing.T) {
	t.Helper()
	var b strings.Builder
	for key, value := range l.config {
		fmt.Fprintf(&b, "%s: %s\n", key, value)
	}
	writeFile(t, l.path(), b.String())
}

// start is startMode in mode all.
func (l *lab) start(t *testing.T) (*node, *logBuffer) {
	t.Helper()
	return l.startMode(t, config.ModeAll)
}

// startMode runs the lab's configuration until the test ends, and returns the node and what it logs.
func (l *lab) startMode(t *testing.T, m config.Mode) (*node, *logBuffer) {
	t.Helper()
	v := l.load(t, m)
	log := &logBuffer{}
	n, err := newNode(v, m, newLogger(v.Log, log))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- n.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return n, log
}

// get asks the admin server.
func (l *lab) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.addr.String()+":9153"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// skip skips t loudly, or fails it if nothing may be skipped.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("E2E_REQUIRED") == "1" {
		t.Fatalf("E2E_REQUIRED=1 and "+format, args...)
	}
	t.Skipf("SKIPPED: "+format, args...)
}

// eventually waits until ok holds, for at most ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never saw: %s", what)
		case <-tick.C:
		}
	}
}

// logBuffer collects log lines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.buf.String()), "\n")
}

func (b *logBuffer) contains(text string) bool {
	return strings.Contains(strings.Join(b.lines(), "\n"), text)
}

// dialFrom returns a dialer with a source address.
func dialFrom(network string, addr netip.Addr) *net.Dialer {
	if strings.HasPrefix(network, "udp") {
		return &net.Dialer{LocalAddr: &net.UDPAddr{IP: addr.AsSlice()}}
	}
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: addr.AsSlice()}}
}

func prefixes(list ...string) (ps []netip.Prefix) {
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func addrPorts(list ...string) (aps []netip.AddrPort) {
	for _, s := range list {
		aps = append(aps, netip.MustParseAddrPort(s))
	}
	return aps
}
