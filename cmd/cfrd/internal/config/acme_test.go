package config

import (
	"slices"
	"testing"
)

// acmeOf parses a configuration with ACME, with further keys of the section.
func acmeOf(t *testing.T, do53, more string) *Config {
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

func TestCertificateAddresses(t *testing.T) {
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
			var got []string
			for _, a := range acmeOf(t, test.do53, test.more).CertificateAddresses() {
				got = append(got, a.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q; want %q", got, test.want)
			}
		})
	}
}

func TestChallengeListeners(t *testing.T) {
	do53 := `"192.0.2.53:53", "[2001:db8::53]:53"`
	if got := acmeOf(t, do53, "").ChallengeListeners(); got != nil {
		t.Errorf("without http-01: got %v; want none", got)
	}
	got := acmeOf(t, do53, ", challenges: [http-01]").ChallengeListeners()
	if want := addrPorts("192.0.2.53:80", "[2001:db8::53]:80", "192.0.2.54:80"); !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
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
		got := NeedsRestart(old, acmeOf(t, do53, more))
		if got.has(want) != (want != "") || (want == "" && len(got) > 0) {
			t.Errorf("%s: got %v; want %q", more, got, want)
		}
	}
	files := acmeOf(t, do53, "")
	files.TLS = TLS{Certificate: "/etc/cfrd/cert.pem", Key: "/etc/cfrd/key.pem"}
	if got := NeedsRestart(old, files); !got.has("tls") {
		t.Errorf("from ACME to files: got %v; want a restart", got)
	}
}
