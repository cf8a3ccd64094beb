package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cfrd-project/cfrd/zones"
)

// minimal is the smallest configuration of a resolver.
const minimal = `
name: dns.isp.example
clients: [10.0.0.0/8]
listen: {do53: ["10.0.0.53:53"]}
upstreams: ["udp://192.0.2.1"]
`

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cfrd.yaml")
	if err := os.WriteFile(path, []byte(minimal+"zones: [a.zone, /etc/b.zone]\nupstream_ca: ca.pem\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, path := range []string{path, "cfrd.yaml"} { // its own directory counts, however the file is named
		cfg, err := Read(path, ModeAll)
		if err != nil {
			t.Fatal(err)
		}
		got, want := append(cfg.Zones, cfg.UpstreamCA), []string{filepath.Join(dir, "a.zone"), "/etc/b.zone", filepath.Join(dir, "ca.pem")}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got paths %q; want %q", path, got, want)
		}
	}
	if _, err := Read(filepath.Join(dir, "none.yaml"), ModeAll); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: got error %v; want %v", err, fs.ErrNotExist)
	}
}

// TestRelayClients has the list that is handed to every package, which never means more than it says.
func TestRelayClients(t *testing.T) {
	relay := `relay: {ports: [443], table: {prefixes: [10.99.0.0/16], store: s}, egress: [192.0.2.64/28]%s}`
	tests := map[string]struct {
		more string
		want []netip.Prefix
	}{
		"default":   {"", prefixes("10.0.0.0/8")},
		"empty":     {", clients: []", prefixes("10.0.0.0/8")},
		"written":   {", clients: [10.1.0.0/16]", prefixes("10.1.0.0/16")},
		"not-ours":  {`, clients: ["2001:db8::/32"]`, prefixes("2001:db8::/32")},
		"everybody": {`, clients: [0.0.0.0/0]`, prefixes("0.0.0.0/0")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := parse(t, minimal+strings.Replace(relay, "%s", test.more, 1)).Relay.Clients
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v; want %v", got, test.want)
			}
		})
	}
}

func TestMode(t *testing.T) {
	tests := map[string]struct {
		mode             Mode
		resolves, relays bool
	}{
		"all": {ModeAll, true, true}, "resolver": {ModeResolver, true, false}, "relay": {ModeRelay, false, true},
	}
	for word, want := range tests {
		var m Mode
		if err := m.Set(word); err != nil || m != want.mode || m.String() != word || m.Type() != "mode" {
			t.Errorf("%s: got %v, error %v; want %v", word, m, err, want.mode)
		}
		if m.Resolves() != want.resolves || m.Relays() != want.relays {
			t.Errorf("%s: got resolves %t, relays %t; want %t, %t", word, m.Resolves(), m.Relays(), want.resolves, want.relays)
		}
	}
	m := ModeRelay
	if err := m.Set("both"); err == nil || m != ModeRelay {
		t.Errorf("both: got %v, error %v; want it refused, and the mode left as it is", m, err)
	}
}

// TestAddresses has the addresses that discovery gives out for the resolver's name.
func TestAddresses(t *testing.T) {
	tests := map[string]struct {
		do53, dot, admin string
		ddr              []string
		want             []string
	}{
		"listeners":    {"192.0.2.53:53", "[2001:db8::53]:853", "", nil, []string{"192.0.2.53", "2001:db8::53"}},
		"once":         {"192.0.2.53:53", "192.0.2.53:853", "", nil, []string{"192.0.2.53"}},
		"wildcard":     {"0.0.0.0:53", "192.0.2.53:853", "", nil, []string{"192.0.2.53"}},
		"link-local":   {"[fe80::1%eth0]:53", "192.0.2.53:853", "", nil, []string{"192.0.2.53"}},
		"not-admin":    {"192.0.2.53:53", "", "127.0.0.1:9153", nil, []string{"192.0.2.53"}},
		"ddr-replaces": {"192.0.2.53:53", "", "", []string{"192.0.2.99"}, []string{"192.0.2.99"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var c Config
			c.Listen.Do53 = addrPorts(test.do53)
			if test.dot != "" {
				c.Listen.DoT = addrPorts(test.dot)
			}
			if test.admin != "" {
				c.Listen.Admin = netip.MustParseAddrPort(test.admin)
			}
			for _, a := range test.ddr {
				c.DDR.Addresses = append(c.DDR.Addresses, netip.MustParseAddr(a))
			}
			var got []string
			for _, a := range c.Addresses() {
				got = append(got, a.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q; want %q", got, test.want)
			}
		})
	}
}

func TestIsHostname(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string]bool{
		"dns.isp.example": true, "dns.isp.example.": true, "DNS-1.example": true, long + ".example": true, "xn--bcher-kva.example": true,
		"": false, ".": false, "example": false, "192.0.2.53": false, "2001:db8::53": false, "a..example": false, "-a.example": false,
		"a-.example": false, "a_b.example": false, "bücher.example": false, long + "a.example": false, "a.example..": false,
		strings.Repeat(long+".", 4) + "example": false,
	} {
		if got := IsHostname(name); got != want {
			t.Errorf("%q: got %t; want %t", name, got, want)
		}
	}
}

// TestPolicyRules has the reference configuration's rules in the form in which they are compiled.
func TestPolicyRules(t *testing.T) {
	want := []zones.Rule{
		{Suffixes: []string{"bank.example"}, Pass: true},
		{Suffixes: []string{"cdn.example"}},
		{Prefixes: prefixes("198.51.100.0/24")},
		{ECH: true},
	}
	if diff := cmp.Diff(want, parse(t, string(referenceConfig)).PolicyRules(), configComparers()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestAddressMap has what relay addresses are made of, with the key that is read elsewhere.
func TestAddressMap(t *testing.T) {
	cfg := parse(t, string(referenceConfig))
	key := make([]byte, 32)
	got := cfg.AddressMap(key)
	if got.Sealed == nil || got.Sealed.Prefix.String() != "2001:db8:cf::/64" || len(got.Sealed.Key) != len(key) {
		t.Errorf("sealed: got %+v; want the prefix and the key", got.Sealed)
	}
	if got.Table == nil || got.Table.Path != "/etc/cfrd/leases.db" || len(got.Table.Prefixes) != 1 {
		t.Errorf("table: got %+v; want the prefix and the path", got.Table)
	}
	if want := prefixes("2001:db8:cf::/64", "10.99.0.0/16"); !slices.Equal(cfg.RelayRanges(), want) {
		t.Errorf("got ranges %v; want %v", cfg.RelayRanges(), want)
	}
	none := parse(t, minimal)
	if got := none.AddressMap(nil); got.Sealed != nil || got.Table != nil || none.Relays() || none.RelayRanges() != nil {
		t.Errorf("without a relay: got %+v; want nothing", got)
	}
}
