package relay

import (
	"net"
	"os/exec"
	"strings"
	"testing"
)

func TestRoutes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ip(t, 0, "link set lo up")
	cfg := Config{Ports: []uint16{443}, Settings: Settings{Egress: prefixes("192.0.2.0/28", "2001:db8:e::/64")}}

	for _, step := range []struct{ remedy, add string }{
		{"run: ip route add local 192.0.2.0/28 dev lo", "addr add 192.0.2.0/32 dev lo"},
		{"run: ip route add local 192.0.2.0/28 dev lo", "route add local 192.0.2.0/28 dev lo"},
		{"run: ip -6 route add local 2001:db8:e::/64 dev lo", "-6 route add local 2001:db8:e::/64 dev lo"},
		{"run: ip route add local 203.0.113.0/24 dev lo", ""},
	} {
		if _, err := newRelay(cfg, bedMap{}); err == nil || !strings.Contains(err.Error(), step.remedy) {
			t.Errorf("got error %v; want one that says %q", err, step.remedy)
		}
		ip(t, 0, step.add)
	}

	cfg.Routes = true
	r, err := newRelay(cfg, bedMap{})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"203.0.113.7:443", "[2001:db8:cf::7]:443"} {
		c, err := net.DialTimeout("tcp", addr, deadline)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		c.Close()
	}
	r.Close()
	for addr, want := range map[string]bool{"203.0.113.7": false, "2001:db8:cf::7": false, "192.0.2.7": true} {
		if out := ipOutput(t, "route get "+addr); strings.HasPrefix(out, "local") != want {
			t.Errorf("%s after the end: got %q; want local %v", addr, out, want)
		}
	}
}

// ipOutput returns what ip(8) says, be it an error.
func ipOutput(t *testing.T, line string) string {
	t.Helper()
	out, _ := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput()
	return string(out)
}
