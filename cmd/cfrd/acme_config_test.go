package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// acmeOf parses a configuration with ACME, with further keys of the section.
func acmeOf(t *testing.T, do53, more string) *config {
	t.Helper()
	return parse(t, `
name: DNS.isp.example.
clients: [10.0.0.0/8]
upstreams: ["udp://192.0.2.1"]
listen: {do53: [`+do53+`], doh: ["192.0.2.54:443"]}
ddr: {addresses: [192.0.2.55]}
tls: {acme: {storage: acme, agree: true`+more+`}}
`)
}

func TestIdentity(t *testing.T) {
	tests := map[string]struct {
		do53, more string
		want       []string
	}{
		"default":      {`"192.0.2.53:53", "[2001:db8::53]:53", "10.0.0.53:53", "[fd00::53]:53", "127.0.0.1:53"`, "", []string{"192.0.2.53", "2001:db8::53"}},
		"wildcard":     {`"0.0.0.0:53"`, "", []string{"192.0.2.55"}},
		"written":      {`"192.0.2.53:53"`, ", addresses: [10.0.0.53, 10.0.0.53]", []string{"10.0.0.53"}},
		"none":         {`"192.0.2.53:53"`, ", addresses: []", nil},
		"dns-01-alone": {`"192.0.2.53:53"`, ", challenges: [dns-01]", nil},
		"dns-01-too":   {`"192.0.2.53:53"`, ", challenges: [dns-01, http-01]", []string{"192.0.2.53"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want := append([]string{"dns.isp.example"}, test.want...)
			if got := acmeOf(t, test.do53, test.more).identity().subjects(); !slices.Equal(got, want) {
				t.Errorf("got %q; want %q", got, want)
			}
		})
	}
}

func TestChallengeListeners(t *testing.T) {
	do53 := `"192.0.2.53:53", "[2001:db8::53]:53"`
	if got := acmeOf(t, do53, "").challengeListeners(); got != nil {
		t.Errorf("without http-01: got %v; want none", got)
	}
	got := acmeOf(t, do53, ", challenges: [http-01]").challengeListeners()
	if want := addrPorts("192.0.2.53:80", "[2001:db8::53]:80", "192.0.2.54:80"); !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
}

func TestListenNetwork(t *testing.T) {
	all := addrPorts("0.0.0.0:80", "[::]:80")
	tests := map[string]struct {
		addr netip.AddrPort
		all  []netip.AddrPort
		want string
	}{
		"ipv4":             {netip.MustParseAddrPort("192.0.2.53:80"), nil, "tcp4"},
		"ipv6":             {netip.MustParseAddrPort("[2001:db8::53]:80"), nil, "tcp6"},
		"all":              {all[1], all[1:], "tcp"},
		"all-of-both":      {all[1], all, "tcp6"},
		"all-of-both-ipv4": {all[0], all, "tcp4"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := listenNetwork(test.addr, test.all); got != test.want {
				t.Errorf("got %s; want %s", got, test.want)
			}
		})
	}
}

func TestACMENeedsRestart(t *testing.T) {
	do53 := `"192.0.2.53:53"`
	old := acmeOf(t, do53, "")
	for more, want := range map[string]string{
		", addresses: []":                        "",
		", profile: shortlived":                  "",
		", email: noc@isp.example":               "tls.acme.email",
		`, directory: "https://ca.example/dir"`:  "tls.acme.directory",
		", challenges: [tls-alpn-01, http-01]":   "tls.acme.challenges",
		", ca: roots.pem, profile: shortlived":   "tls.acme.ca",
		", challenges: [dns-01], email: a@b.net": "tls.acme.email",
	} {
		got := needsRestart(old, acmeOf(t, do53, more))
		if got.has(want) != (want != "") || (want == "" && len(got) > 0) {
			t.Errorf("%s: got %v; want %q", more, got, want)
		}
	}
	files := acmeOf(t, do53, "")
	files.TLS = tlsConfig{Certificate: "/etc/cfrd/cert.pem", Key: "/etc/cfrd/key.pem"}
	if got := needsRestart(old, files); !got.has("tls") {
		t.Errorf("from ACME to files: got %v; want a restart", got)
	}
}

func TestCheckWritable(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), "")
	tests := map[string]struct{ path, want string }{
		"there":        {dir, ""},
		"to-be-made":   {filepath.Join(dir, "a", "b"), ""},
		"a-file":       {filepath.Join(dir, "file"), "file is not a directory"},
		"below-a-file": {filepath.Join(dir, "file", "a"), "file is not a directory"},
		"proc":         {"/proc/self", "permission denied|no such file|not permitted|operation not supported|no such process"},
		"below-proc":   {"/proc/cfrd", "permission denied|no such file|not permitted|operation not supported"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := checkWritable(test.path)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got error %v; want none", err)
			case test.want != "" && (err == nil || !slices.ContainsFunc(strings.Split(test.want, "|"), func(s string) bool {
				return strings.Contains(err.Error(), s)
			})):
				t.Errorf("got error %v; want %q", err, test.want)
			}
		})
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("got %v, error %v; want nothing left behind", entries, err)
	}
}

// TestLoadACMEErrors has configurations that name files which are not as they should be.
func TestLoadACMEErrors(t *testing.T) {
	tests := map[string]struct{ more, file, want string }{
		"store-is-a-file": {"", "acme", "tls.acme.storage: "},
		"no-ca":           {", ca: none.pem", "", "tls.acme.ca: open "},
		"ca-is-no-pem":    {", ca: isp.zone", "", "tls.acme.ca: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.withACME(test.more)
			if test.file != "" {
				writeFile(t, filepath.Join(l.dir, test.file), "")
			}
			l.write(t)
			_, err := checkConfig(l.path(), modeAll)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want one with %q", err, test.want)
			}
		})
	}
}
