package e2e

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// client is one way to ask, with a program that we did not write.
type client struct {
	name    string
	program string
	args    []string
}

// clients returns every transport of the resolver at addr.
func clients(addr string, ca *authority) []client {
	at := "@" + addr
	return []client{
		{"dig-udp", "dig", []string{at}},
		{"dig-tcp", "dig", []string{at, "+tcp"}},
		{"dig-tls", "dig", []string{at, "+tls", "+tls-ca=" + ca.file, "+tls-hostname=" + adn}},
		{"dig-https", "dig", []string{at, "+https", "+tls-ca=" + ca.file, "+tls-hostname=" + adn}},
		{"dig-https-get", "dig", []string{at, "+https-get", "+tls-ca=" + ca.file, "+tls-hostname=" + adn}},
		{"kdig-udp", "kdig", []string{at}},
		{"kdig-tls", "kdig", []string{at, "+tls-ca=" + ca.file, "+tls-hostname=" + adn, "+tls"}},
		{"kdig-https", "kdig", []string{at, "+tls-ca=" + ca.file, "+tls-hostname=" + adn, "+https"}},
		{"kdig-quic", "kdig", []string{at, "+tls-ca=" + ca.file, "+tls-hostname=" + adn, "+quic"}},
	}
}

// ask runs c on the customer's host and returns its output.
func (c client) ask(l *lab, question ...string) string {
	l.t.Helper()
	return l.customer.must(c.program, append(slices.Clone(c.args), question...)...)
}

// answers returns the data of the records of one type in the ANSWER section of dig's or kdig's output.
func answers(out, rrtype string) []string {
	var data []string
	section := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, ";;") {
			section = line
			continue
		}
		f := strings.Fields(line)
		if strings.Contains(section, "ANSWER SECTION") && len(f) > 4 && f[3] == rrtype {
			data = append(data, strings.Join(f[4:], " "))
		}
	}
	slices.Sort(data)
	return data
}

func mustBeIn(t *testing.T, prefix string, addrs []string) {
	t.Helper()
	if len(addrs) == 0 {
		t.Errorf("got no address; want one in %s", prefix)
	}
	for _, a := range addrs {
		if !netip.MustParsePrefix(prefix).Contains(netip.MustParseAddr(a)) {
			t.Errorf("got %s; want an address in %s", a, prefix)
		}
	}
}

// TestTransports asks the same questions over every transport with dig and kdig, at the IPv4 and at the IPv6 address.
func TestTransports(t *testing.T) {
	need(t, "dig", "kdig", "curl")
	l := newLab(t)
	d, ca := l.serveAll(settings{})

	var want []string
	for _, addr := range []string{resolver4, resolver6} {
		for _, c := range clients(addr, ca) {
			t.Run(c.name+"-"+addr, func(t *testing.T) {
				out := c.ask(l, "direct.example", "A")
				if got := answers(out, "A"); !slices.Equal(got, []string{origin4}) {
					t.Errorf("got direct.example A %v; want %s\n%s", got, origin4, out)
				}
				steered := answers(c.ask(l, "www.cdn.example", "A"), "A")
				mustBeIn(t, relayPool4, steered)
				if want == nil {
					want = steered
				}
				if !slices.Equal(steered, want) {
					t.Errorf("got www.cdn.example A %v; want %v, as over the other transports", steered, want)
				}
				if got := answers(c.ask(l, "www.isp.example", "A"), "A"); !slices.Equal(got, []string{resolver4}) {
					t.Errorf("got www.isp.example A %v; want the operator's own zone: %s", got, resolver4)
				}
			})
		}
	}
	t.Run("curl-doh-url", func(t *testing.T) {
		got := l.customer.must("curl", "-sf", "--cacert", ca.file, "--doh-url", "https://"+adn+"/dns-query",
			"--resolve", adn+":443:"+resolver4, "https://www.cdn.example/")
		if got != page {
			t.Errorf("got page %q; want %q", got, page)
		}
		wantEgress(t, l.originClients("www.cdn.example"))
	})
	t.Run("stranger-is-refused", func(t *testing.T) {
		for _, c := range clients(resolver4, ca) {
			args := append(slices.Clone(c.args), "-b", stranger4, "direct.example", "A")
			if out, _ := l.customer.try(c.program, args...); !strings.Contains(out, "REFUSED") {
				t.Errorf("%s: got for an address that is not a client:\n%s\nwant REFUSED", c.name, out)
			}
		}
	})
	t.Run("nothing-joins-client-and-name", func(t *testing.T) {
		for line := range strings.Lines(d.output.String()) {
			if strings.Contains(line, customer4) || strings.Contains(line, customer6) || strings.Contains(line, "cdn.example") {
				t.Errorf("cfrd wrote a customer or a name: %s", line)
			}
		}
		metrics := l.provider.must("curl", "-sf", "http://127.0.0.1:9153/metrics")
		for _, s := range []string{customer4, customer6, "direct", "cdn", origin4} {
			if strings.Contains(metrics, s) {
				t.Errorf("the metrics contain %q", s)
			}
		}
	})
}

// TestSteering looks at A, AAAA and HTTPS of steered, excepted and unsteered names.
func TestSteering(t *testing.T) {
	need(t, "dig")
	l := newLab(t)
	l.serveAll(settings{})
	ask := func(args ...string) string {
		t.Helper()
		return l.customer.must("dig", append([]string{"@" + resolver4}, args...)...)
	}
	v4 := answers(ask("www.cdn.example", "A"), "A")
	v6 := answers(ask("www.cdn.example", "AAAA"), "AAAA")
	mustBeIn(t, relayPool4, v4)
	mustBeIn(t, relayPool6, v6)
	if t.Failed() {
		t.FailNow()
	}
	rows := []struct {
		name, qname, qtype string
		want               []string
	}{
		{
			"https-hints-agree", "www.cdn.example", "HTTPS",
			[]string{`1 . alpn="h2,http/1.1" ipv4hint=` + v4[0] + " ipv6hint=" + v6[0]},
		},
		{
			"attrleaf-owner", "_4443._https.www.cdn.example", "HTTPS",
			[]string{`1 www.cdn.example. alpn="h2" port=4443 ipv4hint=` + v4[0] + " ipv6hint=" + v6[0]},
		},
		{"same-destination-same-address", "v4only.cdn.example", "A", v4},
		{"cname-into-steered", "shop.example", "A", v4},
		{"exception-by-first-rule", "www.bank.example", "A", []string{origin4}},
		{"unsteered", "direct.example", "A", []string{origin4}},
		{"unsteered-aaaa", "direct.example", "AAAA", []string{origin6}},
		{"private-destination", "private.cdn.example", "A", []string{"10.1.2.3"}},
		{"name-with-ech", "ech.example", "A", v4},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			out := ask(r.qname, r.qtype)
			if got := answers(out, r.qtype); !slices.Equal(got, r.want) {
				t.Errorf("got %q; want %q\n%s", got, r.want, out)
			}
		})
	}
	t.Run("by-prefix", func(t *testing.T) {
		mustBeIn(t, relayPool4, answers(ask("prefixed.example", "A"), "A"))
	})
	t.Run("sealed-for-ipv4-only-name", func(t *testing.T) {
		mustBeIn(t, relaySeal6, answers(ask("v4only.cdn.example", "AAAA"), "AAAA"))
	})
	t.Run("cname-is-kept", func(t *testing.T) {
		if got := answers(ask("shop.example", "A"), "CNAME"); !slices.Equal(got, []string{"www.cdn.example."}) {
			t.Errorf("got CNAME %v; want www.cdn.example.", got)
		}
	})
	t.Run("ech-is-kept", func(t *testing.T) {
		upstream := l.internet.must("dig", "@"+unbound4, "ech.example", "HTTPS")
		ech := regexp.MustCompile(`ech=\S+`).FindString(upstream)
		got := ask("ech.example", "HTTPS")
		if ech == "" || !strings.Contains(got, ech) {
			t.Errorf("got:\n%s\nwant the upstream's %q", got, ech)
		}
		if strings.Contains(got, "ipv4hint="+origin4) {
			t.Errorf("a hint leaks the destination:\n%s", got)
		}
	})
	t.Run("ttl-is-capped", func(t *testing.T) {
		for line := range strings.Lines(ask("+noall", "+answer", "www.cdn.example", "A")) {
			var ttl int
			if _, err := fmt.Sscan(strings.Fields(line)[1], &ttl); err != nil || ttl > 60 {
				t.Errorf("got TTL %d, %v; want at most 60", ttl, err)
			}
		}
	})
	t.Run("ptr-of-a-relay-address-is-ours", func(t *testing.T) {
		out := ask("-x", v4[0])
		if !strings.Contains(out, "NXDOMAIN") && !strings.Contains(out, "NOERROR") {
			t.Errorf("got:\n%s\nwant a local answer", out)
		}
	})
}

// TestDNSSEC holds steering to RFC 6147, Section 5.5, behind a validating upstream, over Do53 and over DoT.
func TestDNSSEC(t *testing.T) {
	need(t, "dig")
	for _, up := range []string{"udp://" + unbound4, "tls://" + unbound4 + "#unbound.isp.example"} {
		t.Run(up[:3], func(t *testing.T) {
			l := newLab(t)
			l.serveAll(settings{upstreams: fmt.Sprintf("[%q]", up)})
			ask := func(args ...string) string {
				t.Helper()
				return l.customer.must("dig", append([]string{"@" + resolver4}, args...)...)
			}
			flags := func(out string) string { return regexp.MustCompile(`flags:[^;]*;`).FindString(out) }

			out := ask("+dnssec", "direct.example", "A")
			if !strings.Contains(flags(out), " ad") || !strings.Contains(out, "RRSIG") {
				t.Errorf("unsteered with DO: got\n%s\nwant AD and RRSIG", out)
			}
			out = ask("+dnssec", "www.cdn.example", "A")
			if strings.Contains(flags(out), " ad") || strings.Contains(out, "RRSIG") {
				t.Errorf("steered with DO: got\n%s\nwant neither AD nor RRSIG", out)
			}
			mustBeIn(t, relayPool4, answers(out, "A"))
			out = ask("+dnssec", "+cdflag", "www.cdn.example", "A")
			if got := answers(out, "A"); !slices.Equal(got, []string{origin4}) || !strings.Contains(out, "RRSIG") {
				t.Errorf("with DO and CD: got\n%s\nwant the data as it is", out)
			}
			if out = ask("bogus.example", "A"); !strings.Contains(out, "SERVFAIL") {
				t.Errorf("bogus: got\n%s\nwant SERVFAIL", out)
			}
		})
	}
}

// TestRFC8906 asks what RFC 8906, Section 8, asks of a server.
func TestRFC8906(t *testing.T) {
	need(t, "dig")
	l := newLab(t)
	l.serveAll(settings{})
	rows := []struct {
		name string
		args []string
		want []string
		not  string
	}{
		{"plain-dns", []string{"+noedns", "+noad", "direct.example", "A"}, []string{"NOERROR", origin4}, "OPT PSEUDOSECTION"},
		{"unknown-type", []string{"+noedns", "+noad", "direct.example", "TYPE1000"}, []string{"NOERROR"}, "NOTIMP"},
		{"unknown-opcode", []string{"+noedns", "+noad", "+opcode=15", "+header-only"}, []string{"NOTIMP"}, "NOERROR"},
		{"tcp", []string{"+noedns", "+noad", "+tcp", "direct.example", "A"}, []string{"NOERROR", origin4}, ""},
		{"edns", []string{"+edns=0", "+nocookie", "direct.example", "A"}, []string{"NOERROR", "EDNS: version: 0"}, ""},
		{"edns-version", []string{"+edns=100", "+noednsneg", "+nocookie", "direct.example", "A"}, []string{"BADVERS", "EDNS: version: 0"}, origin4},
		{"edns-option", []string{"+edns=0", "+ednsopt=100", "+nocookie", "direct.example", "A"}, []string{"NOERROR"}, "OPT=100"},
		{"edns-flags", []string{"+edns=0", "+ednsflags=0x40", "+nocookie", "direct.example", "A"}, []string{"NOERROR", "EDNS: version: 0"}, "MBZ"},
		{"edns-version-and-option", []string{"+edns=100", "+noednsneg", "+ednsopt=100", "+nocookie", "direct.example", "A"}, []string{"BADVERS"}, "OPT=100"},
		{"chaos-class", []string{"-c", "CH", "version.bind", "TXT"}, []string{"REFUSED"}, ""},
		{"zone-transfer", []string{"+tcp", "isp.example", "AXFR"}, []string{"Transfer failed"}, "SOA"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			out, _ := l.customer.try("dig", append([]string{"+tries=1", "+time=3", "@" + resolver4}, r.args...)...)
			body := out[strings.Index(out, "\n")+1:]
			for _, w := range r.want {
				if !strings.Contains(out, w) {
					t.Errorf("got\n%s\nwant %q in it", out, w)
				}
			}
			if r.not != "" && strings.Contains(strings.ReplaceAll(body, ";; global options", ""), r.not) {
				t.Errorf("got\n%s\nwant no %q in it", out, r.not)
			}
		})
	}
}

// TestDiscovery looks at resolver.arpa as a DDR client does. See RFC 9462, Section 4.
func TestDiscovery(t *testing.T) {
	need(t, "dig")
	l := newLab(t)
	d, ca := l.serveAll(settings{})
	svcb := func(at string) []string {
		t.Helper()
		return answers(l.customer.must("dig", "@"+at, "_dns.resolver.arpa", "SVCB"), "SVCB")
	}
	all := svcb(resolver4)
	t.Run("one-record-per-transport", func(t *testing.T) {
		text := strings.Join(all, "\n")
		for _, want := range []string{`alpn="dot"`, `alpn="doq"`, `alpn="h3,h2"`, `key7="/dns-query{?dns}"`, adn + "."} {
			if !strings.Contains(text, want) {
				t.Errorf("got\n%s\nwant %s in it", text, want)
			}
		}
		if n := strings.Count(text, "mandatory=key65280"); n != 1 {
			t.Errorf("got %d records of the relay; want 1:\n%s", n, text)
		}
	})
	t.Run("addresses-in-additional", func(t *testing.T) {
		out := l.customer.must("dig", "@"+resolver6, "_dns.resolver.arpa", "SVCB")
		for _, a := range []string{resolver4, resolver6} {
			if n := len(regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(adn)+`\.\s.*\s`+regexp.QuoteMeta(a)+`$`).FindAllString(out, -1)); n != 1 {
				t.Errorf("got %s %d times in\n%s\nwant once", a, n, out)
			}
		}
	})
	t.Run("by-name", func(t *testing.T) {
		if got := answers(l.customer.must("dig", "@"+resolver4, "_dns."+adn, "SVCB"), "SVCB"); !slices.Equal(got, all) {
			t.Errorf("got %q; want the set of resolver.arpa, %q", got, all)
		}
	})
	t.Run("all-else-is-nodata", func(t *testing.T) {
		for _, q := range [][]string{{"_dns.resolver.arpa", "A"}, {"resolver.arpa", "AAAA"}, {"x.resolver.arpa", "TXT"}} {
			out := l.customer.must("dig", "@"+resolver4, q[0], q[1])
			if !strings.Contains(out, "NOERROR") || !strings.Contains(out, "ANSWER: 0") || !strings.Contains(out, "SOA") {
				t.Errorf("%v: got\n%s\nwant NODATA with an SOA", q, out)
			}
		}
	})
	t.Run("certificate-without-the-address", func(t *testing.T) {
		l.write("cfrd.yaml", strings.ReplaceAll(l.read("cfrd.yaml"), "cfrd.pem", "narrow.pem"))
		ca.issue("narrow", adn, resolver4)
		l.write("cfrd.yaml", strings.ReplaceAll(l.read("cfrd.yaml"), "cfrd.key", "narrow.key"))
		d.reload()
		if got := svcb(resolver4); !slices.Equal(got, all) {
			t.Errorf("at the address in the certificate: got %q; want %q", got, all)
		}
		for _, r := range svcb(resolver6) {
			if strings.Contains(r, "alpn=") {
				t.Errorf("at the address that the certificate lacks: got %q; want no transport", r)
			}
		}
	})
}

// TestWildcardListeners asks two addresses of one wildcard listener, over each transport: the answer comes from the
// address that was asked, or dig and kdig would not take it.
func TestWildcardListeners(t *testing.T) {
	need(t, "dig", "kdig")
	l := newLab(t)
	ca := l.newAuthority()
	l.serveZones(ca)
	l.startCfrd(l.config(ca, settings{listen: `{
  do53: ["0.0.0.0:53", "[::]:53"], dot: ["0.0.0.0:853", "[::]:853"], doq: ["0.0.0.0:853", "[::]:853"],
  doh: ["0.0.0.0:8443", "[::]:8443"], admin: "127.0.0.1:9153"}`}))
	for _, addr := range []string{resolver4, "10.0.0.1", resolver6, "2001:db8:1::1"} {
		for _, c := range clients(addr, ca) {
			t.Run(c.name+"-"+addr, func(t *testing.T) {
				question := []string{"direct.example", "A"}
				if strings.Contains(c.name, "https") {
					question = append(question, "-p", "8443")
				}
				out := c.ask(l, question...)
				if got := answers(out, "A"); !slices.Equal(got, []string{origin4}) {
					t.Errorf("got %v; want %s\n%s", got, origin4, out)
				}
			})
		}
	}
}
