package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// TestTCPPipesReturned has many flows that have moved bytes and are idle: they need two descriptors each.
func TestTCPPipesReturned(t *testing.T) {
	const flows = 100
	b := newTestbed(t, Limits{})
	before := openFiles(t)
	for range flows {
		client, server := b.flow(t)
		write(t, client, "ping")
		wantBytes(t, server, "ping")
		write(t, server, "pong")
		wantBytes(t, client, "pong")
	}
	// The ends of the flows are in this process as well.
	waitFor(t, "pipes to be returned", func() bool {
		return b.holding() == 0 && openFiles(t)-before <= flows*(2+tcpDescriptors)+keptPipes*pipeDescriptors
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestTCPPipesExhausted has flows to destinations that take no bytes hold all pipes: another flow must go on.
func TestTCPPipesExhausted(t *testing.T) {
	b := startTestbed(t, Limits{TCPHalfClosed: 1600 * time.Millisecond}, func(r *Relay) { r.pipes.limit = 2 })
	for i := range 2 {
		client, _ := b.flow(t)
		stall(t, client)
		waitFor(t, "pipe held", func() bool { return b.holding() == int32(i+1) })
	}
	client, server := b.flow(t)
	write(t, client, "after you")
	wantBytes(t, server, "after you")
}

// TestTCPSources checks that flows have sources that nothing but chance chose.
func TestTCPSources(t *testing.T) {
	const flows = 200
	b := newTestbed(t, Limits{})
	seen := map[netip.AddrPort]bool{}
	low, high := 0, 0
	for range flows {
		client, server := b.flow(t)
		src := addrPort(server.RemoteAddr())
		if seen[src] || !egressPrefix.Contains(src.Addr()) || src.Port() < firstPort {
			t.Errorf("got source %v; want a new one of %v", src, egressPrefix)
		}
		seen[src] = true
		// A kernel chooses from 32768 to 60999.
		switch {
		case src.Port() < 32768:
			low++
		case src.Port() > 60999:
			high++
		}
		reset(client)
	}
	// 98 and 14 are expected; chance misses these bounds less than once in 10^7 runs.
	if low < 60 || high < 1 {
		t.Errorf("got %d ports below and %d above the kernel's range, of %d", low, high, flows)
	}
}

func TestTCPPortInUse(t *testing.T) {
	other, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tests := []struct {
		name string
		port uint16
	}{
		{"by-another", addrPort(other.Addr()).Port()},
		{"by-a-relay", newTestRelay(t, Config{}).cfg.Ports[0]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newRelay(Config{Ports: []uint16{tt.port}, Settings: testSettings()}, newFakeMap())
			want := fmt.Sprintf("TCP port %d at the wildcard address", tt.port)
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), want) {
				t.Errorf("got error %v; want one that says %q in use", err, want)
			}
		})
	}
}

func TestNewErrors(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no-ports", func(c *Config) { c.Ports = nil }, "ports"},
		{"port-0", func(c *Config) { c.Ports = []uint16{443, 0} }, "ports"},
		{"no-egress", func(c *Config) { c.Settings.Egress = nil }, "egress"},
		{"no-egress-of-family", func(c *Config) { c.Settings.Egress = prefixes("::1/128") }, "egress has no IPv4"},
		{"invalid-client", func(c *Config) { c.Settings.Clients = []netip.Prefix{{}} }, "clients"},
		{"limits", func(c *Config) { c.Limits.TCPFlows = 1 << 30 }, "RLIMIT_NOFILE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Ports: []uint16{netns.Port(t)}, Settings: testSettings()}
			tt.change(&cfg)
			r, err := newRelay(cfg, newFakeMap())
			if err == nil {
				r.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v; want one that says %q", err, tt.want)
			}
		})
	}
	if _, err := New(Config{Ports: []uint16{443}}); err == nil {
		t.Error("got no error without a map")
	}
}

// TestTCPOutOfDescriptors has the process run out of descriptors while a client connects: the relay waits, and does
// not ask the kernel over and over again.
func TestTCPOutOfDescriptors(t *testing.T) {
	if !inNamespace(t) { // for the sake of its own process
		return
	}
	ip(t, 0, "link set lo up")
	var log lineCounter
	b := startTestbed(t, Limits{TCPFlows: 100, UDPFlows: 100}, func(r *Relay) { r.cfg.Log = zerolog.New(&log) })
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	restore := noDescriptors(t)
	relay := &unix.SockaddrInet4{Port: int(b.port()), Addr: [4]byte{127, 80, 0, 1}}
	if err := unix.Connect(fd, relay); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a third pause", func() bool { return log.Load() >= 3 })
	restore()
	b.accept(t)
	if n := log.Load(); n > 100 {
		t.Errorf("got %d attempts; want a few", n)
	}
}

// lineCounter counts what is written to it.
type lineCounter struct{ atomic.Int64 }

func (c *lineCounter) Write(p []byte) (int, error) {
	c.Add(1)
	return len(p), nil
}

// noDescriptors allows the process no more descriptors than it has.
func noDescriptors(t *testing.T) (restore func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}
}
