package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/dnr/serverconf"
)

func TestDNRPrint(t *testing.T) {
	named := []string{"dnr", "print", "--name", "dns.example", "--address", "192.0.2.53,2001:db8::53"}
	reference := []string{"dnr", "print", "--config", "testdata/cfrd.yaml"}
	for name, test := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string // in what is printed
	}{
		"flags": {named, 0, "v4-dnr", ""},
		"config": {
			slices.Concat(reference, []string{"--for", "odhcpd"}), 0,
			"dns.isp.example 2001:db8::53,10.0.0.53 alpn=h3,h2 dohpath=/dns-query{?dns}", "",
		},
		"transports": {
			slices.Concat(named, []string{"--transports", "dot:8853,doh", "--for", "odhcpd"}), 0, "alpn=dot port=8853'\n", "",
		},
		"dohpath": {
			slices.Concat(named, []string{"--dohpath", "/q{?dns}", "--for", "odhcpd"}), 0, "dohpath=/q{?dns}", "",
		},
		"one-option": {
			slices.Concat(named, []string{"--for", "dnsmasq", "--option", "dhcpv6"}), 0, "option6:144,00:01:00:0d:03", "",
		},
		"no-such-server":    {slices.Concat(named, []string{"--for", "udhcpd"}), 2, "", `--for: "udhcpd" is none of kea`},
		"no-such-option":    {slices.Concat(named, []string{"--option", "v4"}), 2, "", `--option: "v4" is none of dhcpv4`},
		"no-such-transport": {slices.Concat(named, []string{"--transports", "tls"}), 2, "", `--transports: "tls" is none`},
		"no-such-port":      {slices.Concat(named, []string{"--transports", "dot:0"}), 2, "", `"dot:0" has no port`},
		"no-such-address":   {[]string{"dnr", "print", "--name", "dns.example", "--address", "x"}, 2, "", `"x" is not`},
		"no-address":        {[]string{"dnr", "print", "--name", "dns.example"}, 1, "", "address"},
		"loopback":          {[]string{"dnr", "print", "--name", "dns.example", "--address", "::1"}, 1, "", "::1"},
		"no-configuration":  {[]string{"dnr", "print", "--config", "/nonexistent"}, 1, "", "read configuration"},
		"both":              {slices.Concat(named, []string{"--config", "testdata/cfrd.yaml"}), 1, "", "config"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := cfrd(t, test.args...)
			if code != test.code {
				t.Errorf("got exit code %d, %s; want %d", code, stderr, test.code)
			}
			if !strings.Contains(stdout, test.stdout) || test.stdout == "" && stdout != "" {
				t.Errorf("got stdout %q; want %q in it", stdout, test.stdout)
			}
			if !strings.Contains(stderr, test.stderr) || test.stderr == "" && stderr != "" {
				t.Errorf("got stderr %q; want %q in it", stderr, test.stderr)
			}
		})
	}
}

// TestDNRPrintAll wants every server in the output, and in the help.
func TestDNRPrintAll(t *testing.T) {
	_, stdout, _ := cfrd(t, "dnr", "print", "--config", "testdata/cfrd.yaml")
	_, help, _ := cfrd(t, "help", "dnr")
	for _, s := range serverconf.Servers() {
		if !strings.Contains(stdout, s.Title+"\n") {
			t.Errorf("%s is not printed", s.Title)
		}
		if s.Name != "hex" && !strings.Contains(help, "\n  "+s.Name+" ") {
			t.Errorf("%s is not in the table of `cfrd help dnr`", s.Name)
		}
	}
}
