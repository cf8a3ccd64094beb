package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/relay/addrmap"
	"github.com/cfrd-project/cfrd/resolver"
)

// parse parses a configuration as if it were the file /etc/cfrd/cfrd.yaml.
func parse(t *testing.T, text string) *Config {
	t.Helper()
	cfg, err := Parse([]byte(text), "/etc/cfrd", ModeAll)
	if err != nil {
		t.Fatalf("parseConfig: %v", err)
	}
	return cfg
}

// referenceConfig is the configuration that `cfrd config init` writes.
var referenceConfig = func() []byte {
	data, err := os.ReadFile("../../testdata/cfrd.yaml")
	if err != nil {
		panic(err)
	}
	return data
}()

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

func TestReferenceConfig(t *testing.T) {
	want := &Config{
		Name:    "dns.isp.example",
		Clients: prefixes("10.0.0.0/8", "2001:db8::/32"),
		Listen: Listen{
			Do53:  addrPorts("10.0.0.53:53", "[2001:db8::53]:53"),
			DoT:   addrPorts("10.0.0.53:853", "[2001:db8::53]:853"),
			DoH:   addrPorts("10.0.0.53:443", "[2001:db8::53]:443"),
			DoQ:   addrPorts("10.0.0.53:853", "[2001:db8::53]:853"),
			Admin: netip.MustParseAddrPort("127.0.0.1:9153"),
		},
		TLS: TLS{Certificate: "/etc/cfrd/cert.pem", Key: "/etc/cfrd/key.pem"},
		Upstreams: []resolver.Upstream{
			{Addr: netip.MustParseAddrPort("192.0.2.1:53")},
			{Protocol: resolver.UpstreamTLS, Addr: netip.MustParseAddrPort("192.0.2.2:853"), Name: "dns.example"},
		},
		DDR: DDR{AdvertiseRelay: true, PvD: true},
		Steer: Steer{Rules: []Rule{
			{Suffixes: []string{"bank.example"}, Action: ActionPass},
			{Suffixes: []string{"cdn.example"}},
			{Prefixes: prefixes("198.51.100.0/24")},
			{ECH: true},
		}},
		Relay: Relay{
			Ports:   []uint16{443, 80},
			Sealed:  Sealed{Prefix: netip.MustParsePrefix("2001:db8:cf::/64"), KeyFile: "/etc/cfrd/seal.key"},
			Table:   Table{Prefixes: prefixes("10.99.0.0/16"), Store: "/etc/cfrd/leases.db"},
			Egress:  prefixes("192.0.2.64/28", "2001:db8:e::/64"),
			Clients: prefixes("10.0.0.0/8", "2001:db8::/32"), // those of clients
			Routes:  true, GSO: true,
		},
		Log: Log{Level: zerolog.InfoLevel},
	}
	got := parse(t, string(referenceConfig))
	if diff := cmp.Diff(want, got, configComparers()); diff != "" {
		t.Errorf("testdata/cfrd.yaml (-want +got):\n%s", diff)
	}
	if len(got.Warnings) > 0 {
		t.Errorf("got warnings %q; want none", got.Warnings)
	}
}

func configComparers() cmp.Options {
	return cmp.Options{
		cmp.AllowUnexported(Config{}),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmpopts.EquateEmpty(),
	}
}

// TestReferenceACME uncomments the alternative to the files of the reference configuration.
func TestReferenceACME(t *testing.T) {
	text := strings.Replace(string(referenceConfig), "  certificate: cert.pem\n  key: key.pem\n", "", 1)
	got := parse(t, strings.ReplaceAll(text, "#: ", "")).TLS.ACME
	want := ACME{
		Directory:  "https://acme-v02.api.letsencrypt.org/directory",
		Email:      "noc@isp.example",
		CA:         "/etc/cfrd/acme-ca.pem",
		Storage:    "/etc/cfrd/acme",
		Profile:    "shortlived",
		Challenges: []Challenge{"tls-alpn-01"},
		Addresses:  []netip.Addr{netip.MustParseAddr("2001:db8::53")},
		Agree:      true,
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("tls.acme (-want +got):\n%s", diff)
	}
}

// TestReferenceDefaults uncomments every default of the reference configuration, which must all be known keys with
// values that are accepted.
func TestReferenceDefaults(t *testing.T) {
	commented := regexp.MustCompile(`(?m)^( *)# ( *(?:- )?[a-z0-9_]+:.*)$`)
	text := commented.ReplaceAllString(string(referenceConfig), "$1$2")
	for _, line := range []string{"tcp_flows: 0", "udp_flows: 0"} {
		text = strings.Replace(text, line, line[:len(line)-1]+"1", 1)
	}
	cfg := parse(t, text)
	// The packages' defaults, as far as they have names, which the file repeats.
	got := []any{cfg.Steer.MaxTTL, cfg.Relay.Sealed.Epoch, int64(cfg.Cache.Size)}
	want := []any{resolver.DefaultSteerTTL, addrmap.DefaultEpoch, int64(resolver.DefaultCacheBytes)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults of steer.max_ttl, relay.sealed.epoch and cache.size (-want +got):\n%s", diff)
	}
	for _, key := range configKeys() {
		_, name := splitKey(key.path)
		if !strings.Contains(text, name+":") {
			t.Errorf("%s is not in testdata/cfrd.yaml", key.path)
		}
	}
}

// TestBadConfig parses each file of testdata/bad, whose leading comments are the errors to expect, all of them and in
// this order. A first line "# mode: relay" sets the mode.
func TestBadConfig(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d files, error %v; want some", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, want := ModeAll, []string(nil)
			for line := range strings.Lines(string(data)) {
				text, ok := strings.CutPrefix(strings.TrimSpace(line), "# ")
				if !ok {
					break
				}
				if name, ok := strings.CutPrefix(text, "mode: "); ok {
					if err := m.Set(name); err != nil {
						t.Fatal(err)
					}
					continue
				}
				want = append(want, text)
			}
			_, err = Parse(data, "/etc/cfrd", m)
			if err == nil {
				t.Fatalf("got no error; want %q", want)
			}
			if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("CFRD_LISTEN_ADMIN", "127.0.0.2:9000")
	t.Setenv("CFRD_CLIENTS", "192.0.2.0/24, 2001:db8:1::/48")
	t.Setenv("CFRD_DDR_ADVERTISE_RELAY", "false")
	t.Setenv("CFRD_STEER_MAX_TTL", "30s")
	t.Setenv("CFRD_RELAY_PORTS", "8443")
	t.Setenv("CFRD_LIMITS_CONNECTIONS", "12") // the file has no such section
	t.Setenv("CFRD_CACHE_SIZE", "1MiB")
	t.Setenv("CFRD_RELAY_SEALED_KEY_FILE", "other.key")
	t.Setenv("CFRD_NAME", "") // counts as not set
	cfg := parse(t, string(referenceConfig))
	got := map[string]any{
		"listen.admin":          cfg.Listen.Admin.String(),
		"clients":               cfg.Clients,
		"ddr.advertise_relay":   cfg.DDR.AdvertiseRelay,
		"steer.max_ttl":         cfg.Steer.MaxTTL,
		"relay.ports":           cfg.Relay.Ports,
		"limits.connections":    cfg.Limits.Connections,
		"cache.size":            cfg.Cache.Size,
		"relay.sealed.key_file": cfg.Relay.Sealed.KeyFile,
		"name":                  cfg.Name,
	}
	want := map[string]any{
		"listen.admin":          "127.0.0.2:9000",
		"clients":               prefixes("192.0.2.0/24", "2001:db8:1::/48"),
		"ddr.advertise_relay":   false,
		"steer.max_ttl":         30 * time.Second,
		"relay.ports":           []uint16{8443},
		"limits.connections":    12,
		"cache.size":            ByteSize(1 << 20),
		"relay.sealed.key_file": "/etc/cfrd/other.key",
		"name":                  "dns.isp.example",
	}
	if diff := cmp.Diff(want, got, configComparers()); diff != "" {
		t.Errorf("overridden keys (-want +got):\n%s", diff)
	}
}

func TestEnvironmentErrors(t *testing.T) {
	for variable, row := range map[string]struct{ value, want string }{
		"CFRD_LISTEN_ADMIN": {
			"localhost", `listen.admin: (set by CFRD_LISTEN_ADMIN) must be an address and a port, such as "192.0.2.53:53" or ` +
				`"[2001:db8::53]:53", not "localhost"`,
		},
		"CFRD_RELAY_PORTS": {"443,0", `relay.ports[1]: (set by CFRD_RELAY_PORTS) must be a port, 1 to 65535, not "0"`},
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, row.value)
			_, err := Parse(referenceConfig, "/etc/cfrd", ModeAll)
			if err == nil || err.Error() != row.want {
				t.Errorf("got error %v; want %s", err, row.want)
			}
		})
	}
}

func TestUnknownVariables(t *testing.T) {
	got := unknownVariables([]string{"CFRD_NAME=a", "CFRD_LISTEN=b", "CFRD_STEER_RULES_ECH=true", "CFRDX=c", "PATH=/"}, configKeys())
	if len(got) != 2 || !strings.HasPrefix(got[0], "CFRD_LISTEN ") || !strings.HasPrefix(got[1], "CFRD_STEER_RULES_ECH ") {
		t.Errorf("got %q; want warnings about a section and a key within a list", got)
	}
}

func TestSealedOnlyRelayNeedsNoDNS(t *testing.T) {
	text := `
relay:
  ports: [443]
  clients: [10.0.0.0/8]
  sealed: {prefix: "2001:db8:cf::/64", key_file: seal.key}
  egress: [192.0.2.64/28]
`
	if _, err := Parse([]byte(text), "/etc/cfrd", ModeRelay); err != nil {
		t.Errorf("got error %v; want none", err)
	}
}

func TestWarnings(t *testing.T) {
	for name, row := range map[string]struct{ old, new, want string }{
		"open":     {"clients: [10.0.0.0/8,", "clients: [0.0.0.0/0,", "clients: 0.0.0.0/0"},
		"announce": {"# dnr:\n", "dnr: {announce: [{interface: lan0, dhcpv6: true, pvd: true}]}\n", "dnr.announce[0]: managed"},
		"wildcard": {`do53: ["10.0.0.53:53",`, `do53: ["0.0.0.0:53",`, "listen.do53[0]: 0.0.0.0:53"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := parse(t, strings.Replace(string(referenceConfig), row.old, row.new, 1))
			if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], row.want) {
				t.Errorf("got warnings %q; want one about %s", cfg.Warnings, row.want)
			}
		})
	}
}

// FuzzConfig looks for panics, and for errors that do not name a key.
func FuzzConfig(f *testing.F) {
	f.Add(referenceConfig)
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("steer: {rules: [{1: 2}, 3, [4]]}")) // keys that are not text
	f.Add([]byte("listen: 5\nlisten.do53: 6"))        // keys with dots
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse(data, "/etc/cfrd", ModeAll)
		if (cfg == nil) != (err != nil) {
			t.Fatalf("got configuration %v and error %v; want one of them", cfg, err)
		}
		if err == nil {
			return
		}
		if _, ok := err.(Problems); !ok || err.Error() == "" {
			t.Fatalf("got error %T %q; want problems", err, err)
		}
	})
}

func TestDo53Addresses(t *testing.T) {
	cfg := &Config{DDR: DDR{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}}
	cfg.Listen.Do53 = addrPorts("0.0.0.0:53", "[2001:db8::53]:53")
	got := fmt.Sprint(cfg.Do53Addresses())
	if want := "[192.0.2.53 2001:db8::53]"; got != want {
		t.Errorf("got %s; want %s: an address for the wildcard", got, want)
	}
}
