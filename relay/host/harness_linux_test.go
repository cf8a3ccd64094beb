package host

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// The tests run in a network namespace of their own, one after the other, and leave it as it was.
func TestMain(m *testing.M) { netns.Main(m) }

// ip runs ip(8) and returns what it says.
func ip(t *testing.T, line string) string {
	t.Helper()
	out, err := tryIP(t, line)
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
	return out
}

func tryIP(t *testing.T, line string) (string, error) {
	out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput()
	return string(out), err
}

// uplink makes an interface with addresses, on which no neighbour answers.
func uplink(t *testing.T, addrs ...string) {
	t.Helper()
	netns.Require(t)
	ip(t, "link add uplink type veth peer name far")
	t.Cleanup(func() { exec.Command("ip", "link", "del", "uplink").Run() })
	ip(t, "link set uplink up")
	ip(t, "link set far up")
	for _, a := range addrs {
		addAddress(t, a)
	}
}

// addAddress gives the uplink an address, which can be used at once.
func addAddress(t *testing.T, addr string) {
	t.Helper()
	line := "addr add " + addr + " dev uplink"
	if strings.Contains(addr, ":") {
		line += " nodad"
	}
	ip(t, line)
}

// ipBatch runs many lines in one ip(8).
func ipBatch(t *testing.T, lines string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip -batch: %v\n%s", err, out)
	}
}

func prefixes(list ...string) (ps []netip.Prefix) {
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// testConfig is a relay with prefixes of both families.
func testConfig() Config {
	return Config{
		Relay:    prefixes("203.0.113.0/24", "2001:db8:cf::/64"),
		Egress:   prefixes("192.0.2.64/28", "2001:db8:e::/64"),
		Ports:    []uint16{443, 80},
		Routes:   true,
		Firewall: true,
		Log:      zerolog.Nop(),
	}
}

// claim makes a Claim, which is gone when t ends, with everything that it has left.
func claim(t *testing.T, cfg Config) *Claim {
	t.Helper()
	netns.Require(t)
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.slot.release()
		if err := Reclaim(); err != nil {
			t.Errorf("Reclaim: %v", err)
		}
	})
	return c
}

// kill is what becomes of c when its process is killed: the kernel closes its socket.
func (c *Claim) kill() { c.slot.release() }

// wantWay checks what the kernel does with a packet to each address: local, unreachable, or anything else.
func wantWay(t *testing.T, want string, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		got := "elsewhere"
		out, err := tryIP(t, "route get "+addr)
		switch {
		case strings.HasPrefix(out, "local"):
			got = "local"
		case err != nil && strings.Contains(out, "No route to host"):
			got = "unreachable"
		}
		if got != want {
			t.Errorf("%s: got %s (%s); want %s", addr, got, strings.TrimSpace(out), want)
		}
	}
}

// leftovers returns the routes of relays.
func leftovers(t *testing.T) string {
	t.Helper()
	return ip(t, "-4 route show table all proto 207") + ip(t, "-6 route show table all proto 207")
}
