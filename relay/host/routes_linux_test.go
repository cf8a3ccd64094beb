package host

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
)

var (
	relayAddrs  = []string{"203.0.113.0", "203.0.113.255", "2001:db8:cf::", "2001:db8:cf::ffff:ffff:ffff:ffff"}
	egressAddrs = []string{"192.0.2.64", "192.0.2.79", "2001:db8:e::1"}
)

// TestRelease: while no relay runs, its prefixes are unreachable, and do not take the default route.
func TestRelease(t *testing.T) {
	uplink(t, "198.51.100.1/24", "2001:db8:1::1/64")
	ip(t, "route add default via 198.51.100.2")
	ip(t, "-6 route add default via 2001:db8:1::2")
	wantWay(t, "elsewhere", append(relayAddrs, egressAddrs...)...)
	c := claim(t, testConfig())
	wantWay(t, "local", append(relayAddrs, egressAddrs...)...)
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	wantWay(t, "unreachable", append(relayAddrs, egressAddrs...)...)
	wantTables(t)
	c = claim(t, testConfig())
	wantWay(t, "local", append(relayAddrs, egressAddrs...)...)
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	if err := Reclaim(); err != nil {
		t.Fatal(err)
	}
	wantWay(t, "elsewhere", append(relayAddrs, egressAddrs...)...)
}

// TestAbandon leaves nothing of a start that failed, but what a run before has left.
func TestAbandon(t *testing.T) {
	uplink(t)
	c := claim(t, testConfig())
	if err := c.Abandon(); err != nil {
		t.Fatal(err)
	}
	if got := leftovers(t); got != "" {
		t.Errorf("got routes\n%s; want none", got)
	}
	wantTables(t)
	if err := claim(t, testConfig()).Release(); err != nil {
		t.Fatal(err)
	}
	if err := claim(t, testConfig()).Abandon(); err != nil {
		t.Fatal(err)
	}
	wantWay(t, "unreachable", append(relayAddrs, egressAddrs...)...)
}

// TestKilled: the next start takes over what a process left that was killed, and removes what is no longer configured.
func TestKilled(t *testing.T) {
	uplink(t, "198.51.100.1/24", "2001:db8:1::1/64")
	ip(t, "route add default via 198.51.100.2")
	ip(t, "-6 route add default via 2001:db8:1::2")
	claim(t, testConfig()).kill()
	wantWay(t, "local", append(relayAddrs, egressAddrs...)...)
	wantTables(t, "cfrd_relay_1")

	cfg := testConfig()
	cfg.Relay = prefixes("203.0.113.0/25", "2001:db8:cf::/64")
	cfg.Egress = prefixes("192.0.2.80/28")
	c := claim(t, cfg)
	wantWay(t, "local", "203.0.113.127", "2001:db8:cf::1", "192.0.2.80")
	wantWay(t, "elsewhere", "203.0.113.128", "192.0.2.64", "2001:db8:e::1")
	c.kill()

	cfg.Routes = false
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "is not local to this host; run: ip") {
		t.Errorf("without routes of ours: got error %v; want one that says what to run", err)
	}
	if got := leftovers(t); strings.Contains(got, "local") {
		t.Errorf("got routes\n%s; want none that is local", got)
	}
	wantTables(t)
}

// TestFirewallOff removes the table of a run before that had one.
func TestFirewallOff(t *testing.T) {
	uplink(t)
	claim(t, testConfig()).kill()
	cfg := testConfig()
	cfg.Firewall = false
	claim(t, cfg).kill()
	wantTables(t)
	claim(t, testConfig()).kill()
	cfg = Config{Relay: prefixes("127.80.0.0/24"), Egress: prefixes("127.81.0.0/24"), Routes: true, Firewall: true}
	claim(t, cfg)
	wantTables(t)
	if got := leftovers(t); got != "" {
		t.Errorf("got routes\n%s; want none for loopback addresses", got)
	}
}

// TestTakeover: during a restart two relays have the same prefixes for a while. The end of the first must not take the
// second's.
func TestTakeover(t *testing.T) {
	uplink(t)
	first := claim(t, testConfig())
	cfg := testConfig()
	cfg.Egress = prefixes("192.0.2.80/28", "2001:db8:e::/64")
	second := claim(t, cfg)
	wantTables(t, "cfrd_relay_1", "cfrd_relay_2")
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	wantTables(t, "cfrd_relay_2")
	wantWay(t, "local", append(relayAddrs, "192.0.2.80", "2001:db8:e::1")...)
	if got := leftovers(t); strings.Contains(got, "192.0.2.64") {
		t.Errorf("got routes\n%s; want none of the prefix that only the first relay had", got)
	}
	if err := second.Release(); err != nil {
		t.Fatal(err)
	}
	wantWay(t, "unreachable", append(relayAddrs, "192.0.2.80", "2001:db8:e::1")...)
}

// TestExtend replaces the egress, and gives back what a refused change needed.
func TestExtend(t *testing.T) {
	uplink(t)
	c := claim(t, testConfig())
	before := leftovers(t)
	ch, err := c.Extend(prefixes("192.0.2.64/28", "192.0.2.80/28"))
	if err != nil {
		t.Fatal(err)
	}
	wantWay(t, "local", append(egressAddrs, "192.0.2.80")...)
	if err := ch.Undo(); err != nil {
		t.Fatal(err)
	}
	if got := leftovers(t); got != before {
		t.Errorf("after a refused change: got routes\n%s; want those before:\n%s", got, before)
	}
	if ch, err = c.Extend(prefixes("192.0.2.80/28")); err != nil {
		t.Fatal(err)
	}
	ch.Commit()
	wantWay(t, "local", append(egressAddrs, "192.0.2.80")...)
	if ch, err = c.Extend(prefixes("192.0.2.64/28")); err != nil {
		t.Fatal(err)
	}
	if err := ch.Undo(); err != nil {
		t.Fatal(err)
	}
	wantWay(t, "local", append(egressAddrs, "192.0.2.80")...)
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	wantWay(t, "unreachable", append(relayAddrs, "192.0.2.80")...)
	if got := leftovers(t); strings.Contains(got, "192.0.2.64") {
		t.Errorf("got routes\n%s; want none of an egress that is no longer configured", got)
	}
}

// TestForeignRoutes: what others have made local stays theirs.
func TestForeignRoutes(t *testing.T) {
	uplink(t)
	ip(t, "route add local 203.0.113.0/24 dev lo")
	t.Cleanup(func() { tryIP(t, "route del local 203.0.113.0/24 dev lo") })
	c := claim(t, testConfig())
	if got := leftovers(t); strings.Contains(got, "203.0.113.0") {
		t.Errorf("got routes\n%s; want none for what is local already", got)
	}
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	wantWay(t, "local", "203.0.113.1")
	wantWay(t, "unreachable", "192.0.2.64")
	ip(t, "route del local 203.0.113.0/24 dev lo")
}

func TestSamples(t *testing.T) {
	for prefix, want := range map[string][3]string{
		"192.0.2.64/28":    {"192.0.2.64", "192.0.2.71", "192.0.2.79"},
		"192.0.2.1/32":     {"192.0.2.1", "192.0.2.1", "192.0.2.1"},
		"2001:db8::/64":    {"2001:db8::", "2001:db8::7fff:ffff:ffff:ffff", "2001:db8::ffff:ffff:ffff:ffff"},
		"255.255.255.0/24": {"255.255.255.0", "255.255.255.127", "255.255.255.255"},
	} {
		var got [3]string
		for i, a := range samples(netip.MustParsePrefix(prefix)) {
			got[i] = a.String()
		}
		if got != want {
			t.Errorf("%s: got %v; want %v", prefix, got, want)
		}
	}
}

// wantTables checks which tables of relays there are.
func wantTables(t *testing.T, want ...string) {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, table := range tables {
		got = append(got, table.Name)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got tables %v; want %v", got, want)
	}
}
