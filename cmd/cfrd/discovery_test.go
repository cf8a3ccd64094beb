package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/check"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/resolver"
	"github.com/cfrd-project/cfrd/zones"
)

func TestOwned(t *testing.T) {
	for name, row := range map[string]struct {
		resolver, records string
		name, https       bool
	}{
		"no-zone":              {"dns.other.example", "", true, true},
		"below-a-builtin-zone": {"dns.test", "", true, true},
		"zone-without-it":      {"dns.isp.example", "", true, true},
		"in-the-zone":          {"dns.isp.example", "dns A 192.0.2.53\n", false, true},
		"with-https":           {"dns.isp.example", "dns HTTPS 1 . alpn=h2\n", false, false},
		"alias":                {"dns.isp.example", "dns CNAME ns\n", false, false},
		"wildcard":             {"dns.isp.example", "* A 192.0.2.53\n", false, true},
		"delegated":            {"dns.isp.example", "dns NS ns.dns\nns.dns A 192.0.2.9\n", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "isp.example.zone")
			writeFile(t, file, zoneHead+row.records)
			z, err := zones.New(zones.Config{Files: []string{file}})
			if err != nil {
				t.Fatal(err)
			}
			v := &values{Config: &config.Config{Name: row.resolver}, zones: z}
			if name, https := v.owned(); name != row.name || https != row.https {
				t.Errorf("got %t, %t; want %t, %t", name, https, row.name, row.https)
			}
		})
	}
}

// TestOwnedAnswers asks a running node, whose zone does not have the resolver's name, and after a reload does.
func TestOwnedAnswers(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	ask := func(name string, qtype uint16) *dns.Msg {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		q := new(dns.Msg).SetQuestion(name, qtype)
		q.RecursionDesired = false // See RFC 9606, Section 3.
		reply, err := check.Client{Addr: netip.AddrPortFrom(l.addr, 8053)}.Exchange(ctx, resolver.UDP, q)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	want := func(when, name string, qtype uint16, rdata string) {
		t.Helper()
		m := ask(name, qtype)
		if len(m.Answer) != 1 || !m.Authoritative || !strings.Contains(m.Answer[0].String(), rdata) {
			t.Errorf("%s: got %v; want %q with AA", when, m, rdata)
		}
	}
	want("own", "dns.isp.example.", dns.TypeA, l.addr.String())
	want("own", "dns.isp.example.", dns.TypeHTTPS, `1 . alpn="h3,h2" port="8443"`)
	for _, name := range []string{"resolver.arpa.", "dns.isp.example."} {
		want("own", name, dns.TypeRESINFO, `"exterr=`)
	}
	writeFile(t, filepath.Join(l.dir, "isp.zone"), zoneHead+"dns A 192.0.2.77\n")
	if err := n.reload(l.path()); err != nil {
		t.Fatal(err)
	}
	want("in the zone", "dns.isp.example.", dns.TypeA, "192.0.2.77")
	want("in the zone", "dns.isp.example.", dns.TypeHTTPS, `1 . alpn="h3,h2" port="8443"`)
}

// TestLogUndiscovered has listeners that no client of an address can be sent to.
func TestLogUndiscovered(t *testing.T) {
	l := newLab(t)
	l.config["ddr"] = "{addresses: [192.0.2.9]}"
	n, log := l.start(t)
	n.logUndiscovered(n.current())
	const want = "do not learn of the encrypted transports: no encrypted listener is reachable for clients of "
	if !log.contains("clients that ask "+l.addr.String()) || !log.contains(want+l.addr.String()) {
		t.Errorf("got log %q; want %q in it", log.lines(), want+l.addr.String())
	}
	code, out, _ := cfrd(t, "config", "check", l.path())
	if code != 0 || !strings.Contains(out, "warning: clients that ask "+l.addr.String()) {
		t.Errorf("config check: got exit code %d and %q; want a warning about %s", code, out, l.addr)
	}
	before := len(log.lines())
	delete(l.config, "ddr")
	l.write(t)
	if err := n.reload(l.path()); err != nil {
		t.Fatal(err)
	}
	for _, line := range log.lines()[before:] {
		if strings.Contains(line, "do not learn") {
			t.Errorf("after a reload: got %q; want nothing to say", line)
		}
	}
}

// TestReverseOfOwnAddresses asks for the names of the resolver's addresses, as discovery or a zone file has the name.
func TestReverseOfOwnAddresses(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.81"), netip.MustParseAddr("fd00::81")
	other := netip.MustParseAddr("10.0.0.82") // also of the resolver, but not of the name in the zone file
	for _, addr := range []netip.Addr{v4, v6, other} {
		addAddress(t, addr)
	}
	base := "$ORIGIN isp.example.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n"
	for name, test := range map[string]struct {
		zone, more string
		want       map[netip.Addr]string
	}{
		"discovery-has-the-name": {base, "", map[netip.Addr]string{
			v4: "dns.isp.example.", v6: "dns.isp.example.", other: "dns.isp.example.",
		}},
		"zone-has-the-name": {base + "dns A 10.0.0.81\ndns AAAA fd00::81\n", "", map[netip.Addr]string{
			v4: "dns.isp.example.", v6: "dns.isp.example.", other: "",
		}},
		"zone-has-the-reverse-name": {
			base, "$ORIGIN 0.0.10.in-addr.arpa.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns.isp.example.\n81 PTR other.isp.example.\n",
			map[netip.Addr]string{v4: "other.isp.example.", v6: "dns.isp.example.", other: ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.config["listen"] = fmt.Sprintf(`{do53: ["10.0.0.81:8053", "[fd00::81]:8053", "10.0.0.82:8053"], admin: "%s:9153"}`, l.addr)
			l.config["clients"] = `[127.0.0.0/8, 10.0.0.0/8, "fd00::/8"]`
			writeFile(t, filepath.Join(l.dir, "isp.zone"), test.zone)
			if test.more != "" {
				writeFile(t, filepath.Join(l.dir, "reverse.zone"), test.more)
				l.config["zones"] = "[isp.zone, reverse.zone]"
			}
			l.start(t)
			for addr, want := range test.want {
				reverse, err := dns.ReverseAddr(addr.String())
				if err != nil {
					t.Fatal(err)
				}
				c := check.Client{Addr: netip.AddrPortFrom(v4, 8053)}
				if addr.Is6() {
					c.Addr = netip.AddrPortFrom(v6, 8053)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				for _, tr := range []resolver.Transport{resolver.UDP, resolver.TCP} {
					reply, err := c.Exchange(ctx, tr, check.Question(reverse, dns.TypePTR))
					if err != nil {
						t.Fatal(err)
					}
					var got string
					if len(reply.Answer) == 1 {
						got = reply.Answer[0].(*dns.PTR).Ptr
					}
					if got != want {
						t.Errorf("%s over %s: got %q, %s; want %q", addr, tr, got, dns.RcodeToString[reply.Rcode], want)
					}
				}
			}
		})
	}
}
