package ddr

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

var (
	v4        = netip.MustParseAddr("192.0.2.53")
	v6        = netip.MustParseAddr("2001:db8::53")
	private4  = netip.MustParseAddr("10.0.0.53")
	mapped4   = netip.MustParseAddr("::ffff:192.0.2.53")
	linkLocal = netip.MustParseAddr("fe80::1%eth0")
	loopback  = netip.MustParseAddr("127.0.0.1")
	now       = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
)

// leaf is valid for an hour around now and carries dns.example and addrs.
func leaf(addrs ...netip.Addr) *x509.Certificate {
	c := &x509.Certificate{
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), DNSNames: []string{"dns.example"},
	}
	for _, a := range addrs {
		c.IPAddresses = append(c.IPAddresses, net.IP(a.AsSlice()))
	}
	return c
}

// on is a resolver with these services only, whose name has no addresses of its own.
func on(services ...Service) Config { return Config{Services: services} }

func service(p Protocol, addr string) Service {
	return Service{Protocol: p, Addr: netip.MustParseAddrPort(addr)}
}

// config is that of a resolver on 192.0.2.53 and 2001:db8::53 with every transport on its default port.
func config() Config {
	cfg := Config{
		Name: "DNS.example", Addresses: []netip.Addr{v4, v6},
		Certificate: func() *x509.Certificate { return leaf(v4, v6) },
		Clock:       func() time.Time { return now },
	}
	for _, ip := range []string{"192.0.2.53", "[2001:db8::53]"} {
		cfg.Services = append(cfg.Services,
			service(DoQ, ip+":853"), service(DoT, ip+":853"), service(DoH3, ip+":443"), service(DoH, ip+":443"))
	}
	return cfg
}

func zone(t testing.TB, cfg Config) *Zone {
	t.Helper()
	z, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// ask returns the sections of the answer in presentation form, without what is the same everywhere.
func ask(t testing.TB, z *Zone, name string, qtype uint16, local netip.Addr) reply {
	t.Helper()
	q := dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET}
	m, ok := z.Answer(q, netip.MustParseAddr("198.51.100.7"), local)
	if !ok {
		t.Fatalf("%s %s is not claimed", name, dns.TypeToString[qtype])
	}
	if _, err := m.Pack(); err != nil {
		t.Fatalf("pack: %v", err)
	}
	if m.Rcode != dns.RcodeSuccess || !m.Authoritative || !m.Response {
		t.Errorf("got header %+v; want NOERROR with AA and QR", m.MsgHdr)
	}
	return reply{text(m.Answer), text(m.Ns), text(m.Extra)}
}

type reply struct{ Answer, Ns, Extra []string }

func text(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		out = append(out, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	return out
}

func soa(apex string) []string {
	return []string{apex + " 300 IN SOA " + apex + " nobody.invalid. 1 3600 1200 604800 300"}
}

func TestDesignation(t *testing.T) {
	extra := []string{"dns.example. 300 IN A 192.0.2.53", "dns.example. 300 IN AAAA 2001:db8::53"}
	for _, name := range []string{"_dns.resolver.arpa.", "_DNS.Resolver.arpa.", "_dns.dns.example.", "_dns.DNS.eXample."} {
		want := reply{Answer: []string{
			name + ` 300 IN SVCB 1 dns.example. alpn="doq"`,
			name + ` 300 IN SVCB 2 dns.example. alpn="dot"`,
			name + ` 300 IN SVCB 3 dns.example. alpn="h3,h2" dohpath="/dns-query{?dns}"`,
		}, Extra: extra}
		if diff := cmp.Diff(want, ask(t, zone(t, config()), name, dns.TypeSVCB, v4)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

// rdata returns the wire form of the data of rr.
func rdata(t testing.TB, rr dns.RR) []byte {
	t.Helper()
	buf := make([]byte, dns.Len(rr)+512)
	n, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	head, err := dns.PackDomainName(rr.Header().Name, make([]byte, 255), 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return buf[head+10 : n]
}

// everybody may use the relay.
var everybody = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// TestRecordsAreClean holds what we emit against our own validator.
func TestRecordsAreClean(t *testing.T) {
	cfg := config()
	cfg.Relay = &RelayService{Port: 443, Clients: everybody}
	m, _ := zone(t, cfg).Answer(dns.Question{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB, Qclass: 1}, v4, v4)
	for i, rr := range m.Answer {
		r, err := svcb.Parse(rdata(t, rr))
		if err != nil {
			t.Fatalf("%s: %v", rr, err)
		}
		last := i == len(m.Answer)-1
		if err := r.CheckDNS(); (err == nil) == last {
			t.Errorf("%s: got %v", rr, err)
		}
		if IsRelay(r, defaultRelayKey) != last {
			t.Errorf("%s: recognised as relay: %t; want %t", rr, !last, last)
		}
	}
}

func TestWhereAndWhat(t *testing.T) {
	private := Config{
		Name: "dns.example", Addresses: []netip.Addr{private4, v4},
		Services: []Service{service(DoT, "10.0.0.53:853"), service(DoQ, "192.0.2.53:853")},
	}
	for name, row := range map[string]struct {
		cfg   Config
		sans  []netip.Addr
		local netip.Addr
		want  []string // ALPN, port; empty means NODATA
	}{
		"covered":                       {private, []netip.Addr{v4}, v4, []string{"dot", "doq"}},
		"public-address-not-covered":    {private, []netip.Addr{private4}, v4, nil},
		"no-address-covered":            {private, nil, v4, nil},
		"private-covered":               {private, []netip.Addr{private4}, private4, []string{"dot", "doq"}},
		"opportunistic-same-address":    {private, nil, private4, []string{"dot"}},
		"opportunistic-other-address":   {private, nil, netip.MustParseAddr("10.0.0.54"), nil},
		"covered-but-not-of-the-name":   {private, []netip.Addr{v6}, v6, []string{"dot", "doq"}},
		"mapped-address":                {private, []netip.Addr{v4}, mapped4, []string{"dot", "doq"}},
		"loopback-is-private":           {on(service(DoT, "127.0.0.1:8853")), nil, loopback, []string{"dot 8853"}},
		"link-local-with-zone":          {on(service(DoT, "[fe80::1%eth0]:853")), nil, linkLocal, []string{"dot"}},
		"shared-address-is-not-private": {on(service(DoT, "100.64.0.1:853")), nil, netip.MustParseAddr("100.64.0.1"), nil},
		"wildcard":                      {on(service(DoT, "[::]:853")), []netip.Addr{v4}, v4, []string{"dot"}},
		"wildcard-of-ipv4":              {on(service(DoT, "0.0.0.0:853")), []netip.Addr{v4}, v4, []string{"dot"}},
		"wildcard-of-other-family":      {on(service(DoT, "0.0.0.0:853")), []netip.Addr{v6}, v6, nil},
		"no-services":                   {Config{}, []netip.Addr{v4}, v4, nil},
		"one-record-for-two-addresses": {
			on(service(DoT, "192.0.2.53:853"), service(DoT, "0.0.0.0:853")),
			[]netip.Addr{v4},
			v4,
			[]string{"dot"},
		},
		"port-of-the-address-that-was-asked": {
			Config{
				Addresses: []netip.Addr{v4, v6},
				Services:  []Service{service(DoT, "[2001:db8::53]:8853"), service(DoT, "192.0.2.53:853")},
			}, []netip.Addr{v4}, v4, []string{"dot"},
		},
		"two-ports-on-one-address": {
			on(service(DoT, "192.0.2.53:8853"), service(DoT, "192.0.2.53:853")),
			[]netip.Addr{v4},
			v4,
			[]string{"dot 8853", "dot"},
		},
		"default-port-of-doh-is-443": {
			on(service(DoH, "192.0.2.53:853"), service(DoQ, "192.0.2.53:443")),
			[]netip.Addr{v4},
			v4,
			[]string{"h2 853", "doq 443"},
		},
		"http-versions-on-two-ports": {
			on(service(DoH, "192.0.2.53:443"), service(DoT, "192.0.2.53:853"), service(DoH3, "192.0.2.53:8443")),
			[]netip.Addr{v4},
			v4,
			[]string{"h2", "dot", "h3 8443"},
		},
		"http-versions-apart-are-joined": {
			on(service(DoH, "192.0.2.53:443"), service(DoT, "192.0.2.53:853"), service(DoH3, "192.0.2.53:443")),
			[]netip.Addr{v4},
			v4,
			[]string{"h2,h3", "dot"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			row.cfg.Name, row.cfg.Clock = "dns.example", func() time.Time { return now }
			row.cfg.Certificate = func() *x509.Certificate { return leaf(row.sans...) }
			z := zone(t, row.cfg)
			resolvers, err := z.Resolvers(row.local)
			if (err == nil) != (row.want != nil) {
				t.Errorf("got error %v; want %v", err, row.want)
			}
			if diff := cmp.Diff(row.want, shorten(resolvers)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			got := ask(t, z, "_dns.resolver.arpa.", dns.TypeSVCB, row.local)
			if len(got.Answer) != len(row.want) {
				t.Errorf("got answer %q; want %d records", got.Answer, len(row.want))
			}
			if row.want == nil && !cmp.Equal(got, reply{Ns: soa("resolver.arpa.")}) {
				t.Errorf("got %+v; want NODATA", got)
			}
		})
	}
}

func shorten(resolvers []svcb.Resolver) []string {
	var out []string
	for i, r := range resolvers {
		s := strings.Join(r.ALPN, ",")
		if r.Port != 0 {
			s += " " + strconv.Itoa(int(r.Port))
		}
		if int(r.Priority) != i+1 {
			s += " out of order"
		}
		out = append(out, s)
	}
	return out
}

// TestCertificateOfThisMoment follows one zone through renewals.
func TestCertificateOfThisMoment(t *testing.T) {
	var cert *x509.Certificate
	clock := now
	cfg := config()
	cfg.Certificate, cfg.Clock = func() *x509.Certificate { return cert }, func() time.Time { return clock }
	z := zone(t, cfg)
	advertised := func() bool { return len(ask(t, z, "_dns.resolver.arpa.", dns.TypeSVCB, v4).Answer) > 0 }
	for _, step := range []struct {
		name string
		cert *x509.Certificate
		at   time.Time
		want bool
	}{
		{"none-yet", nil, now, false},
		{"issued", leaf(v4), now, true},
		{"renewed-without-the-address", leaf(v6), now, false},
		{"renewed-with-it", leaf(v4, v6), now, true},
		{"last-second", leaf(v4), now.Add(time.Hour - time.Second), true},
		{"expired", leaf(v4), now.Add(time.Hour), false},
		{"not-yet-valid", leaf(v4), now.Add(-2 * time.Hour), false},
	} {
		cert, clock = step.cert, step.at
		if got := advertised(); got != step.want {
			t.Errorf("%s: advertised %t; want %t", step.name, got, step.want)
		}
		if _, err := z.Resolvers(v4); (err == nil) != step.want || err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got reason %v", step.name, err)
		}
	}
}

func TestTTLEndsWithTheCertificate(t *testing.T) {
	cfg := config()
	cfg.TTL, cfg.Clock = 2*time.Hour, func() time.Time { return now.Add(59 * time.Minute) }
	got := ask(t, zone(t, cfg), "_dns.resolver.arpa.", dns.TypeSVCB, v4)
	for _, rr := range append(got.Answer, got.Extra...) {
		if !strings.Contains(rr, " 60 IN ") {
			t.Errorf("got %s; want a TTL of 60", rr)
		}
	}
}

func TestByName(t *testing.T) {
	cfg := config()
	cfg.Certificate = func() *x509.Certificate {
		c := leaf(v4)
		c.DNSNames = []string{"other.example"}
		return c
	}
	z := zone(t, cfg)
	if got := ask(t, z, "_dns.dns.example.", dns.TypeSVCB, v4); len(got.Answer) > 0 {
		t.Errorf("got %q for a certificate without the name; want NODATA", got.Answer)
	}
	cfg.Certificate = func() *x509.Certificate { return leaf() }
	z = zone(t, cfg)
	if got := ask(t, z, "_dns.dns.example.", dns.TypeSVCB, v4); len(got.Answer) != 3 {
		t.Errorf("got %q for a certificate without the address; want 3 records", got.Answer)
	}
}

func TestNothingElseExists(t *testing.T) {
	z := zone(t, config())
	for _, name := range []string{
		"resolver.arpa.", "RESOLVER.arpa.", "_dns.resolver.arpa.", "x.resolver.arpa.", "_853._dns.resolver.arpa.",
		"_dns.resolver.arpa.resolver.arpa.", "a.b.c.d.e.f.resolver.arpa.",
	} {
		for _, qtype := range []uint16{
			dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeDS, dns.TypeTXT, dns.TypeRESINFO, dns.TypeANY,
		} {
			if got := ask(t, z, name, qtype, v4); !cmp.Equal(got, reply{Ns: soa("resolver.arpa.")}) {
				t.Errorf("%s %s: got %+v; want NODATA", name, dns.TypeToString[qtype], got)
			}
		}
	}
	for name, qtype := range map[string]uint16{
		"_dns.dns.example.": dns.TypeA, "_5300._dns.dns.example.": dns.TypeSVCB, "x._dns.dns.example.": dns.TypeTXT,
	} {
		if got := ask(t, z, name, qtype, v4); !cmp.Equal(got, reply{Ns: soa("_dns.dns.example.")}) {
			t.Errorf("%s: got %+v; want NODATA", name, got)
		}
	}
}

func TestApex(t *testing.T) {
	z := zone(t, config())
	for name, qtype := range map[string]uint16{"resolver.arpa.": dns.TypeSOA, "_dns.dns.example.": dns.TypeSOA} {
		if got := ask(t, z, name, qtype, v4); !cmp.Equal(got, reply{Answer: soa(name)}) {
			t.Errorf("%s SOA: got %+v", name, got)
		}
	}
	want := reply{Answer: []string{"resolver.arpa. 300 IN NS resolver.arpa."}}
	if diff := cmp.Diff(want, ask(t, z, "resolver.arpa.", dns.TypeNS, v4)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestNotOurs(t *testing.T) {
	z := zone(t, config())
	for _, q := range []dns.Question{
		{Name: "example.", Qtype: dns.TypeA, Qclass: dns.ClassINET},
		{Name: "dns.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET},
		{Name: "www.dns.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET},
		{Name: "xresolver.arpa.", Qtype: dns.TypeA, Qclass: dns.ClassINET},
		{Name: "arpa.", Qtype: dns.TypeA, Qclass: dns.ClassINET},
		{Name: ".", Qtype: dns.TypeA, Qclass: dns.ClassINET},
		{Name: "", Qtype: dns.TypeA, Qclass: dns.ClassINET},
		{Name: `x\.resolver.arpa`, Qtype: dns.TypeA, Qclass: dns.ClassCHAOS},
		{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB, Qclass: dns.ClassCHAOS},
		{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB, Qclass: dns.ClassANY},
	} {
		if m, ok := z.Answer(q, v4, v4); ok || m != nil {
			t.Errorf("%s: got %v; want it left to others", q.String(), m)
		}
	}
}

func TestOwnName(t *testing.T) {
	cfg := config()
	cfg.OwnName = true
	z := zone(t, cfg)
	for name, row := range map[string]struct {
		qtype uint16
		want  reply
	}{
		"A":    {dns.TypeA, reply{Answer: []string{"dns.example. 300 IN A 192.0.2.53"}}},
		"AAAA": {dns.TypeAAAA, reply{Answer: []string{"dns.example. 300 IN AAAA 2001:db8::53"}}},
		"TXT":  {dns.TypeTXT, reply{Ns: soa("dns.example.")}},
		"SOA":  {dns.TypeSOA, reply{Answer: soa("dns.example.")}},
	} {
		if diff := cmp.Diff(row.want, ask(t, z, "dns.example.", row.qtype, v4)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
	if got := ask(t, z, "_dns.dns.example.", dns.TypeA, v4); !cmp.Equal(got, reply{Ns: soa("dns.example.")}) {
		t.Errorf("got %+v; want NODATA with the SOA of the name", got)
	}
	cfg.Addresses = nil
	if got := ask(t, zone(t, cfg), "dns.example.", dns.TypeAAAA, v4); !cmp.Equal(got, reply{Ns: soa("dns.example.")}) {
		t.Errorf("got %+v; want NODATA", got)
	}
}

// TestAddressesOnce has every address doubled, and the one that was asked comes first.
func TestAddressesOnce(t *testing.T) {
	cfg := config()
	cfg.Addresses = []netip.Addr{v4, netip.MustParseAddr("::ffff:192.0.2.53"), v6, v4, netip.IPv4Unspecified()}
	got := ask(t, zone(t, cfg), "_dns.resolver.arpa.", dns.TypeSVCB, v6)
	want := []string{"dns.example. 300 IN AAAA 2001:db8::53", "dns.example. 300 IN A 192.0.2.53"}
	if diff := cmp.Diff(want, got.Extra); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestRelay(t *testing.T) {
	for name, row := range map[string]struct {
		relay  RelayService
		record string
		extra  []string
	}{
		"defaults": {RelayService{}, `100 dns.example. mandatory="key65280" key65280="\001\003"`, nil},
		"all-set": {
			RelayService{
				Name: "CFR.example", Key: 65400, Port: 443, Value: relayValue(RelayTCP),
				Addresses: []netip.Addr{private4, private4},
			},
			`100 cfr.example. mandatory="key65400" port="443" key65400="\001\001"`,
			[]string{"cfr.example. 300 IN A 10.0.0.53"},
		},
		"own-name-given": {
			RelayService{Name: "dns.example.", Addresses: []netip.Addr{v4}},
			`100 dns.example. mandatory="key65280" key65280="\001\003"`, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			row.relay.Clients = everybody
			cfg.Relay = &row.relay
			z := zone(t, cfg)
			got := ask(t, z, "_dns.resolver.arpa.", dns.TypeSVCB, v4)
			if want := "_dns.resolver.arpa. 300 IN SVCB " + row.record; len(got.Answer) != 4 || got.Answer[3] != want {
				t.Errorf("got %q; want the last to be %q", got.Answer, want)
			}
			if !slices.Equal(got.Extra[2:], row.extra) {
				t.Errorf("got additional %q behind that of the name; want %q", got.Extra[2:], row.extra)
			}
		})
	}
}

func TestNoRelayWithoutTransport(t *testing.T) {
	cfg := config()
	cfg.Relay, cfg.Certificate = &RelayService{Clients: everybody}, nil
	if got := ask(t, zone(t, cfg), "_dns.resolver.arpa.", dns.TypeSVCB, v4); len(got.Answer) > 0 {
		t.Errorf("got %q; want NODATA", got.Answer)
	}
}

func TestRelayValue(t *testing.T) {
	f, err := ParseRelayValue(append(relayValue(RelayUDP), "later"...))
	if err != nil || f != RelayUDP {
		t.Errorf("got %d, %v; want %d", f, err, RelayUDP)
	}
	for _, v := range []string{"", "\x01", "\x02\x01"} {
		if _, err := ParseRelayValue([]byte(v)); err == nil {
			t.Errorf("%q was accepted", v)
		}
	}
}

func TestInfo(t *testing.T) {
	cfg := config()
	cfg.Info = &Info{ExtErr: []uint16{22, 16, 3, 15, 17, 15, 65535}, URL: "https://dns.example/about"}
	z := zone(t, cfg)
	for _, name := range []string{"resolver.arpa.", "dns.example."} {
		text := ` 300 IN RESINFO "exterr=3,15-17,22,65535" "infourl=https://dns.example/about"`
		want := reply{Answer: []string{name + text}}
		if diff := cmp.Diff(want, ask(t, z, name, dns.TypeRESINFO, v4)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
	cfg.Info = &Info{}
	if got := ask(t, zone(t, cfg), "dns.example.", dns.TypeRESINFO, v4); !cmp.Equal(got, reply{Ns: soa("dns.example.")}) {
		t.Errorf("got %+v for an empty Info; want NODATA", got)
	}
}

// TestRepliesAreTheCallers changes an answer and asks again.
func TestRepliesAreTheCallers(t *testing.T) {
	cfg := config()
	cfg.Relay, cfg.Info = &RelayService{Clients: everybody}, &Info{ExtErr: []uint16{15}}
	z := zone(t, cfg)
	for name, qtype := range map[string]uint16{"_dns.resolver.arpa.": dns.TypeSVCB, "resolver.arpa.": dns.TypeRESINFO} {
		q := dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET}
		before := ask(t, z, name, qtype, v4)
		m, _ := z.Answer(q, v4, v4)
		for _, rr := range append(m.Answer, m.Extra...) {
			rr.Header().Name, rr.Header().Ttl = "changed.", 1
			switch rr := rr.(type) {
			case *dns.SVCB:
				rr.Target = "changed."
				for _, v := range rr.Value {
					switch v := v.(type) {
					case *dns.SVCBAlpn:
						v.Alpn[0] = "changed"
					case *dns.SVCBMandatory:
						v.Code[0] = 1
					case *dns.SVCBLocal:
						v.Data[0] = 9
					}
				}
			case *dns.A:
				rr.A[0] = 9
			case *dns.RESINFO:
				rr.Txt[0] = "changed"
			}
		}
		if diff := cmp.Diff(before, ask(t, z, name, qtype, v4)); diff != "" {
			t.Errorf("%s: the zone was changed: -before +after:\n%s", name, diff)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no-name":               func(c *Config) { c.Name = "" },
		"single-label":          func(c *Config) { c.Name = "dns" },
		"resolver-arpa":         func(c *Config) { c.Name = "dns.resolver.arpa" },
		"underscore":            func(c *Config) { c.Name = "_dns.example" },
		"not-ascii":             func(c *Config) { c.Name = "dñs.example" },
		"empty-label":           func(c *Config) { c.Name = "dns..example" },
		"leading-hyphen":        func(c *Config) { c.Name = "-dns.example" },
		"long-label":            func(c *Config) { c.Name = strings.Repeat("a", 64) + ".example" },
		"long-name":             func(c *Config) { c.Name = strings.Repeat("abcdefg.", 32) + "example" },
		"port-0":                func(c *Config) { c.Services[0] = service(DoT, "192.0.2.53:0") },
		"no-address":            func(c *Config) { c.Services[0].Addr = netip.AddrPort{} },
		"unknown-protocol":      func(c *Config) { c.Services[0].Protocol = 9 },
		"dohpath-without-dns":   func(c *Config) { c.Services[2].DoHPath = "/dns-query" },
		"too-many-services":     func(c *Config) { c.Services = make([]Service, 100) },
		"relay-key-not-private": func(c *Config) { c.Relay = &RelayService{Key: 5} },
		"relay-key-invalid":     func(c *Config) { c.Relay = &RelayService{Key: 65535} },
		"relay-value-empty":     func(c *Config) { c.Relay = &RelayService{Value: []byte{}} },
		"relay-target-arpa":     func(c *Config) { c.Relay = &RelayService{Name: "resolver.arpa"} },
		"infourl-http":          func(c *Config) { c.Info = &Info{URL: "http://dns.example/"} },
		"infourl-long":          func(c *Config) { c.Info = &Info{URL: "https://dns.example/" + strings.Repeat("a", 240)} },
	} {
		cfg := config()
		change(&cfg)
		if z, err := New(cfg); err == nil {
			t.Errorf("%s: accepted as %+v", name, z.cfg)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	z := zone(b, config())
	q := dns.Question{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB, Qclass: dns.ClassINET}
	b.ReportAllocs()
	for b.Loop() {
		z.Answer(q, v4, v4)
	}
}
