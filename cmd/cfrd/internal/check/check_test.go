package check

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/e2e/netns"
	"github.com/cfrd-project/cfrd/resolver"
)

// failures returns the names of the steps that do not hold, in order, each once.
func failures(r *Report) []string {
	var names []string
	for _, s := range r.Steps {
		if s.Status == Fail && (len(names) == 0 || names[len(names)-1] != s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}

func table(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCheckFindsNothing(t *testing.T) {
	f := newFake(t)
	f.relay = &ddr.RelayService{Port: 443, Clients: loopbackPrefixes()}
	f.start(t)
	o := f.options()
	o.Name = fakeName + "."
	r := Resolver(t.Context(), o)
	if !r.OK || r.Err() != nil {
		t.Fatalf("got failures:\n%s", table(t, r))
	}
	want := []string{
		"do53-udp", "do53-tcp", "ddr", "svcb", "svcb", "svcb", "svcb", "relay-record", "resolver-arpa", "ddr-by-name",
		"dot", "dot-certificate", "dot-sni", "doh", "doh-certificate", "doh-post", "doh-sni",
		"doh3", "doh3-certificate", "doh3-post", "doh3-sni", "doq", "doq-certificate", "doq-sni",
		"resinfo", "resinfo", "https-record", "https-record", "steered",
	}
	var got []string
	for _, s := range r.Steps {
		got = append(got, s.Name)
		if wantStatus := map[bool]Status{true: Skip, false: OK}[s.Name == "steered"]; s.Status != wantStatus {
			t.Errorf("%s: got %s; want %s", s.Name, s.Status, wantStatus)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps: -want +got:\n%s", diff)
	}
	if n := len(r.Designations); n != 5 || !r.Designations[4].Relay {
		t.Errorf("got %d designations, of which the last should be the relay: %+v", n, r.Designations)
	}
}

// TestCheckFinds has one row per thing that is wrong, with the steps that must say so.
func TestCheckFinds(t *testing.T) {
	hour := time.Now().Add(time.Hour)
	elsewhere := netip.MustParseAddr("127.0.0.2")
	discovery := func(f *fakeResolver, change func(*dns.Msg)) {
		f.override = func(q dns.Question) *dns.Msg {
			if q.Name != discoveryName || q.Qtype != dns.TypeSVCB {
				return nil
			}
			m, _ := f.zone.Answer(q, f.addr, f.addr)
			change(m)
			return m
		}
	}
	rawSVCB := func(m *dns.Msg, hex string) {
		hdr := dns.RR_Header{Name: discoveryName, Rrtype: dns.TypeSVCB, Class: dns.ClassINET, Ttl: 300}
		m.Answer = append(m.Answer, &dns.RFC3597{Hdr: hdr, Rdata: hex})
	}
	for name, row := range map[string]struct {
		breakIt func(f *fakeResolver)
		options func(o *Options)
		want    []string
	}{
		"no-address-in-certificate-elsewhere": {
			func(f *fakeResolver) {
				f.addr = elsewhere
				c := f.ca.issue(t, hour, fakeName)
				f.cert = func(string) *tls.Certificate { return c }
			}, nil, []string{"dot-certificate", "doh-certificate", "doh3-certificate", "doq-certificate"},
		},
		"no-address-in-certificate-same-private-address": {
			func(f *fakeResolver) {
				c := f.ca.issue(t, hour, fakeName)
				f.cert = func(string) *tls.Certificate { return c }
			}, nil, nil,
		},
		"no-address-in-certificate-for-its-name": {
			func(f *fakeResolver) {
				f.addr = elsewhere
				byAddr, byName := f.ca.issue(t, hour, "127.0.0.1"), f.ca.issue(t, hour, fakeName)
				f.cert = func(sni string) *tls.Certificate {
					if sni == "" {
						return byAddr
					}
					return byName
				}
			}, nil, []string{"dot-sni-certificate", "doh-sni-certificate", "doh3-sni-certificate", "doq-sni-certificate"},
		},
		"expired-certificate": {
			func(f *fakeResolver) {
				f.addr = elsewhere
				c := f.ca.issue(t, time.Now().Add(-time.Hour), fakeName, "127.0.0.1")
				f.cert = func(string) *tls.Certificate { return c }
			}, nil, []string{"dot-certificate", "doh-certificate", "doh3-certificate", "doq-certificate"},
		},
		"name-missing-in-certificate": {
			func(f *fakeResolver) {
				c := f.ca.issue(t, hour, "127.0.0.1")
				f.cert = func(string) *tls.Certificate { return c }
			}, func(o *Options) { o.Name = fakeName + "." },
			[]string{"dot-certificate", "doh-certificate", "doh3-certificate", "doq-certificate"},
		},
		"unknown-authority": {
			func(f *fakeResolver) { f.addr = elsewhere }, func(o *Options) { o.Roots = newTestCA(t).pool },
			[]string{"dot-certificate", "doh-certificate", "doh3-certificate", "doq-certificate"},
		},
		"other-name-than-expected": {
			nil, func(o *Options) { o.Name = "other.example." },
			[]string{"svcb", "ddr-by-name", "dot-certificate", "doh-certificate", "doh3-certificate", "doq-certificate"},
		},
		"wrong-alpn-of-doh": {func(f *fakeResolver) { f.dohALPN = "http/1.1" }, nil, []string{"doh"}},
		"wrong-alpn-of-dot": {func(f *fakeResolver) { f.dotALPN = "imap" }, nil, []string{"dot"}},
		"doh-missing": {
			func(f *fakeResolver) {
				discovery(f, func(m *dns.Msg) { m.Answer[1].(*dns.SVCB).Value[1].(*dns.SVCBPort).Port = netns.Port(t) })
			}, nil, []string{"doh"},
		},
		"dohpath-wrong": {
			func(f *fakeResolver) {
				discovery(f, func(m *dns.Msg) { m.Answer[1].(*dns.SVCB).Value[2].(*dns.SVCBDoHPath).Template = "/q{?dns}" })
			}, nil, []string{"doh", "doh-post", "doh-sni"},
		},
		"dohpath-missing": {
			func(f *fakeResolver) {
				discovery(f, func(m *dns.Msg) { v := m.Answer[1].(*dns.SVCB); v.Value = v.Value[:2] })
			}, nil, []string{"svcb"},
		},
		"malformed-svcb": {
			func(f *fakeResolver) { discovery(f, func(m *dns.Msg) { rawSVCB(m, "00010000010000") }) }, nil, []string{"svcb"},
		},
		"svcb-keys-unsorted": {
			func(f *fakeResolver) {
				discovery(f, func(m *dns.Msg) { rawSVCB(m, "000103646e73000003000203550001000403646f74") })
			}, nil, []string{"svcb"},
		},
		"address-twice": {
			func(f *fakeResolver) {
				discovery(f, func(m *dns.Msg) { m.Extra = append(m.Extra, dns.Copy(m.Extra[0])) })
			}, nil, []string{"svcb-addresses"},
		},
		"no-additional-section": {
			func(f *fakeResolver) { discovery(f, func(m *dns.Msg) { m.Extra = nil }) }, nil, nil,
		},
		"only-a-relay": {
			func(f *fakeResolver) {
				f.relay = &ddr.RelayService{Clients: loopbackPrefixes()}
				discovery(f, func(m *dns.Msg) { m.Answer = m.Answer[4:] })
			}, nil, []string{"ddr"},
		},
		"nothing-designated": {
			func(f *fakeResolver) { discovery(f, func(m *dns.Msg) { m.Answer = nil }) }, nil, []string{"ddr"},
		},
		"nxdomain-at-discovery-name": {
			func(f *fakeResolver) { f.override = rcode(discoveryName, dns.RcodeNameError) }, nil, []string{"ddr"},
		},
		"nxdomain-at-resolver-arpa": {
			func(f *fakeResolver) { f.override = rcode("resolver.arpa.", dns.RcodeNameError) }, nil, []string{"resolver-arpa"},
		},
		"data-at-resolver-arpa": {
			func(f *fakeResolver) { f.override = answers(t, "resolver.arpa. 60 TXT x") }, nil, []string{"resolver-arpa"},
		},
		"not-a-client": {
			func(f *fakeResolver) { f.override = rcode(discoveryName, dns.RcodeRefused) }, nil, []string{"do53-udp", "do53-tcp"},
		},
		"another-answer-on-encrypted-transports": {
			func(f *fakeResolver) { f.overrideEncrypted = answers(t, fakeName+". 60 A 192.0.2.1") },
			nil,
			[]string{
				"dot", "dot-sni", "doh", "doh-post", "doh-sni", "doh3", "doh3-post", "doh3-sni", "doq", "doq-sni",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			if row.breakIt != nil {
				row.breakIt(f)
			}
			f.start(t)
			o := f.options()
			if row.options != nil {
				row.options(&o)
			}
			r := Resolver(t.Context(), o)
			if diff := cmp.Diff(row.want, failures(r)); diff != "" {
				t.Errorf("-want +got:\n%s\n%s", diff, table(t, r))
			}
			if (r.Err() == nil) != (row.want == nil) || row.want != nil && r.FirstFailure != row.want[0] {
				t.Errorf("got %v, first failure %q; want %v", r.Err(), r.FirstFailure, row.want)
			}
		})
	}
}

func TestCheckSteered(t *testing.T) {
	for name, row := range map[string]struct {
		zone []string
		want []string
	}{
		"agrees": {[]string{
			"s.example. 60 A 127.0.0.1", `s.example. 60 HTTPS 1 . alpn=h2 ipv4hint=127.0.0.1 ech="AAAA"`,
		}, nil},
		"without-https": {[]string{"s.example. 60 A 127.0.0.1"}, nil},
		"hint-leaks": {[]string{
			"s.example. 60 A 127.0.0.1", "s.example. 60 HTTPS 1 . alpn=h2 ipv4hint=127.0.0.1,192.0.2.80",
		}, []string{"steered-hints"}},
		"ipv6-hint-leaks": {[]string{
			"s.example. 60 A 127.0.0.1", "s.example. 60 HTTPS 1 . alpn=h2 ipv6hint=2001:db8::80",
		}, []string{"steered-hints"}},
		"hint-of-another-target": {[]string{
			"s.example. 60 A 127.0.0.1", "s.example. 60 HTTPS 1 t.example. alpn=h2 ipv4hint=192.0.2.80",
			"t.example. 60 A 192.0.2.80",
		}, nil},
		"https-malformed": {[]string{
			"s.example. 60 A 127.0.0.1", `s.example. 60 TYPE65 \# 7 00010000010000`,
		}, []string{"steered-hints"}},
		"ttl-above-cap":   {[]string{"s.example. 61 A 127.0.0.1"}, []string{"steered-addresses"}},
		"no-address":      {[]string{"s.example. 60 TXT x"}, []string{"steered-addresses"}},
		"name-not-there":  {nil, []string{"steered-addresses"}},
		"nobody-at-relay": {[]string{"s.example. 60 A 127.0.0.3"}, []string{"relay-tcp"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.onePort = true
			f.override = answers(t, row.zone...)
			f.start(t)
			o := f.options()
			o.Steered = "s.example."
			o.RelayPort = f.services[1].Addr.Port() // stands for the origin behind the relay
			o.Timeout = 2 * time.Second
			r := Resolver(t.Context(), o)
			if diff := cmp.Diff(row.want, failures(r)); diff != "" {
				t.Errorf("-want +got:\n%s\n%s", diff, table(t, r))
			}
		})
	}
}

// TestRelayAnswers has what may be behind a relay address.
func TestRelayAnswers(t *testing.T) {
	f := newFake(t)
	f.start(t)
	for name, row := range map[string]struct {
		serve func(net.Conn)
		want  Status
	}{
		"alert":   {func(c net.Conn) { c.Write([]byte{21, 3, 3, 0, 2, 2, 40}) }, OK},
		"not-tls": {func(c net.Conn) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, Fail},
		"closes":  {func(net.Conn) {}, Fail},
		"resets":  {func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }, Fail},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				conn.Read(make([]byte, 4096)) // the ClientHello
				row.serve(conn)
			}()
			c := checker{f.options(), &Report{OK: true}}
			c.Steered = "s.example."
			c.relayTCP(t.Context(), netip.MustParseAddrPort(ln.Addr().String()))
			ln.Close()
			<-done
			if got := c.Steps[0]; got.Status != row.want {
				t.Errorf("got %s: %s; want %s", got.Status, got.Detail, row.want)
			}
		})
	}
}

func TestRelayQUIC(t *testing.T) {
	f := newFake(t)
	f.start(t)
	for name, row := range map[string]struct {
		service int
		want    string
	}{
		"answers":            {2, "in QUIC"},
		"answers-other-alpn": {3, "with an error"},
	} {
		c := checker{f.options(), &Report{OK: true}}
		c.Steered = fakeName + "."
		c.relayQUIC(t.Context(), f.services[row.service].Addr)
		if got := c.Steps[0]; got.Status != OK || !strings.Contains(got.Detail, row.want) {
			t.Errorf("%s: got %s: %s; want %q", name, got.Status, got.Detail, row.want)
		}
	}
}

// TestClientVerifies asks over every encrypted transport with the wrong expectation.
func TestClientVerifies(t *testing.T) {
	f := newFake(t)
	f.start(t)
	for i, tr := range []resolver.Transport{resolver.DoT, resolver.DoH, resolver.DoH3, resolver.DoQ} {
		for name, row := range map[string]struct {
			verify VerifyFunc
			ok     bool
		}{
			"right-names":   {VerifyNames(f.ca.pool, fakeName, "127.0.0.1"), true},
			"wrong-name":    {VerifyNames(f.ca.pool, "other.example"), false},
			"wrong-address": {VerifyNames(f.ca.pool, "127.0.0.2"), false},
			"wrong-roots":   {VerifyNames(newTestCA(t).pool, fakeName), false},
			"nobody":        {nil, false},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			c := Client{Addr: f.services[i].Addr, Verify: row.verify}
			_, err := c.Exchange(ctx, tr, Question(fakeName+".", dns.TypeA))
			if (err == nil) != row.ok {
				t.Errorf("%s, %s: got %v; want success %t", tr, name, err, row.ok)
			}
			cancel()
		}
	}
}
