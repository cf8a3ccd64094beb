package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/check"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/e2e/netns"
	"github.com/cfrd-project/cfrd/relay"
	"github.com/cfrd-project/cfrd/relay/addrmap"
	"github.com/cfrd-project/cfrd/resolver"
)

// TestDaemon follows `cfrd serve` from its start to the end of its drain, as the log and the service manager see it.
func TestDaemon(t *testing.T) {
	manager := listenNotify(t)
	l := newLab(t)
	l.serveUpstream(t)
	l.write(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log, done := &logBuffer{}, make(chan error, 1)
	go func() { done <- runDaemon(ctx, l.path(), config.ModeAll, log) }()

	manager.want(t, "READY=1\nSTATUS=serving")
	reply := l.ask(t, resolver.DoT, "www.isp.example.")
	if len(reply.Answer) != 1 || !reply.Authoritative {
		t.Errorf("got %v; want the address of www.isp.example from the zone file", reply)
	}
	cancel()
	manager.want(t, "STOPPING=1\nSTATUS=draining")
	if err := <-done; err != nil {
		t.Errorf("got error %v; want none", err)
	}
	for _, want := range []string{`"message":"serving"`, l.addr.String() + ":8853", "draining"} {
		if !log.contains(want) {
			t.Errorf("log %q lacks %s", log.lines(), want)
		}
	}
}

// TestRelayOnlyWithoutRoute starts the standalone relay, which knows nothing of DNS, on a host that lacks the route.
func TestRelayOnlyWithoutRoute(t *testing.T) {
	dir, addr := t.TempDir(), loopback(t)
	if err := writeKey(filepath.Join(dir, "seal.key")); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`
listen: {admin: "%s:9153"}
relay:
  ports: [%d]
  clients: [127.0.0.0/8]
  sealed: {prefix: "2001:db8:cf::/64", key_file: seal.key}
  egress: [127.210.0.0/16]
  routes: false
`, addr, netns.Port(t))
	writeFile(t, filepath.Join(dir, "cfrd.yaml"), text)
	cfg, err := config.Read(filepath.Join(dir, "cfrd.yaml"), config.ModeRelay)
	if err != nil {
		t.Fatal(err)
	}
	v, err := loadValues(cfg, config.ModeRelay, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = newNode(v, config.ModeRelay, newLogger(cfg.Log, &logBuffer{}))
	if err == nil || !strings.Contains(err.Error(), "ip -6 route add local 2001:db8:cf::/64 dev lo") {
		t.Errorf("without a route: got error %v; want the command that adds it", err)
	}
}

// TestAddressInUse starts a second node on the same addresses, which must say which one is taken.
func TestAddressInUse(t *testing.T) {
	l := newLab(t)
	l.start(t)
	v, err := loadValues(parseLab(t, l), config.ModeAll, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = newNode(v, config.ModeAll, newLogger(v.Log, &logBuffer{}))
	if err == nil || !strings.Contains(err.Error(), l.addr.String()+":8053") {
		t.Errorf("got error %v; want one that names %s:8053", err, l.addr)
	}
}

func parseLab(t *testing.T, l *lab) *config.Config {
	t.Helper()
	cfg, err := config.Read(l.path(), config.ModeAll)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestDiscoveryOfWhatRuns asks for the records of the running listeners and of the relay.
func TestDiscoveryOfWhatRuns(t *testing.T) {
	tests := map[string]struct {
		ddr  string
		want []string // in the records, in order of preference
	}{
		"default": {
			"{}", []string{"h3", "doq", "dot", "key65280"},
		},
		"relay-not-advertised": {
			"{advertise_relay: false}", []string{"h3", "doq", "dot"},
		},
		"other-relay-key": {
			"{relay_key: 65300}", []string{"h3", "doq", "dot", "key65300"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.withRelay(t)
			l.config["ddr"] = test.ddr
			l.start(t)
			records := l.discover(t)
			if len(records) != len(test.want) {
				t.Fatalf("got %v; want records of %v", records, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(records[i], want) {
					t.Errorf("record %d: got %s; want %s in it", i, records[i], want)
				}
			}
		})
	}
}

// TestDiscoveryFollowsCertificate replaces the certificate by one without the name that clients verify.
func TestDiscoveryFollowsCertificate(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	if got := len(l.discover(t)); got == 0 {
		t.Fatal("got no record; want those of the listeners")
	}
	expired := certstest.Template{Names: []string{"dns.isp.example"}, NotAfter: time.Now().Add(-time.Minute)}
	cert := *n.certs.Current()
	cert.Leaf = expired.Write(t, t.TempDir())
	n.certs.Replace(&cert)
	if got := l.discover(t); len(got) != 0 {
		t.Errorf("with an expired certificate: got %v; want no record", got)
	}
}

// discover returns the SVCB records at _dns.resolver.arpa by priority.
func (l *lab) discover(t *testing.T) []string {
	t.Helper()
	c := check.Client{Addr: netip.AddrPortFrom(l.addr, 8053)}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := c.Exchange(ctx, resolver.TCP, check.Question("_dns.resolver.arpa.", dns.TypeSVCB))
	if err != nil {
		t.Fatal(err)
	}
	records := make([]string, len(reply.Answer))
	for i, rr := range reply.Answer {
		records[i] = rr.String()
	}
	return records
}

func TestReadinessWithoutUpstream(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	for range 20 {
		l.ask(t, resolver.UDP, "www.example.")
		if len(n.notReady()) > 0 {
			break
		}
	}
	if status, body := l.get(t, "/readyz"); status != http.StatusServiceUnavailable || body != "no upstream answers\n" {
		t.Errorf("/readyz: got %d %q; want 503 and that no upstream answers", status, body)
	}
}

func TestSteeringAdapter(t *testing.T) {
	m, err := addrmap.Open(addrmap.Config{
		Sealed: &addrmap.SealedConfig{Prefix: netip.MustParsePrefix("2001:db8:cf::/64"), Key: addrmap.NewKey()},
		Table:  &addrmap.TableConfig{Prefixes: prefixes("10.99.0.0/30")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	destinations, err := relay.NewDestinations(relay.Settings{AllowSpecial: prefixes("198.51.100.0/24", "2001:db8::/32")})
	if err != nil {
		t.Fatal(err)
	}
	s := steering{&node{addrs: m}, destinations}
	dst := netip.MustParseAddr("198.51.100.1")

	if addr, ok, err := s.RelayAddr(dst, true, time.Minute); !ok || err != nil || !s.Contains(addr) {
		t.Errorf("IPv6: got %v, %t, %v; want a relay address", addr, ok, err)
	}
	if addr, ok, err := s.RelayAddr(netip.MustParseAddr("2001:db8:1::1"), true, time.Minute); ok || err != nil {
		t.Errorf("IPv6 destination, which no way can express: got %v, %t, %v; want neither address nor error", addr, ok, err)
	}
	for err == nil && dst.Compare(netip.MustParseAddr("198.51.100.99")) < 0 {
		_, _, err = s.RelayAddr(dst, false, time.Minute)
		dst = dst.Next()
	}
	if !errors.Is(err, addrmap.ErrExhausted) {
		t.Errorf("more destinations than addresses: got error %v; want %v", err, addrmap.ErrExhausted)
	}
}

// TestFailedStartLeaksNothing has a part fail that is bound after others, and then starts the same node: it finds every
// address, and the lease file, as if nothing had been tried.
func TestFailedStartLeaksNothing(t *testing.T) {
	tests := map[string]struct {
		obstruct func(t *testing.T, l *lab, v *values) (remove func())
		want     string // in the error
	}{
		"admin-address-taken": {
			func(t *testing.T, l *lab, _ *values) func() {
				ln, err := net.Listen("tcp", netip.AddrPortFrom(l.addr, 9153).String())
				if err != nil {
					t.Fatal(err)
				}
				return func() { ln.Close() }
			},
			"bind admin ",
		},
		"egress-not-local": {
			func(_ *testing.T, _ *lab, v *values) func() {
				v.Relay.Egress, v.Relay.Routes = prefixes("192.0.2.64/28"), false
				return func() {}
			},
			"192.0.2.64/28",
		},
		"announced-by-no-means": {
			func(_ *testing.T, _ *lab, v *values) func() {
				v.DNR.Announce = []config.Announce{{Interface: "lan0"}}
				return func() {}
			},
			"dnr.announce[0]",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.withRelay(t)
			l.write(t)
			cfg := parseLab(t, l)
			v, err := loadValues(cfg, config.ModeAll, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			remove := test.obstruct(t, l, v)
			if _, err := newNode(v, config.ModeAll, newLogger(cfg.Log, &logBuffer{})); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got error %v; want one with %q", err, test.want)
			}
			remove()
			l.start(t)
		})
	}
}
