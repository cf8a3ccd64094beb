package main

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/resolver"
)

// TestLoadErrors has configurations that are right by themselves, and name files or values that are not.
func TestLoadErrors(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, l *lab)
		want   string // one of the errors
	}{
		"no-certificate": {
			func(_ *testing.T, l *lab) { l.config["tls"] = "{certificate: none.pem, key: key.pem}" },
			"tls.certificate: open ",
		},
		"no-key": {
			func(_ *testing.T, l *lab) { l.config["tls"] = "{certificate: cert.pem, key: none.pem}" },
			"tls.key: open ",
		},
		"certificate-is-no-pem": {
			func(t *testing.T, l *lab) { writeFile(t, filepath.Join(l.dir, "cert.pem"), "no certificate") },
			"cert.pem: failed to find any PEM data",
		},
		"key-is-no-pem": {
			func(t *testing.T, l *lab) { writeFile(t, filepath.Join(l.dir, "key.pem"), "no key") },
			"/key.pem: failed to find any PEM data in key input",
		},
		"no-zone": {
			func(_ *testing.T, l *lab) { l.config["zones"] = "[isp.zone, none.zone]" },
			"zones[1]: ",
		},
		"zone-twice": {
			func(_ *testing.T, l *lab) { l.config["zones"] = "[isp.zone, isp.zone]" },
			"zones: ",
		},
		"forward-of-no-special-name": {
			func(_ *testing.T, l *lab) { l.config["forward"] = "[www.example.com]" },
			"forward[0]: ",
		},
		"no-upstream-ca": {
			func(_ *testing.T, l *lab) { l.config["upstream_ca"] = "none.pem" },
			"upstream_ca: open ",
		},
		"upstream-ca-is-no-pem": {
			func(_ *testing.T, l *lab) { l.config["upstream_ca"] = "isp.zone" },
			"holds no certificate in PEM form",
		},
		"no-seal-key": {
			func(_ *testing.T, l *lab) { l.withSealedRelay("") },
			"seal.key does not exist: make it with",
		},
		"seal-key-too-short": {
			func(t *testing.T, l *lab) {
				l.withSealedRelay("")
				writeFile(t, filepath.Join(l.dir, "seal.key"), "abcdef")
			},
			"relay.sealed.key_file: ",
		},
		"epoch-too-short": {
			func(t *testing.T, l *lab) {
				l.withSealedRelay(", epoch: 2s")
				l.config["steer"] = "{max_ttl: 1s, rules: [{ech: true}]}"
				if err := writeKey(filepath.Join(l.dir, "seal.key")); err != nil {
					t.Fatal(err)
				}
			},
			"relay.sealed.epoch: 2s is too short",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			test.change(t, l)
			l.write(t)
			_, err := checkConfig(l.path(), config.ModeAll)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want one with %q", err, test.want)
			}
		})
	}
}

func (l *lab) withSealedRelay(more string) {
	l.config["steer"] = "{rules: [{ech: true}]}"
	l.config["relay"] = `{ports: [443], sealed: {prefix: "2001:db8:cf::/64", key_file: seal.key` + more +
		"}, egress: [192.0.2.64/28]}"
}

// TestUpstreamIsThisHost has a listener on all addresses, of which the upstream is one.
func TestUpstreamIsThisHost(t *testing.T) {
	cfg := &config.Config{}
	cfg.Listen.Do53 = addrPorts("0.0.0.0:53")
	cfg.Upstreams = []resolver.Upstream{{Addr: netip.MustParseAddrPort("127.0.0.1:53")}}
	l := &loader{values: values{Config: cfg}}
	l.checkUpstreams()
	if len(l.problems) != 1 || l.problems[0].Key != "upstreams[0]" {
		t.Errorf("got %v; want one problem with upstreams[0]", l.problems)
	}
}

func TestLoadWarnings(t *testing.T) {
	l := newLab(t)
	certstest.Template{Names: []string{"dns.isp.example"}}.Write(t, l.dir)
	l.config["listen"] = `{do53: ["192.0.2.53:53"], dot: ["192.0.2.53:853"]}`
	l.write(t)
	warnings, err := checkConfig(l.path(), config.ModeAll)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "does not carry 192.0.2.53") {
		t.Errorf("got %q; want one warning about 192.0.2.53", warnings)
	}
}
