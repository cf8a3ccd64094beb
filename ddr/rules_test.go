package ddr

import (
	"crypto/x509"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// rule is a sentence of a standard and how it is seen that it is kept.
type rule struct {
	name string // with the RFC and the section
	kept func(t *testing.T)
}

func checkRules(t *testing.T, rules []rule) {
	t.Helper()
	for _, r := range rules {
		t.Run(r.name, r.kept)
	}
}

// discover returns the reply to a discovery query.
func discover(t *testing.T, cfg Config, client, local netip.Addr) *dns.Msg {
	t.Helper()
	m, ok := zone(t, cfg).Answer(
		dns.Question{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB, Qclass: dns.ClassINET}, client, local)
	if !ok {
		t.Fatal("_dns.resolver.arpa is not claimed")
	}
	return m
}

// covering returns config with a certificate for these addresses only.
func covering(addrs ...netip.Addr) Config {
	cfg := config()
	cfg.Certificate = func() *x509.Certificate { return leaf(addrs...) }
	return cfg
}

// TestServerRules goes through what RFC 9462 asks of a server that answers for itself. What it asks of a server that
// forwards resolver.arpa (Section 6.1) does not apply: see TestNothingElseExists.
func TestServerRules(t *testing.T) {
	discovered := func(t *testing.T) (list []*dns.SVCB) {
		cfg := config()
		cfg.Relay = &RelayService{Clients: everybody}
		for _, rr := range discover(t, cfg, v4, v4).Answer {
			list = append(list, rr.(*dns.SVCB))
		}
		return list
	}
	wantNODATA := func(t *testing.T, m *dns.Msg) {
		t.Helper()
		if m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA {
			t.Errorf("got %v; want NODATA with an SOA", m)
		}
	}
	checkRules(t, []rule{
		{"9462-4-answers-are-in-service-mode", func(t *testing.T) {
			for _, rr := range discovered(t) {
				if rr.Priority == 0 {
					t.Errorf("got %s in AliasMode", rr)
				}
			}
		}},
		{"9462-4-target-is-a-name-of-its-own", func(t *testing.T) {
			for _, rr := range discovered(t) {
				if rr.Target == "." || dns.IsSubDomain("resolver.arpa.", rr.Target) {
					t.Errorf("got target %q", rr.Target)
				}
			}
		}},
		{"9462-4-addresses-of-every-target-go-along-once", func(t *testing.T) {
			cfg := config()
			cfg.Relay = &RelayService{Name: "cfr.example", Addresses: []netip.Addr{private4, private4}, Clients: everybody}
			m := discover(t, cfg, v4, v4)
			for _, rr := range m.Answer {
				target := rr.(*dns.SVCB).Target
				if !slices.ContainsFunc(m.Extra, func(a dns.RR) bool { return a.Header().Name == target }) {
					t.Errorf("no address of %s among %v", target, m.Extra)
				}
			}
			if got := text(m.Extra); len(slices.Compact(slices.Sorted(slices.Values(got)))) != len(got) {
				t.Errorf("got an address twice: %q", got)
			}
		}},
		{"9462-4-the-family-that-was-asked-is-offered", func(t *testing.T) {
			for _, local := range []netip.Addr{v4, v6} {
				m := discover(t, config(), v4, local)
				if got := m.Extra[0].Header().Rrtype; (got == dns.TypeA) != local.Is4() {
					t.Errorf("asked at %s: got %s first", local, m.Extra[0])
				}
			}
		}},
		{"9462-4-nothing-designated-is-NODATA", func(t *testing.T) {
			cfg := config()
			cfg.Services = nil
			wantNODATA(t, discover(t, cfg, v4, v4))
		}},
		{"9462-4.2-verified-needs-the-address-that-was-asked", func(t *testing.T) {
			if got := discover(t, covering(v4), v4, v4); len(got.Answer) == 0 {
				t.Error("got nothing at the address in the certificate")
			}
			wantNODATA(t, discover(t, covering(v4), v4, v6))
		}},
		{"9462-4.2-verified-lets-clients-go-to-another-address", func(t *testing.T) {
			cfg := covering(v4, v6)
			cfg.Services = []Service{service(DoT, "[2001:db8::53]:853")}
			if got := discover(t, cfg, v4, v4); len(got.Answer) != 1 {
				t.Errorf("got %v; want the transport of the other address", got.Answer)
			}
		}},
		{"9462-4.3-opportunistic-at-the-same-private-address", func(t *testing.T) {
			for _, addr := range []string{"10.1.2.3", "172.16.0.1", "192.168.1.1", "fd00::53", "fe80::53", "169.254.1.1"} {
				local := netip.MustParseAddr(addr)
				cfg := covering()
				cfg.Addresses = []netip.Addr{local, v4}
				cfg.Services = []Service{
					{Protocol: DoT, Addr: netip.AddrPortFrom(local, 853)}, service(DoQ, "192.0.2.53:853"),
				}
				m := discover(t, cfg, v4, local)
				if len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), `alpn="dot"`) {
					t.Errorf("%s: got %v; want what listens there and nothing else", local, m.Answer)
				}
			}
		}},
		{"9462-4.3-not-opportunistic-at-a-public-address", func(t *testing.T) { wantNODATA(t, discover(t, covering(), v4, v4)) }},
		{"9462-4.3-not-opportunistic-where-nothing-listens", func(t *testing.T) {
			cfg := covering()
			cfg.Addresses = append(cfg.Addresses, private4)
			wantNODATA(t, discover(t, cfg, v4, private4))
		}},
		{"9462-5-the-set-is-under-the-name-too", func(t *testing.T) {
			z := zone(t, config())
			byName := ask(t, z, "_dns.dns.example.", dns.TypeSVCB, v4)
			byAddr := ask(t, z, "_dns.resolver.arpa.", dns.TypeSVCB, v4)
			for i := range byAddr.Answer {
				byAddr.Answer[i] = strings.Replace(byAddr.Answer[i], "_dns.resolver.arpa.", "_dns.dns.example.", 1)
			}
			if diff := cmp.Diff(byAddr, byName); diff != "" {
				t.Errorf("-address +name:\n%s", diff)
			}
		}},
		{"9462-6.4-resolver-arpa-is-locally-served", TestNothingElseExists},
		{"9462-6.4-with-the-exception-of-RESINFO", func(t *testing.T) {
			cfg := config()
			cfg.Info = &Info{ExtErr: []uint16{15}}
			if got := ask(t, zone(t, cfg), "resolver.arpa.", dns.TypeRESINFO, v4); len(got.Answer) != 1 {
				t.Errorf("got %+v; want one record", got)
			}
		}},
		{"9462-7-the-answer-does-not-depend-on-the-client", func(t *testing.T) {
			a, b := discover(t, config(), v4, v4), discover(t, config(), private4, v4)
			if !reflect.DeepEqual(a, b) {
				t.Errorf("got %v for one client and %v for another", a, b)
			}
		}},
		{"9462-3-without-AliasMode-and-loops", func(t *testing.T) {
			z := zone(t, config())
			for _, rr := range discovered(t) {
				if _, ok := z.Answer(dns.Question{Name: rr.Target, Qtype: dns.TypeSVCB, Qclass: 1}, v4, v4); ok {
					t.Errorf("target %s is claimed for SVCB", rr.Target)
				}
			}
		}},
		{"8484-10-the-name-resolves-without-encryption", func(t *testing.T) {
			cfg := config()
			cfg.OwnName = true
			if got := ask(t, zone(t, cfg), "dns.example.", dns.TypeA, v4); len(got.Answer) != 1 {
				t.Errorf("got %+v; want the address", got)
			}
		}},
		{"9461-4.1-records-need-no-unknown-key-and-dohpath-comes-with-http", func(t *testing.T) {
			for _, rr := range discovered(t)[:3] {
				r, err := svcb.Parse(rdata(t, rr))
				if err == nil {
					err = r.CheckDNS()
				}
				if err != nil {
					t.Errorf("%s: %v", rr, err)
				}
			}
		}},
		{"9461-5-an-HTTPS-record-says-the-same-as-the-DoH-record", func(t *testing.T) {
			cfg := config()
			cfg.OwnName = true
			got := ask(t, zone(t, cfg), "dns.example.", dns.TypeHTTPS, v4).Answer
			if len(got) != 1 || !strings.HasSuffix(got[0], `HTTPS 1 . alpn="h3,h2"`) {
				t.Errorf("got %q", got)
			}
		}},
		{"9606-3-RESINFO-is-authoritative-and-one-record", func(t *testing.T) {
			cfg := config()
			cfg.Info = &Info{ExtErr: []uint16{15}, URL: "https://dns.example/"}
			for _, name := range []string{"resolver.arpa.", "dns.example."} {
				// That the answer has AA is looked at by ask.
				if got := ask(t, zone(t, cfg), name, dns.TypeRESINFO, v4); len(got.Answer) != 1 {
					t.Errorf("%s: got %+v; want one record", name, got)
				}
			}
		}},
		{"our-TTL-is-short-while-certificates-change", func(t *testing.T) {
			if defaultTTL > 5*time.Minute {
				t.Errorf("got %s: clients whose validation failed stay away for it", defaultTTL)
			}
		}},
	})
}
