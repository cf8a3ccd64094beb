package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// TestResinfo asks what the resolver says of itself as RFC 9606, Section 3, has clients ask: without RD. The answer
// must have AA.
func TestResinfo(t *testing.T) {
	need(t, "dig", "kdig")
	l := newLab(t)
	_, ca := l.serveAll(settings{})
	for _, c := range clients(resolver4, ca) {
		for _, name := range []string{"resolver.arpa", adn} {
			out := c.ask(l, name, "TYPE261", "+norec")
			flags := regexp.MustCompile(`(?i)flags:[^;]*;`).FindString(out)
			// "exterr=", whether the program knows the type or not.
			hex := strings.ReplaceAll(strings.ToLower(out), " ", "")
			known := strings.Contains(hex, "6578746572723d") || strings.Contains(out, "exterr=")
			if !strings.Contains(flags, " aa") || strings.Contains(flags, " rd") || !known {
				t.Errorf("%s %s: got\n%s\nwant one record with exterr, and AA", c.name, name, out)
			}
		}
	}
}

// TestHTTPSRecord asks for the HTTPS record of the resolver's name, which the operator's zone has without one.
func TestHTTPSRecord(t *testing.T) {
	need(t, "dig")
	l := newLab(t)
	d, _ := l.serveAll(settings{})
	https := func() []string {
		return answers(l.customer.must("dig", "@"+resolver4, adn, "HTTPS"), "HTTPS")
	}
	if got := https(); len(got) != 1 || !strings.HasPrefix(got[0], `1 . alpn="h3,h2" key11`) {
		t.Errorf("got %q; want one with h3, h2 and pvd", got)
	}
	if got := answers(l.customer.must("dig", "@"+resolver4, adn, "A"), "A"); !slices.Equal(got, []string{resolver4}) {
		t.Errorf("got A %q; want the zone's", got)
	}
	l.write("isp.example.zone", l.read("isp.example.zone")+"dns HTTPS 1 . alpn=h2\n")
	d.reload()
	if got := https(); !slices.Equal(got, []string{`1 . alpn="h2"`}) {
		t.Errorf("got %q; want the zone's own", got)
	}
	l.write("isp.example.zone", strings.NewReplacer("dns HTTPS 1 . alpn=h2\n", "", "dns      A    10.0.0.53\n", "",
		"dns      AAAA 2001:db8:1::53\n", "", "www      CNAME dns\n", "").Replace(l.read("isp.example.zone")))
	d.reload()
	if got := https(); len(got) != 1 || !strings.HasPrefix(got[0], `1 . alpn="h3,h2" key11`) {
		t.Errorf("without the name in the zone: got %q; want ours", got)
	}
	for qtype, want := range map[string]string{"A": resolver4, "AAAA": resolver6} {
		if got := answers(l.customer.must("dig", "@"+resolver4, adn, qtype), qtype); !slices.Equal(got, []string{want}) {
			t.Errorf("without the name in the zone: got %s %q; want %s", qtype, got, want)
		}
	}
}

// TestPvD fetches the provisioning domain with curl.
func TestPvD(t *testing.T) {
	need(t, "curl")
	l := newLab(t)
	d, ca := l.serveAll(settings{})
	fetch := func(host string, args ...string) (string, error) {
		all := []string{"-s", "--cacert", ca.file, "--resolve", adn + ":443:" + resolver4, "-w", "\n%{http_code} %{http_version} %{content_type}"}
		return l.customer.try("curl", slices.Concat(all, args, []string{"https://" + host + "/.well-known/pvd"})...)
	}
	for _, host := range []string{adn, resolver4, resolver4 + ":443", "[" + resolver6 + "]"} {
		for version, flag := range map[string]string{"1.1": "--http1.1", "2": "--http2"} {
			out, err := fetch(host, flag)
			if err != nil {
				t.Fatal(err)
			}
			body, status, _ := strings.Cut(out, "\n")
			if want := "200 " + version + " application/pvd+json"; status != want {
				t.Errorf("%s %s: got %q; want %q", host, flag, status, want)
			}
			wantPvD(t, body)
		}
	}
	t.Run("head", func(t *testing.T) {
		out, err := fetch(adn, "--head")
		if err != nil || !strings.Contains(strings.ToLower(out), "cache-control: private, max-age=3600") {
			t.Errorf("got %v\n%s\nwant headers with Cache-Control", err, out)
		}
	})
	t.Run("says-nothing-of-destinations", func(t *testing.T) {
		out, err := fetch(adn)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"cdn", "203.0.113", "10.99", "2001:db8:cf", customer4} {
			if strings.Contains(out, s) {
				t.Errorf("got %q in\n%s", s, out)
			}
		}
	})
	t.Run("switched-off", func(t *testing.T) {
		l.write("cfrd.yaml", strings.Replace(l.read("cfrd.yaml"), "advertise_relay: true", "advertise_relay: true, pvd: false", 1))
		d.reload()
		if out, err := fetch(adn); err != nil || !strings.Contains(out, "404") {
			t.Errorf("got %q, %v; want 404", out, err)
		}
		if out := l.customer.must("dig", "@"+resolver4, adn, "HTTPS"); strings.Contains(out, "key11") {
			t.Errorf("got\n%s\nwant no pvd", out)
		}
	})
}

// wantPvD checks what RFC 8801, Section 4.3, and draft-ietf-intarea-proxy-config ask of a document.
func wantPvD(t *testing.T, body string) {
	t.Helper()
	var p struct {
		Identifier string
		Expires    time.Time
		Prefixes   []string
		Proxies    []any
		Resolver   struct{ Transports []struct{ ALPN []string } } `json:"cfrd_resolver"`
		Relay      struct {
			Protocols []string
			Ports     []int
		} `json:"cfrd_relay"`
	}
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	left := time.Until(p.Expires)
	switch {
	case p.Identifier != adn+"." || p.Prefixes == nil || len(p.Prefixes) > 0 || len(p.Proxies) > 0:
		t.Errorf("got %s; want identifier %s., no prefixes and no proxies", body, adn)
	case left <= 0 || left > 25*time.Hour:
		t.Errorf("got a document that expires in %v; want about a day", left)
	case len(p.Resolver.Transports) != 3 || !slices.Equal(p.Relay.Protocols, []string{"tcp", "udp"}) || !slices.Equal(p.Relay.Ports, []int{443, 80, 4443}):
		t.Errorf("got %s; want three transports, and a relay of TCP and UDP on the ports of the configuration", body)
	}
}

// TestPrintedZone has the printed lines checked and served by others, in both forms.
func TestPrintedZone(t *testing.T) {
	need(t, "nsd", "nsd-checkzone", "dig")
	l := newLab(t)
	config := l.write("cfrd.yaml", l.config(l.newAuthority(), settings{}))
	const head = "$ORIGIN isp.example.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 198.51.100.54\n"
	var served []string
	for form, args := range map[string][]string{"svcb": nil, "generic": {"--generic"}} {
		lines := l.provider.must(cfrd(t), append([]string{"ddr", "print", "--config", config}, args...)...)
		file := l.write("printed/"+form+".zone", head+lines)
		l.provider.must("nsd-checkzone", "isp.example", file)
		t.Run("bind-"+form, func(t *testing.T) {
			need(t, "named-checkzone")
			if out, err := l.provider.try("named-checkzone", "isp.example", file); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
		nsd := l.startNSD("isp.example", file)
		ask := func(name, qtype string, args ...string) []string {
			out, err := l.internet.try("dig", append([]string{"+tries=1", "+time=2", "@" + nsd4, name, qtype}, args...)...)
			if err != nil {
				return nil
			}
			return answers(out, qtype)
		}
		poll(t, 10*time.Second, "NSD serves the printed zone", func() error {
			if len(ask("isp.example", "SOA")) == 0 {
				return fmt.Errorf("no answer")
			}
			return nil
		})
		got := slices.Concat(ask("_dns."+adn, "SVCB"), ask(adn, "HTTPS"), ask(adn, "A"), ask(adn, "AAAA"), ask(adn, "TYPE261", "+unknownformat"))
		nsd.kill()
		if served == nil {
			served = got
		}
		if !slices.Equal(got, served) || len(got) != 8 {
			t.Errorf("%s: got %q; want 8 records, the same in both forms: %q", form, got, served)
		}
	}
	l.startCfrd(l.config(l.newAuthority(), settings{}))
	out := l.customer.must("dig", "@"+resolver4, "_dns."+adn, "SVCB")
	if got := answers(out, "SVCB"); !slices.Equal(got, served[:len(got)]) {
		t.Errorf("cfrd answers %q; printed were %q", got, served)
	}
}

// TestIdentity goes to every listener as the two kinds of client do: those that know the address only send no SNI and
// have the address as host (RFC 9462, Section 6.3), those that know the name send that. All must get a certificate that
// has both, and an answer.
func TestIdentity(t *testing.T) {
	l := newLab(t)
	_, ca := l.serveAll(settings{})
	for _, addr := range []string{resolver4, resolver6} {
		literal := addr
		if strings.Contains(addr, ":") {
			literal = "[" + addr + "]"
		}
		for _, sni := range []string{"", adn} {
			p := identityProbe{l: l, ca: ca, addr: netip.MustParseAddr(addr), sni: sni}
			for transport, ask := range map[string]func(string) error{"dot": p.dot, "doq": p.doq} {
				t.Run(fmt.Sprintf("%s-%s-sni-%q", transport, addr, sni), func(t *testing.T) {
					if err := ask(""); err != nil {
						t.Error(err)
					}
				})
			}
			for transport, ask := range map[string]func(string) error{"h1": p.h1, "h2": p.h2, "h3": p.h3} {
				for _, authority := range []string{literal, literal + ":443", adn, adn + ":443"} {
					t.Run(fmt.Sprintf("%s-%s-sni-%q-%s", transport, addr, sni, authority), func(t *testing.T) {
						if err := ask(authority); err != nil {
							t.Error(err)
						}
					})
				}
			}
		}
	}
	t.Run("openssl-without-sni", func(t *testing.T) {
		need(t, "openssl")
		for _, port := range []string{"853", "443"} {
			out, err := l.customer.try("openssl", "s_client", "-connect", resolver4+":"+port, "-noservername", "-CAfile", ca.file,
				"-verify_ip", resolver4, "-verify_return_error", "-brief")
			if err != nil {
				t.Errorf("port %s: %v\n%s", port, err, out)
			}
		}
	})
	t.Run("kdig-without-sni", func(t *testing.T) {
		need(t, "kdig")
		for _, c := range [][]string{{"+tls"}, {"+https"}, {"+quic"}} {
			out := l.customer.must("kdig", "@"+resolver4, c[0], adn, "A")
			if got := answers(out, "A"); !slices.Equal(got, []string{resolver4}) {
				t.Errorf("%s: got %q\n%s", c[0], got, out)
			}
		}
	})
}

// identityProbe asks one address for the addresses of its name.
type identityProbe struct {
	l    *lab
	ca   *authority
	addr netip.Addr
	sni  string
}

// tls returns a configuration that accepts a certificate only if it has the name and the address.
func (p identityProbe) tls(alpn string) *tls.Config {
	conf := &tls.Config{ServerName: p.sni, NextProtos: []string{alpn}, InsecureSkipVerify: true}
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		leaf := cs.PeerCertificates[0]
		_, err := leaf.Verify(x509.VerifyOptions{Roots: p.ca.pool()})
		for _, name := range []string{adn, p.addr.String()} {
			if err == nil {
				err = leaf.VerifyHostname(name)
			}
		}
		if err == nil && cs.NegotiatedProtocol != alpn {
			err = fmt.Errorf("got ALPN %q; want %q", cs.NegotiatedProtocol, alpn)
		}
		return err
	}
	return conf
}

func (p identityProbe) query() []byte {
	m := new(dns.Msg).SetQuestion(adn+".", dns.TypeA)
	m.Id = 0
	wire, _ := m.Pack()
	return wire
}

func (p identityProbe) judge(reply []byte) error {
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		return err
	}
	if len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "\t"+resolver4) {
		return fmt.Errorf("got %v; want %s", m, resolver4)
	}
	return nil
}

func (p identityProbe) framed(rw io.ReadWriter, end func() error) error {
	q := p.query()
	if _, err := rw.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)); err != nil {
		return err
	}
	if err := end(); err != nil {
		return err
	}
	var size [2]byte
	if _, err := io.ReadFull(rw, size[:]); err != nil {
		return err
	}
	reply := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(rw, reply); err != nil {
		return err
	}
	return p.judge(reply)
}

func (p identityProbe) dialTLS(ctx context.Context, port uint16, alpn string) (*tls.Conn, error) {
	c, err := p.l.customer.dial("tcp", "", netip.AddrPortFrom(p.addr, port).String())
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	tc := tls.Client(c, p.tls(alpn))
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return tc, nil
}

func (p identityProbe) dot(string) error {
	c, err := p.dialTLS(p.l.t.Context(), 853, "dot")
	if err != nil {
		return err
	}
	defer c.Close()
	return p.framed(c, func() error { return nil })
}

// quic opens a connection and hands it to use.
func (p identityProbe) quic(port uint16, alpn string, use func(ctx context.Context, c *quic.Conn) error) error {
	ctx, cancel := context.WithTimeout(p.l.t.Context(), 10*time.Second)
	defer cancel()
	from := customer4
	if p.addr.Is6() {
		from = customer6
	}
	pc := p.l.customer.listenUDP(netip.AddrPortFrom(netip.MustParseAddr(from), 0).String())
	defer pc.Close()
	qt := &quic.Transport{Conn: pc}
	defer qt.Close()
	c, err := qt.Dial(ctx, net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.addr, port)), p.tls(alpn), nil)
	if err != nil {
		return err
	}
	defer c.CloseWithError(0, "")
	return use(ctx, c)
}

func (p identityProbe) doq(string) error {
	return p.quic(853, "doq", func(ctx context.Context, c *quic.Conn) error {
		str, err := c.OpenStreamSync(ctx)
		if err != nil {
			return err
		}
		str.SetDeadline(time.Now().Add(10 * time.Second))
		return p.framed(str, str.Close)
	})
}

// post asks over HTTP with the given authority.
func (p identityProbe) post(rt http.RoundTripper, authority string) error {
	ctx, cancel := context.WithTimeout(p.l.t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", "https://"+authority+"/dns-query", bytes.NewReader(p.query()))
	if err != nil {
		return err
	}
	r.Host = authority // with the port, also if it is the default one
	r.Header.Set("Content-Type", "application/dns-message")
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("got status %d; want 200", resp.StatusCode)
	}
	return p.judge(body)
}

func (p identityProbe) overTCP(alpn, authority string) error {
	rt := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.dialTLS(ctx, 443, alpn)
		},
	}
	defer rt.CloseIdleConnections()
	return p.post(rt, authority)
}

func (p identityProbe) h1(authority string) error { return p.overTCP("http/1.1", authority) }
func (p identityProbe) h2(authority string) error { return p.overTCP("h2", authority) }

func (p identityProbe) h3(authority string) error {
	return p.quic(443, "h3", func(_ context.Context, c *quic.Conn) error {
		return p.post(new(http3.Transport).NewClientConn(c), authority)
	})
}

// TestCheckVerifiesTheName has `cfrd check` look at everything that is published under the name.
func TestCheckVerifiesTheName(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.startCfrd(l.config(ca, settings{}))
	for _, addr := range []string{resolver4, resolver6} {
		out := l.customer.must(cfrd(t), "check", addr, "--name", adn, "--ca", ca.file, "--json")
		var report struct {
			Steps []struct{ Step, Target, Status string }
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range report.Steps {
			for _, prefix := range []string{"ddr-by-name", "resinfo", "https-record", "pvd-"} {
				if strings.HasPrefix(s.Step, prefix) {
					got = append(got, s.Step+" "+s.Status)
				}
			}
		}
		want := []string{"ddr-by-name ok", "resinfo ok", "resinfo ok", "https-record ok", "pvd-doh3 ok", "pvd-doh ok", "pvd-doh1 ok"}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q; want %q\n%s", addr, got, want, out)
		}
	}
}

// TestUndiscoveredIsLogged has a Do53 address at which clients cannot be told of anything.
func TestUndiscoveredIsLogged(t *testing.T) {
	l := newLab(t)
	l.provider.must("ip", "addr", "add", "10.0.0.54/24", "dev", "access")
	ca := l.newAuthority()
	config := l.config(ca, settings{listen: `{do53: ["10.0.0.53:53", "10.0.0.54:53"], dot: ["10.0.0.53:853"], admin: "127.0.0.1:9153"}`})
	d := l.startCfrd(config)
	said := func() int {
		return strings.Count(d.output.String(), "clients that ask 10.0.0.54 without encryption do not learn of the encrypted transports")
	}
	if got := said(); got != 1 {
		t.Errorf("at start: got %d lines about 10.0.0.54; want one\n%s", got, d.output)
	}
	if strings.Contains(d.output.String(), "clients that ask 10.0.0.53 ") {
		t.Errorf("got a line about 10.0.0.53, where there is nothing to complain of:\n%s", d.output)
	}
	d.reload()
	if got := said(); got != 2 {
		t.Errorf("after a reload: got %d lines about 10.0.0.54; want two", got)
	}
	if out := l.customer.must("dig", "@10.0.0.54", "_dns.resolver.arpa", "SVCB"); !strings.Contains(out, "ANSWER: 0") {
		t.Errorf("at 10.0.0.54: got\n%s\nwant NODATA", out)
	}
}
