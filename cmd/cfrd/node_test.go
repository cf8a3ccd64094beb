package main

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/resolver"
)

// load reads the lab's configuration as it is now, with everything that it names.
func (l *lab) load(t *testing.T, m config.Mode) *values {
	t.Helper()
	l.write(t)
	cfg, err := config.Read(l.path(), m)
	if err != nil {
		t.Fatal(err)
	}
	v, err := loadValues(cfg, m, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestMaxTTLFromFileToAnswer follows the key whose way the comment of package config describes, at the start and over reloads.
func TestMaxTTLFromFileToAnswer(t *testing.T) {
	l := newLab(t)
	l.withRelay(t)
	l.serveUpstream(t)
	steer := l.config["steer"]
	set := func(maxTTL string) {
		l.config["steer"] = strings.Replace(steer, "{", "{max_ttl: "+maxTTL+", ", 1)
		if maxTTL == "" {
			l.config["steer"] = steer
		}
		l.write(t)
	}
	set("20s")
	n, _ := l.start(t)
	want := func(ttl uint32) {
		t.Helper()
		r := l.ask(t, resolver.UDP, "a.steered.example.")
		if len(r.Answer) == 0 {
			t.Fatalf("got\n%v\nwant an address", r)
		}
		a, ok := r.Answer[0].(*dns.A)
		if !ok || !n.addrs.Contains(netip.AddrFrom4([4]byte(a.A.To4()))) || a.Hdr.Ttl != ttl {
			t.Errorf("got %v; want a relay address for %d s", r.Answer[0], ttl)
		}
	}
	want(20)
	for maxTTL, ttl := range map[string]uint32{"7s": 7, "90s": 90, "": uint32(resolver.DefaultSteerTTL / time.Second)} {
		set(maxTTL)
		if err := n.reload(l.path()); err != nil {
			t.Fatal(err)
		}
		want(ttl)
	}
}

// TestApplyAllOrNothing has one of the services refuse values that another one has taken already.
func TestApplyAllOrNothing(t *testing.T) {
	special := netip.MustParseAddr("192.0.2.80") // which the relay connects to only if it is listed
	tests := map[string]struct {
		change func(v *values)
		want   string // in the error
	}{
		"resolver-refuses": {func(v *values) { v.Upstreams = append(v.Upstreams, v.Upstreams[0]) }, "resolver: "},
		"relay-refuses":    {func(v *values) { v.Relay.Egress = nil }, "relay: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.withRelay(t)
			n, _ := l.start(t)
			before, discovery := n.current(), n.discovery.Load()
			l.config["relay"] = strings.Replace(l.config["relay"], "allow_special: [", "allow_special: [192.0.2.0/24, ", 1)
			v := l.load(t, config.ModeAll)
			test.change(v)
			if err := n.apply(v); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got error %v; want one with %q", err, test.want)
			}
			if n.current() != before || n.discovery.Load() != discovery || n.relay.Permits(special) {
				t.Errorf("got values changed: %t, discovery changed: %t, relay changed: %t; want everything as before",
					n.current() != before, n.discovery.Load() != discovery, n.relay.Permits(special))
			}
			if err := n.apply(l.load(t, config.ModeAll)); err != nil || !n.relay.Permits(special) {
				t.Errorf("the same without the fault: got error %v; want it applied, also by the relay", err)
			}
		})
	}
}

// TestReloadRefusesAnotherSealKey has the file of the key change, to which the configuration still points.
func TestReloadRefusesAnotherSealKey(t *testing.T) {
	l := newLab(t)
	l.withSealedRelay("")
	key := filepath.Join(l.dir, "seal.key")
	if err := writeKey(key); err != nil {
		t.Fatal(err)
	}
	n, _ := l.startMode(t, config.ModeResolver)
	writeFile(t, key, strings.Repeat("5e", 32))
	if err := n.reload(l.path()); err == nil || !strings.Contains(err.Error(), "relay.sealed.key_file: ") {
		t.Errorf("got error %v; want one about relay.sealed.key_file", err)
	}
}

// TestModeResolver has a node whose relay runs elsewhere: it steers, counts the relay as healthy, and says nothing of a
// relay in discovery, because this host has none.
func TestModeResolver(t *testing.T) {
	l := newLab(t)
	l.withSealedRelay("")
	if err := writeKey(filepath.Join(l.dir, "seal.key")); err != nil {
		t.Fatal(err)
	}
	n, _ := l.startMode(t, config.ModeResolver)
	s := steering{n, n.current().destinations}
	addr, ok, err := s.RelayAddr(netip.MustParseAddr("198.51.100.1"), true, time.Minute)
	if n.relay != nil || !ok || err != nil || !s.Contains(addr) || !s.Healthy() {
		t.Errorf("got relay %v, address %v, %t, %v, healthy %t; want an address of a relay elsewhere", n.relay, addr, ok, err, s.Healthy())
	}
	if p, ok := n.discovery.Load().PvD(netip.MustParseAddr("127.0.0.1"), l.addr); !ok || p.Relay != nil {
		t.Errorf("got %+v; want no relay in the provisioning domain", p)
	}
}

// TestPhases asks for readiness in each phase of a node.
func TestPhases(t *testing.T) {
	for phase, want := range map[int32]string{phaseStarting: "starting", phaseServing: "", phaseDraining: "draining"} {
		n := &node{}
		n.phase.Store(phase)
		if got := strings.Join(n.notReady(), ", "); got != want {
			t.Errorf("phase %d: got %q; want %q", phase, got, want)
		}
	}
}
