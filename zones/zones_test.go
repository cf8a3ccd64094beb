package zones

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

var clientAddr = netip.MustParseAddr("192.0.2.200")

func newZones(t testing.TB, cfg Config) *Zones {
	t.Helper()
	z, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// answer asks "name type" and returns what comes as text: RCODE, then the records of Answer and Authority without
// their TTLs if they are as the zone has them. It is "not ours" if z does not know the name.
func answer(t *testing.T, z *Zones, question string) []string {
	t.Helper()
	name, qtype, _ := strings.Cut(question, " ")
	m, ok := z.Answer(dns.Question{Name: name, Qtype: dns.StringToType[qtype], Qclass: dns.ClassINET}, clientAddr, clientAddr)
	if !ok {
		return []string{"not ours"}
	}
	if _, err := m.Pack(); err != nil {
		t.Errorf("%s: %v", question, err)
	}
	lines := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		h := rr.Header()
		lines = append(lines, h.Name+" "+dns.TypeToString[h.Rrtype]+" "+strings.TrimPrefix(rr.String(), h.String()))
	}
	for _, rr := range m.Ns {
		lines = append(lines, fmt.Sprintf("negative for %d s by %s", rr.Header().Ttl, rr.Header().Name))
	}
	return lines
}

func TestAnswer(t *testing.T) {
	const negative = "negative for 300 s by isp.example."
	tests := []struct {
		name, question string
		want           []string
	}{
		{"exact", "dns.isp.example. A", []string{"NOERROR", "dns.isp.example. A 192.0.2.53"}},
		{"case-of-the-question", "DNS.isp.Example. AAAA", []string{"NOERROR", "DNS.isp.Example. AAAA 2001:db8::53"}},
		{"apex", "isp.example. MX", []string{"NOERROR", "isp.example. MX 10 mail.isp.example."}},
		{"two-records", "mail.isp.example. A", []string{"NOERROR", "mail.isp.example. A 192.0.2.25", "mail.isp.example. A 192.0.2.26"}},
		{"escaped-spelling", `d\110s.isp.example. A`, []string{"NOERROR", `d\110s.isp.example. A 192.0.2.53`}},
		{"nodata", "dns.isp.example. TXT", []string{"NOERROR", negative}},
		{"nxdomain", "no.isp.example. A", []string{"NXDOMAIN", negative}},
		{"empty-non-terminal", "pool.isp.example. A", []string{"NOERROR", negative}},
		{"below-a-leaf", "x.dns.isp.example. A", []string{"NXDOMAIN", negative}},
		{"cname", "www.isp.example. A", []string{"NOERROR", "www.isp.example. CNAME web.pool.isp.example.", "web.pool.isp.example. A 192.0.2.80"}},
		{"cname-nodata", "www.isp.example. AAAA", []string{"NOERROR", "www.isp.example. CNAME web.pool.isp.example.", negative}},
		{"cname-asked", "www.isp.example. CNAME", []string{"NOERROR", "www.isp.example. CNAME web.pool.isp.example."}},
		{"cname-to-nothing", "dangling.isp.example. A", []string{"NXDOMAIN", "dangling.isp.example. CNAME nowhere.isp.example.", negative}},
		{"cname-leaves", "outside.isp.example. A", []string{"NOERROR", "outside.isp.example. CNAME www.elsewhere.example."}},
		{"cname-into-another-zone", "other.isp.example. A", []string{"NOERROR", "other.isp.example. CNAME host.corp.example.", "host.corp.example. A 192.0.2.77"}},
		{"cname-loop", "loop1.isp.example. A", []string{"SERVFAIL"}},
		{"wildcard", "x.wild.isp.example. A", []string{"NOERROR", "x.wild.isp.example. A 192.0.2.99"}},
		{"wildcard-deep", "y.x.wild.isp.example. A", []string{"NOERROR", "y.x.wild.isp.example. A 192.0.2.99"}},
		{"wildcard-nodata", "x.wild.isp.example. AAAA", []string{"NOERROR", negative}},
		{"wildcard-itself", "*.wild.isp.example. TXT", []string{"NOERROR", `*.wild.isp.example. TXT "wild"`}},
		{"wildcard-hidden-by-a-name", "exact.wild.isp.example. A", []string{"NOERROR", negative}},
		{"wildcard-hidden-below-a-name", "x.exact.wild.isp.example. A", []string{"NXDOMAIN", negative}},
		{"wildcard-hidden-by-an-empty-non-terminal", "ent.wild.isp.example. A", []string{"NOERROR", negative}},
		{"wildcard-hidden-below-an-empty-non-terminal", "x.ent.wild.isp.example. A", []string{"NXDOMAIN", negative}},
		{"wildcard-not-at-its-parent", "wild.isp.example. A", []string{"NOERROR", negative}},
		{"wildcard-cname", "x.alias.isp.example. A", []string{"NOERROR", "x.alias.isp.example. CNAME www.isp.example.", "www.isp.example. CNAME web.pool.isp.example.", "web.pool.isp.example. A 192.0.2.80"}},
		{"delegation", "sub.isp.example. A", []string{"not ours"}},
		{"below-a-delegation", "x.sub.isp.example. A", []string{"not ours"}},
		{"glue", "ns.sub.isp.example. A", []string{"not ours"}},
		{"ds-at-a-cut", "sub.isp.example. DS", []string{"NOERROR", "sub.isp.example. DS 12345 13 2 0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF"}},
		{"ds-at-an-apex", "isp.example. DS", []string{"not ours"}},
		{"any-is-one-rrset", "dns.isp.example. ANY", []string{"NOERROR", "dns.isp.example. A 192.0.2.53"}},
		{"https", "svc.isp.example. HTTPS", []string{"NOERROR", `svc.isp.example. HTTPS 1 . alpn="h2" ipv4hint="192.0.2.80"`}},
		{"include", "extra.isp.example. TXT", []string{"NOERROR", `extra.isp.example. TXT "from another file"`}},
		{"generate", "host2.isp.example. A", []string{"NOERROR", "host2.isp.example. A 192.0.2.2"}},
		{"transfer", "isp.example. AXFR", []string{"REFUSED"}},
		{"no-zone", "elsewhere.example. A", []string{"not ours"}},
		{"above-the-zone", "example. A", []string{"not ours"}},
		{"root", ". NS", []string{"not ours"}},
	}
	z := newZones(t, Config{Files: []string{"testdata/isp.example.zone", "testdata/corp.example.zone"}})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, answer(t, z, tt.question)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.question, diff)
			}
		})
	}
}

// TestAnswerIsTheCallers: the resolver sets TTLs and names in what it gets.
func TestAnswerIsTheCallers(t *testing.T) {
	z := newZones(t, Config{Files: []string{"testdata/isp.example.zone"}})
	for range 2 {
		m, _ := z.Answer(dns.Question{Name: "mail.isp.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, clientAddr, clientAddr)
		for _, rr := range m.Answer {
			if h := rr.Header(); h.Ttl != 300 || h.Name != "mail.isp.example." {
				t.Errorf("got TTL %d of %s; want 300, the lowest of the RRset", h.Ttl, h.Name)
			}
			rr.Header().Ttl, rr.(*dns.A).A[0] = 1, 1
		}
	}
}

func TestAnswerOtherClass(t *testing.T) {
	z := newZones(t, Config{Files: []string{"testdata/isp.example.zone"}})
	if _, ok := z.Answer(dns.Question{Name: "dns.isp.example.", Qtype: dns.TypeA, Qclass: dns.ClassCHAOS}, clientAddr, clientAddr); ok {
		t.Error("class CH is answered; want it left to others")
	}
}

func TestBuiltin(t *testing.T) {
	nx := func(apex string) []string { return []string{"NXDOMAIN", "negative for 10800 s by " + apex} }
	nodata := func(apex string) []string { return []string{"NOERROR", "negative for 10800 s by " + apex} }
	notOurs := []string{"not ours"}
	tests := []struct {
		name, question string
		want           []string
	}{
		{"localhost-a", "localhost. A", []string{"NOERROR", "localhost. A 127.0.0.1"}},
		{"localhost-below", "x.LocalHost. AAAA", []string{"NOERROR", "x.LocalHost. AAAA ::1"}},
		{"localhost-other-type", "localhost. MX", nodata("localhost.")},
		{"localhost-below-other-type", "x.localhost. HTTPS", nodata("localhost.")},
		{"onion", "abc.onion. A", nx("onion.")},
		{"alt", "a.b.alt. A", nx("alt.")},
		{"invalid", "x.invalid. AAAA", nx("invalid.")},
		{"test", "x.test. A", nx("test.")},
		{"test-ds", "test. DS", nodata("test.")},
		{"local", "printer.local. A", nx("local.")},
		{"home-arpa", "x.home.arpa. A", nx("home.arpa.")},
		{"home-arpa-ds-is-the-parents", "home.arpa. DS", notOurs},
		{"home-arpa-soa", "home.arpa. SOA", []string{"NOERROR", "home.arpa. SOA home.arpa. nobody.invalid. 1 3600 1200 604800 10800"}},
		{"service-registration", "_ipp._tcp.default.service.arpa. PTR", nx("service.arpa.")},
		{"service-registration-domain", "default.service.arpa. SOA", nx("service.arpa.")},
		{"service-arpa-ds-is-the-parents", "service.arpa. DS", notOurs},
		{"6tisch", "6tisch.arpa. A", nodata("6tisch.arpa.")},
		{"eap", "x.eap.arpa. A", nx("eap.arpa.")},
		{"eap-noob", "x.eap-noob.arpa. A", nx("eap-noob.arpa.")},
		{"example-is-not-special", "www.example. A", notOurs},
		{"ipv4only-is-not-special", "ipv4only.arpa. A", notOurs},
		{"resolver-arpa-is-of-discovery", "_dns.resolver.arpa. SVCB", notOurs},
		{"ipv4only-reverse-is-not-special", "170.0.0.192.in-addr.arpa. PTR", notOurs},
		{"10", "1.0.0.10.in-addr.arpa. PTR", nx("10.in-addr.arpa.")},
		{"172-15", "1.0.15.172.in-addr.arpa. PTR", notOurs},
		{"172-16", "1.0.16.172.in-addr.arpa. PTR", nx("16.172.in-addr.arpa.")},
		{"172-31", "1.0.31.172.in-addr.arpa. PTR", nx("31.172.in-addr.arpa.")},
		{"172-32", "1.0.32.172.in-addr.arpa. PTR", notOurs},
		{"cgn-63", "1.0.63.100.in-addr.arpa. PTR", notOurs},
		{"cgn-64", "1.0.64.100.in-addr.arpa. PTR", nx("64.100.in-addr.arpa.")},
		{"cgn-127", "1.0.127.100.in-addr.arpa. PTR", nx("127.100.in-addr.arpa.")},
		{"loopback", "1.0.0.127.in-addr.arpa. PTR", nx("127.in-addr.arpa.")},
		{"broadcast", "255.255.255.255.in-addr.arpa. PTR", nodata("255.255.255.255.in-addr.arpa.")},
		{"unique-local", "1.0.0.0.d.f.ip6.arpa. PTR", nx("d.f.ip6.arpa.")},
		{"unique-local-c", "1.0.0.0.c.f.ip6.arpa. PTR", notOurs},
		{"link-local", "0.b.e.f.ip6.arpa. PTR", nx("b.e.f.ip6.arpa.")},
		{"documentation", "1.8.b.d.0.1.0.0.2.ip6.arpa. PTR", nx("8.b.d.0.1.0.0.2.ip6.arpa.")},
		{"loopback-6", strings.Repeat("0.", 31) + "ip6.arpa. PTR", notOurs},
		{"loopback-6-one", "1." + strings.Repeat("0.", 31) + "ip6.arpa. PTR", nodata("1." + strings.Repeat("0.", 31) + "ip6.arpa.")},
		{"ordinary-reverse", "8.8.8.8.in-addr.arpa. PTR", notOurs},
	}
	z := newZones(t, Config{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, answer(t, z, tt.question)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.question, diff)
			}
		})
	}
}

// zoneText is a minimal zone with more records in it.
func zoneText(records ...string) string {
	return "$TTL 60\n@ SOA ns hostmaster 1 2 3 4 5\n@ NS ns\n" + strings.Join(records, "\n") + "\n"
}

// TestOperatorBeforeBuiltin: an operator's zone replaces a built-in one at or below its apex, lives inside one above,
// and keeps the names between from being denied.
func TestOperatorBeforeBuiltin(t *testing.T) {
	fsys := fstest.MapFS{
		"test.zone":                {Data: []byte(zoneText("www A 192.0.2.1"))},
		"5.1.10.in-addr.arpa.zone": {Data: []byte(zoneText("7 PTR seven.isp.example."))},
		"100.in-addr.arpa.zone":    {Data: []byte(zoneText("1.0.64 PTR cgn.isp.example."))},
		"corp.isp.example.zone":    {Data: []byte(zoneText("www A 192.0.2.2"))},
		"isp.example.zone":         {Data: []byte(zoneText("www A 192.0.2.3"))},
	}
	z := newZones(t, Config{FS: fsys, Forward: []string{"Home.arpa"}, Files: []string{
		"test.zone", "5.1.10.in-addr.arpa.zone", "100.in-addr.arpa.zone", "corp.isp.example.zone", "isp.example.zone",
	}})
	tests := []struct {
		name, question string
		want           []string
	}{
		{"replaced", "www.test. A", []string{"NOERROR", "www.test. A 192.0.2.1"}},
		{"inside", "7.5.1.10.in-addr.arpa. PTR", []string{"NOERROR", "7.5.1.10.in-addr.arpa. PTR seven.isp.example."}},
		{"around", "7.6.1.10.in-addr.arpa. PTR", []string{"NXDOMAIN", "negative for 10800 s by 10.in-addr.arpa."}},
		{"between", "1.10.in-addr.arpa. PTR", []string{"NOERROR", "negative for 10800 s by 10.in-addr.arpa."}},
		{"above-built-in", "1.0.64.100.in-addr.arpa. PTR", []string{"NOERROR", "1.0.64.100.in-addr.arpa. PTR cgn.isp.example."}},
		{"zone-in-zone", "www.corp.isp.example. A", []string{"NOERROR", "www.corp.isp.example. A 192.0.2.2"}},
		{"ds-from-the-zone-around", "corp.isp.example. DS", []string{"NOERROR", "negative for 5 s by isp.example."}},
		{"forwarded", "x.home.arpa. A", []string{"not ours"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, answer(t, z, tt.question)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.question, diff)
			}
		})
	}
}

func TestRelayReverse(t *testing.T) {
	z := newZones(t, Config{
		Relay: prefixes("10.99.0.0/16", "192.0.0.0/20", "203.0.113.64/26", "2001:db8:cf::/64", "2606:4700:8::/46"),
		FS:    fstest.MapFS{"1.0.192.in-addr.arpa.zone": {Data: []byte(zoneText("1 PTR a.isp.example."))}},
		Files: []string{"1.0.192.in-addr.arpa.zone"},
	})
	v6, _ := dns.ReverseAddr("2606:4700:b:ffff::1")
	v6outside, _ := dns.ReverseAddr("2606:4700:c::1")
	tests := []struct{ name, question, want string }{
		{"octet-boundary", "1.2.99.10.in-addr.arpa. PTR", "NXDOMAIN 99.10.in-addr.arpa."},
		{"octet-boundary-apex", "99.10.in-addr.arpa. PTR", "NOERROR 99.10.in-addr.arpa."},
		{"below-an-address", "x.1.2.99.10.in-addr.arpa. PTR", "NXDOMAIN 99.10.in-addr.arpa."},
		{"within-20", "1.15.0.192.in-addr.arpa. PTR", "NXDOMAIN 15.0.192.in-addr.arpa."},
		{"beyond-20", "1.16.0.192.in-addr.arpa. PTR", "not ours"},
		{"above-20", "0.192.in-addr.arpa. PTR", "not ours"},
		{"within-26", "127.113.0.203.in-addr.arpa. PTR", "NOERROR 127.113.0.203.in-addr.arpa."},
		{"ds-is-not-forwarded", "15.0.192.in-addr.arpa. DS", "NOERROR 15.0.192.in-addr.arpa."},
		{"leading-zero", "1.015.0.192.in-addr.arpa. PTR", "not ours"},
		{"not-a-number", "1.x.0.192.in-addr.arpa. PTR", "not ours"},
		{"too-large", "1.256.0.192.in-addr.arpa. PTR", "not ours"},
		{"operators-zone-first", "1.1.0.192.in-addr.arpa. PTR", "NOERROR answer"},
		{"within-46", v6 + " PTR", "NXDOMAIN b.0.0.0.0.0.7.4.6.0.6.2.ip6.arpa."},
		{"beyond-46", v6outside + " PTR", "not ours"},
		{"two-nibbles", "1b.0.0.0.0.0.7.4.6.0.6.2.ip6.arpa. PTR", "not ours"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(answer(t, z, tt.question), " ")
			got = strings.Replace(got, "negative for 10800 s by ", "", 1)
			if strings.Contains(got, "a.isp.example.") {
				got = "NOERROR answer"
			}
			if got != tt.want {
				t.Errorf("%s: got %s; want %s", tt.question, got, tt.want)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	tests := []struct {
		name, text, want string
	}{
		{"syntax", "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ A 192.0.2.256\n", "z/isp.example.zone:3:15: "},
		{"no-ttl", "@ SOA ns h 1 2 3 4 5\n", "z/isp.example.zone:1:"},
		{"no-soa", "$TTL 60\n@ NS ns\n", "z/isp.example.zone:2: no SOA record"},
		{"empty", "", "z/isp.example.zone:1: no SOA record"},
		{"two-soa", zoneText("@ SOA ns h 2 2 3 4 5"), "z/isp.example.zone:4: a second SOA record, at isp.example."},
		{"no-ns", "$TTL 60\n@ SOA ns h 1 2 3 4 5\nwww NS ns\n", "z/isp.example.zone:3: zone isp.example. has no NS record"},
		{"out-of-zone", zoneText("www A 192.0.2.1", "www.example. A 192.0.2.1"), "z/isp.example.zone:5: www.example. is not in zone isp.example."},
		{"cname-and-other", zoneText("www A 192.0.2.1", "www CNAME isp.example."), "z/isp.example.zone:4: www.isp.example. has a CNAME and other records"},
		{"two-cnames", zoneText("www CNAME a", "www CNAME b"), "z/isp.example.zone:4: www.isp.example. has a CNAME"},
		{"cname-at-apex", zoneText("@ CNAME a"), "z/isp.example.zone:2: isp.example. has a CNAME"},
		{"dname", zoneText("d DNAME example."), "z/isp.example.zone:4: d.isp.example. DNAME: DNAME is not supported"},
		{"signed", zoneText("@ NSEC3PARAM 1 0 0 -"), "z/isp.example.zone:4: isp.example. NSEC3PARAM: signed zones are not supported"},
		{"class", zoneText("c CH TXT x"), "z/isp.example.zone:4: c.isp.example. has class CH"},
		{"no-data", zoneText("www A"), "z/isp.example.zone:4: www.isp.example. A: no data"},
		{"bad-base64", zoneText("k DNSKEY 256 3 13 ====="), "z/isp.example.zone:4: k.isp.example. DNSKEY: "},
		{"include-above", zoneText("$INCLUDE ../secret"), "z/isp.example.zone:"},
		{"include-absolute", zoneText("$INCLUDE /secret"), "z/isp.example.zone:"},
		{"include-itself", zoneText("$INCLUDE isp.example.zone"), "z/isp.example.zone:"},
		{"include-broken", zoneText("$INCLUDE broken.inc"), "z/broken.inc:1:"},
		{"rrset-too-large", zoneText("$GENERATE 1-1001 a TXT $"), "z/isp.example.zone:4: a.isp.example. has more than 1000 records of type TXT"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fsys := fstest.MapFS{
				"z/isp.example.zone": {Data: []byte(tt.text)},
				"z/broken.inc":       {Data: []byte("x A 192.0.2.1 192.0.2.2\n")},
				"secret":             {Data: []byte("root:x:0:0\n")},
			}
			_, err := New(Config{FS: fsys, Files: []string{"z/isp.example.zone"}})
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "root:x") {
				t.Errorf("got %v; want %s…", err, tt.want)
			}
		})
	}
}

func TestNewErrors(t *testing.T) {
	fsys := fstest.MapFS{
		"a/isp.example.zone": {Data: []byte(zoneText())},
		"b/db.ISP.example":   {Data: []byte(zoneText())},
	}
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"duplicate-zone", Config{FS: fsys, Files: []string{"a/isp.example.zone", "b/db.ISP.example"}}, "b/db.ISP.example: zone isp.example. is in a/isp.example.zone already"},
		{"missing-file", Config{FS: fsys, Files: []string{"c.zone"}}, "zone file c.zone: "},
		{"missing-folder-on-disk", Config{Files: []string{"testdata/nowhere/c.zone"}}, "zone file testdata/nowhere/c.zone: "},
		{"folder", Config{FS: fsys, Files: []string{"a"}}, "a:"},
		{"forward-unknown", Config{Forward: []string{"home.arpa", "isp.example"}}, `forward[1]: "isp.example" is not a special-use`},
		{"relay-zero", Config{Relay: []netip.Prefix{{}}}, "relay[0]: not a prefix"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := New(tt.cfg); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v; want %s…", err, tt.want)
			}
		})
	}
}

// FuzzZone loads a zone and asks for each of its records, as the library alone reads them, and for one more name.
func FuzzZone(f *testing.F) {
	f.Add(zoneText("www A 192.0.2.1", "*.w CNAME www", `a\.b TXT x`), "x.w")
	f.Add(zoneText("$ORIGIN sub", "$GENERATE 0-3 a$ A 192.0.2.$"), "a1.sub") // relative origin, many from one line
	f.Add(zoneText("s NS ns.s", "ns.s A 192.0.2.1", "s DS 1 13 2 00"), "ns.s")
	f.Add(zoneText("*.* A 192.0.2.1", "*.a.* TXT x"), "x.*") // wildcards that are not the first label
	f.Add("$INCLUDE isp.example.zone\n@ SOA . . 1 2 3 4 5", "")
	f.Fuzz(func(t *testing.T, text, extra string) {
		if strings.Count(text, "$GENERATE") > 1 || len(text) > 1<<12 {
			t.Skip() // slow, and nothing new
		}
		z, err := New(Config{FS: fstest.MapFS{"isp.example.zone": {Data: []byte(text)}}, Files: []string{"isp.example.zone"}})
		if err != nil {
			return
		}
		asked := 0
		zp := dns.NewZoneParser(strings.NewReader(text), "isp.example.", "")
		for rr, ok := zp.Next(); ok && asked < 100; rr, ok = zp.Next() {
			asked++
			q := dns.Question{Name: rr.Header().Name, Qtype: rr.Header().Rrtype, Qclass: dns.ClassINET}
			m, ours := z.Answer(q, clientAddr, clientAddr)
			if !ours { // at or below a delegation, or the parent's
				continue
			}
			found := false
			for _, got := range m.Answer {
				found = found || dns.IsDuplicate(rr, got)
			}
			if !found && q.Qtype != dns.TypeANY && q.Qtype != dns.TypeAXFR && q.Qtype != dns.TypeIXFR {
				t.Errorf("%s is in the zone, but not in the answer %v", rr, m)
			}
		}
		if name := dns.Fqdn(extra + ".isp.example"); isName(name) {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeDS, dns.TypeANY} {
				m, ours := z.Answer(dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET}, clientAddr, clientAddr)
				if ours && m.Rcode == dns.RcodeNameError && len(m.Ns) != 1 {
					t.Errorf("NXDOMAIN for %s without an SOA: %v", name, m)
				}
			}
		}
	})
}

func isName(s string) bool {
	_, ok := dns.IsDomainName(s)
	return ok
}

func BenchmarkAnswer(b *testing.B) {
	text := zoneText("$GENERATE 0-65535 host$ A 192.0.2.1")
	z := newZones(b, Config{FS: fstest.MapFS{"isp.example.zone": {Data: []byte(text)}}, Files: []string{"isp.example.zone"}})
	q := dns.Question{Name: "Host40000.isp.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
	b.ReportAllocs()
	for b.Loop() {
		z.Answer(q, clientAddr, clientAddr)
	}
}
