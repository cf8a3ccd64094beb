package main

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr/announce"
	"github.com/cfrd-project/cfrd/resolver"
)

func TestDescribeTo(t *testing.T) {
	link := announce.Link{Interface: "lan0", Addresses: addresses("192.0.2.7", "2001:db8::7")}
	listen := func(list ...string) resolver.Listen {
		return resolver.Listen{DoT: addrPorts(list...), DoH: addrPorts("[::]:443")}
	}
	config := func(l resolver.Listen, addrs ...string) ddr.Config {
		return ddr.Config{Name: "dns.isp.example", Addresses: addresses(addrs...), Services: services(l), PvD: true}
	}
	for name, test := range map[string]struct {
		cfg       ddr.Config
		do53      []netip.AddrPort
		resolvers string // ALPN and addresses
		servers   string
		pvd       announce.PvD // without its number
	}{
		"listeners": {
			config(listen("192.0.2.53:853", "[2001:db8::53]:853"), "192.0.2.53", "2001:db8::53"),
			addrPorts("192.0.2.53:53", "[2001:db8::53]:53"),
			"[h3 h2] [192.0.2.53 2001:db8::53] [dot] [192.0.2.53 2001:db8::53]", "[192.0.2.53 2001:db8::53]",
			announce.PvD{ID: "dns.isp.example", Info: true},
		},
		"wildcard": {
			config(listen("[::]:853")), addrPorts("0.0.0.0:53"),
			"[h3 h2] [192.0.2.7 2001:db8::7] [dot] [192.0.2.7 2001:db8::7]", "[192.0.2.7]",
			announce.PvD{ID: "dns.isp.example", Info: true},
		},
		"useless-addresses": {
			config(listen("[::]:853"), "127.0.0.1", "::1", "fe80::1", "192.0.2.53"), addrPorts("[::]:53"),
			"[h3 h2] [192.0.2.53] [dot] [192.0.2.53]", "[192.0.2.53]",
			announce.PvD{ID: "dns.isp.example", Info: true},
		},
		"other-port-of-do53": {
			config(listen("[::]:853"), "192.0.2.53"), addrPorts("192.0.2.53:5353"),
			"[h3 h2] [192.0.2.53] [dot] [192.0.2.53]", "[]",
			announce.PvD{ID: "dns.isp.example", Info: true},
		},
		"no-certificate": {
			ddr.Config{Name: "dns.isp.example", Addresses: addresses("192.0.2.53"), PvD: true},
			addrPorts("192.0.2.53:53"),
			"", "[192.0.2.53]",
			announce.PvD{ID: "dns.isp.example"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := describeTo(link, test.cfg, test.do53, true)
			var resolvers []string
			for _, r := range got.Resolvers {
				resolvers = append(resolvers, fmt.Sprint(r.ALPN, r.Addresses))
			}
			if s := strings.Join(resolvers, " "); s != test.resolvers {
				t.Errorf("got resolvers %s; want %s", s, test.resolvers)
			}
			if s := fmt.Sprint(got.Servers); s != test.servers {
				t.Errorf("got servers %s; want %s", s, test.servers)
			}
			if got.PvD.Sequence = 0; got.PvD != test.pvd {
				t.Errorf("got %+v; want %+v", got.PvD, test.pvd)
			}
			if p := describeTo(link, test.cfg, test.do53, false).PvD; p != (announce.PvD{}) {
				t.Errorf("got %+v without pvd; want none", p)
			}
		})
	}
}

func addresses(list ...string) (addrs []netip.Addr) {
	for _, s := range list {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs
}

// TestCertified announces encryption only while clients would take the certificate.
func TestCertified(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		leaf *x509.Certificate
		want int // services
	}{
		"good":       {certstest.Template{Names: []string{"dns.isp.example"}}.Write(t, t.TempDir()), 1},
		"other-name": {certstest.Template{Names: []string{"www.isp.example"}}.Write(t, t.TempDir()), 0},
		"expired": {certstest.Template{
			Names: []string{"dns.isp.example"}, NotAfter: now.Add(-time.Minute),
		}.Write(t, t.TempDir()), 0},
		"none": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := ddr.Config{Name: "dns.isp.example", Services: make([]ddr.Service, 1)}
			cfg.Certificate = func() *x509.Certificate { return test.leaf }
			if got := certified(cfg, now).Services; len(got) != test.want {
				t.Errorf("got %d services; want %d", len(got), test.want)
			}
		})
	}
}

func TestFingerprint(t *testing.T) {
	r := svcb.Resolver{Priority: 1, Name: "dns.isp.example.", ALPN: []string{"dot"}}
	other := r
	other.Port = 8853
	a, b := fingerprint([]svcb.Resolver{r}), fingerprint([]svcb.Resolver{other})
	if a == b || a != fingerprint(slices.Clone([]svcb.Resolver{r})) {
		t.Errorf("got %d and %d; want two numbers, always the same", a, b)
	}
}

func TestDNRAnnounceUsage(t *testing.T) {
	named := []string{"dnr", "announce", "--name", "dns.isp.example", "--address", "2001:db8::53"}
	for name, test := range map[string]struct {
		args   []string
		code   int
		stderr string
	}{
		"no-interface":     {named, 2, "--interface: missing"},
		"no-such-name":     {slices.Concat(named, []string{"--interface", "a/b"}), 2, `--interface: "a/b" is not the name`},
		"too-often":        {slices.Concat(named, []string{"--interface", "lan0", "--max-interval", "1s"}), 2, "--max-interval: 1s is out of range"},
		"no-configuration": {[]string{"dnr", "announce", "--interface", "lan0", "--config", "/nonexistent"}, 1, "read configuration"},
		"bad-address":      {[]string{"dnr", "announce", "--interface", "lan0", "--name", "a.example", "--address", "x"}, 2, "--address"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := cfrd(t, test.args...)
			if code != test.code || !strings.Contains(stderr, test.stderr) {
				t.Errorf("got code %d and %q; want %d and %q", code, stderr, test.code, test.stderr)
			}
		})
	}
}
