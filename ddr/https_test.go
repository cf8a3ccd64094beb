package ddr

import (
	"crypto/x509"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestHTTPS(t *testing.T) {
	all := []string{"dns.example. 300 IN A 192.0.2.53", "dns.example. 300 IN AAAA 2001:db8::53"}
	for name, row := range map[string]struct {
		change func(*Config)
		want   reply
		others bool // the name is left to others
	}{
		"own-name": {
			func(c *Config) { c.OwnName = true },
			reply{Answer: []string{`dns.example. 300 IN HTTPS 1 . alpn="h3,h2"`}, Extra: all},
			false,
		},
		"pvd": {
			func(c *Config) { c.OwnName, c.PvD = true, true },
			reply{Answer: []string{`dns.example. 300 IN HTTPS 1 . alpn="h3,h2" key11=""`}, Extra: all},
			false,
		},
		"name-of-a-zone-without-https": {
			func(c *Config) { c.OwnHTTPS = true },
			reply{Answer: []string{`dns.example. 300 IN HTTPS 1 . alpn="h3,h2"`}, Extra: all},
			false,
		},
		"name-of-a-zone": {func(*Config) {}, reply{}, true},
		"other-port-has-no-pvd": {
			func(c *Config) {
				c.OwnName, c.PvD = true, true
				c.Services = []Service{service(DoH, "192.0.2.53:8443"), service(DoH, "192.0.2.53:443")}
			},
			reply{Answer: []string{
				`dns.example. 300 IN HTTPS 1 . alpn="h2" port="8443"`, `dns.example. 300 IN HTTPS 2 . alpn="h2" key11=""`,
			}, Extra: all},
			false,
		},
		"no-doh-at-own-name": {
			func(c *Config) { c.OwnName, c.Services = true, []Service{service(DoT, "192.0.2.53:853")} },
			reply{Ns: soa("dns.example.")},
			false,
		},
		"no-doh-at-name-of-a-zone": {
			func(c *Config) { c.OwnHTTPS, c.Services = true, []Service{service(DoT, "192.0.2.53:853")} }, reply{}, true,
		},
		"certificate-for-another-name": {
			func(c *Config) {
				c.OwnName = true
				c.Certificate = func() *x509.Certificate {
					l := leaf(v4)
					l.DNSNames = []string{"other.example"}
					return l
				}
			}, reply{Ns: soa("dns.example.")}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			row.change(&cfg)
			z := zone(t, cfg)
			if row.others {
				if m, ok := z.Answer(dns.Question{Name: "dns.example.", Qtype: dns.TypeHTTPS, Qclass: 1}, v4, v4); ok {
					t.Errorf("got %v; want it left to others", m)
				}
				return
			}
			if diff := cmp.Diff(row.want, ask(t, z, "dns.example.", dns.TypeHTTPS, v4)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestRecords does without a certificate: what it returns goes into a file.
func TestRecords(t *testing.T) {
	cfg := config()
	cfg.Certificate, cfg.PvD = nil, true
	cfg.Relay, cfg.Info = &RelayService{Name: "cfr.example", Addresses: []netip.Addr{private4}}, &Info{ExtErr: []uint16{15}}
	got, err := zone(t, cfg).Records()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"dns.example. 300 IN A 192.0.2.53",
		"dns.example. 300 IN AAAA 2001:db8::53",
		`_dns.dns.example. 300 IN SVCB 1 dns.example. alpn="doq"`,
		`_dns.dns.example. 300 IN SVCB 2 dns.example. alpn="dot"`,
		`_dns.dns.example. 300 IN SVCB 3 dns.example. alpn="h3,h2" dohpath="/dns-query{?dns}"`,
		`_dns.dns.example. 300 IN SVCB 100 cfr.example. mandatory="key65280" key65280="\001\003"`,
		"cfr.example. 300 IN A 10.0.0.53",
		`dns.example. 300 IN HTTPS 1 . alpn="h3,h2" key11=""`,
		`dns.example. 300 IN RESINFO "exterr=15"`,
	}
	if diff := cmp.Diff(want, text(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for name, change := range map[string]func(*Config){
		"no-addresses": func(c *Config) { c.Addresses = nil },
		"no-services":  func(c *Config) { c.Services = nil },
	} {
		cfg := config()
		change(&cfg)
		if rrs, err := zone(t, cfg).Records(); err == nil {
			t.Errorf("%s: got %v; want an error", name, rrs)
		}
	}
}

func TestRelayForItsClients(t *testing.T) {
	cfg := config()
	cfg.PvD = true
	cfg.Relay = &RelayService{Clients: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
	z := zone(t, cfg)
	for client, want := range map[string]int{"10.0.0.9": 4, "::ffff:10.0.0.9": 4, "10.0.1.9": 3, "2001:db8::1": 3} {
		addr := netip.MustParseAddr(client)
		for _, name := range []string{"_dns.resolver.arpa.", "_dns.dns.example."} {
			m, _ := z.Answer(dns.Question{Name: name, Qtype: dns.TypeSVCB, Qclass: dns.ClassINET}, addr, v4)
			if len(m.Answer) != want {
				t.Errorf("%s at %s: got %d records; want %d", client, name, len(m.Answer), want)
			}
		}
		if p, _ := z.PvD(addr, v4); (p.Relay != nil) != (want == 4) {
			t.Errorf("%s: got relay %v in the provisioning domain; want one: %t", client, p.Relay, want == 4)
		}
	}
}

// TestRelayForNobody has no list of clients: who did not say who may use the relay has not said that everybody may.
func TestRelayForNobody(t *testing.T) {
	cfg := config()
	cfg.PvD, cfg.Relay = true, &RelayService{}
	z := zone(t, cfg)
	m, _ := z.Answer(dns.Question{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB, Qclass: dns.ClassINET}, private4, v4)
	if p, _ := z.PvD(private4, v4); len(m.Answer) != 3 || p.Relay != nil {
		t.Errorf("got %d records and relay %v; want 3 and none", len(m.Answer), p.Relay)
	}
}
