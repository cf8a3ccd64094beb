package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/check"
)

// TestCheckCommand checks a resolver of this program, in which nothing must be wrong.
func TestCheckCommand(t *testing.T) {
	l := newLab(t)
	l.start(t)
	resolver, ca := l.addr.String()+":8053", filepath.Join(l.dir, "cert.pem")
	code, stdout, stderr := cfrd(t, "check", resolver, "--ca", ca, "--name", "DNS.isp.example", "--json")
	if code != 0 {
		t.Fatalf("got exit code %d\n%s%s", code, stderr, stdout)
	}
	var r check.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	if !r.OK || r.Resolver != resolver || len(r.Designations) != 3 || len(r.Steps) < 20 {
		t.Errorf("got %s", stdout)
	}
	code, stdout, stderr = cfrd(t, "check", resolver, "--name", "other.example")
	if code != 1 || !strings.Contains(stdout, "fail") || !strings.Contains(stderr, "steps do not hold") {
		t.Errorf("other name: got exit code %d\n%s%s; want 1 and a table", code, stderr, stdout)
	}
}

func TestCheckCommandUsage(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "x")
	writeFile(t, notPEM, "x")
	for name, args := range map[string][]string{
		"no-address":        {},
		"two-addresses":     {"127.0.0.1", "127.0.0.2"},
		"a-name":            {"dns.example"},
		"port-0":            {"127.0.0.1:0"},
		"unspecified":       {"0.0.0.0"},
		"multicast":         {"[ff02::1]:53"},
		"unknown-flag":      {"127.0.0.1", "--insecure"},
		"bad-timeout":       {"127.0.0.1", "--timeout", "-1s"},
		"bad-name":          {"127.0.0.1", "--name", "a..b"},
		"bad-steered":       {"127.0.0.1", "--steered", strings.Repeat("a", 64)},
		"ca-missing":        {"127.0.0.1", "--ca", filepath.Join(t.TempDir(), "none")},
		"ca-not-pem":        {"127.0.0.1", "--ca", notPEM},
		"relay-port-0":      {"127.0.0.1", "--relay-port", "0"},
		"relay-port-beyond": {"127.0.0.1", "--relay-port", "65536"},
	} {
		if code, _, stderr := cfrd(t, append([]string{"check"}, args...)...); code != 2 {
			t.Errorf("%s: got exit code %d, %s; want 2", name, code, stderr)
		}
	}
}

func TestParseResolver(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.53": "192.0.2.53:53", "192.0.2.53:5300": "192.0.2.53:5300", "2001:db8::53": "[2001:db8::53]:53",
		"[2001:db8::53]": "[2001:db8::53]:53", "[2001:db8::53]:5300": "[2001:db8::53]:5300",
		"fe80::1%eth0": "[fe80::1%eth0]:53", "::ffff:192.0.2.53": "192.0.2.53:53",
	} {
		if got, err := parseResolver(in); err != nil || got.String() != want {
			t.Errorf("%s: got %s, %v; want %s", in, got, err, want)
		}
	}
}
