package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/zones"
)

// zoneHead is what a zone file has before the printed lines.
const zoneHead = "$ORIGIN isp.example.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n"

// ddrConfigFile writes a configuration of which the certificate does not exist, and returns its path.
func ddrConfigFile(t *testing.T, listen, discovery string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cfrd.yaml")
	writeFile(t, path, fmt.Sprintf("name: dns.isp.example\nclients: [10.0.0.0/8]\nupstreams: [\"udp://192.0.2.1\"]\n"+
		"tls: {certificate: none.pem, key: none.pem}\nlisten: %s\nddr: %s\n", listen, discovery))
	return path
}

func TestDDRPrint(t *testing.T) {
	everything := `{do53: ["192.0.2.53:53"], dot: ["192.0.2.53:853"], doh: ["192.0.2.53:443", "[2001:db8::53]:443"], ` +
		`doq: ["192.0.2.53:8853"]}`
	path := ddrConfigFile(t, everything, `{ttl: 10m, info_url: "https://isp.example/dns"}`)
	code, out, stderr := cfrd(t, "ddr", "print", "--config", path)
	if code != 0 {
		t.Fatalf("got exit code %d: %s", code, stderr)
	}
	var got []string
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, ";") {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
	}
	want := []string{
		"dns.isp.example. 600 IN A 192.0.2.53",
		"dns.isp.example. 600 IN AAAA 2001:db8::53",
		`_dns.dns.isp.example. 600 IN SVCB 1 dns.isp.example. alpn="h3,h2" key7="/dns-query{?dns}"`,
		`_dns.dns.isp.example. 600 IN SVCB 2 dns.isp.example. alpn="doq" port=8853`,
		`_dns.dns.isp.example. 600 IN SVCB 3 dns.isp.example. alpn="dot"`,
		`dns.isp.example. 600 IN HTTPS 1 . alpn="h3,h2" key11`,
	}
	if diff := cmp.Diff(want, got[:len(got)-1]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	info := got[len(got)-1]
	if !strings.HasPrefix(info, `dns.isp.example. 600 IN TYPE261 \# `) || !strings.HasSuffix(info, `"infourl=https://isp.example/dns"`) {
		t.Errorf("got RESINFO %q", info)
	}
}

// TestDDRPrintForms reads both forms with the library's parser, which refuses the number of a key that it has a name
// for, and loads them as zones of our own.
func TestDDRPrintForms(t *testing.T) {
	init := filepath.Join(t.TempDir(), "cfrd.yaml")
	if code, _, stderr := cfrd(t, "config", "init", "--output", init); code != 0 {
		t.Fatal(stderr)
	}
	var first []string
	for _, args := range [][]string{nil, {"--generic"}} {
		code, out, stderr := cfrd(t, append([]string{"ddr", "print", "--config", init}, args...)...)
		if code != 0 {
			t.Fatalf("%v: %s", args, stderr)
		}
		out = strings.ReplaceAll(out, "key7=", "dohpath=")
		var wire []string
		zp := dns.NewZoneParser(strings.NewReader(out), ".", "")
		for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
			generic := new(dns.RFC3597)
			if err := generic.ToRFC3597(rr); err != nil {
				t.Fatal(err)
			}
			wire = append(wire, generic.String())
		}
		if err := zp.Err(); err != nil || len(wire) != 8 {
			t.Errorf("%v: got %d records, %v from\n%s", args, len(wire), err, out)
		}
		if first == nil {
			first = wire
		}
		if diff := cmp.Diff(first, wire); diff != "" {
			t.Errorf("the forms differ: -first +generic:\n%s", diff)
		}
		file := filepath.Join(t.TempDir(), "isp.example.zone")
		writeFile(t, file, zoneHead+out)
		if _, err := zones.New(zones.Config{Files: []string{file}}); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestDDRPrintRefuses(t *testing.T) {
	for name, row := range map[string]struct{ listen, discovery, want string }{
		"nothing-encrypted": {`{do53: ["192.0.2.53:53"]}`, "{}", "nothing to publish"},
		"addresses-unknown": {`{dot: ["[::]:853"]}`, "{}", "ddr.addresses: missing"},
		"not-at-its-name":   {`{dot: ["192.0.2.53:853"]}`, "{addresses: [198.51.100.1]}", "no encrypted listener is reachable"},
		"bad-configuration": {`{dot: ["192.0.2.53"]}`, "{}", "listen.dot[0]"},
	} {
		code, out, stderr := cfrd(t, "ddr", "print", "--config", ddrConfigFile(t, row.listen, row.discovery))
		if code != 1 || out != "" || !strings.Contains(stderr, row.want) {
			t.Errorf("%s: got exit code %d, stdout %q, stderr %q; want 1 and %q", name, code, out, stderr, row.want)
		}
	}
}
