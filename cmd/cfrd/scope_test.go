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

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/check"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/resolver"
)

// TestLoopbackListenersAreNamedToNobodyElse listens on loopback and private addresses beside global ones, and looks for
// them in everything that the resolver and the commands say of it.
func TestLoopbackListenersAreNamedToNobodyElse(t *testing.T) {
	l := newLab(t)
	global := []string{"192.0.2.71", "2001:db8::71"}
	hidden := []string{l.addr.String(), "::1", "10.0.0.71", "fd00::71"}
	var at, cert []netip.Addr
	for _, a := range append(global, hidden[2:]...) {
		addr := netip.MustParseAddr(a)
		cert = append(cert, addr)
		addAddress(t, addr)
	}
	l.roots.AddCert(certstest.Template{Names: []string{"dns.isp.example"}, Addrs: append(cert, l.addr)}.Write(t, l.dir))
	var lists []string
	for _, p := range []struct {
		key  string
		port uint16
	}{{"do53", 8053}, {"dot", 8853}, {"doh", 8443}, {"doq", 8853}} {
		var list []string
		for _, a := range append(hidden, global...) {
			list = append(list, fmt.Sprintf("%q", netip.AddrPortFrom(netip.MustParseAddr(a), p.port)))
		}
		lists = append(lists, fmt.Sprintf("%s: [%s]", p.key, strings.Join(list, ", ")))
	}
	l.config["listen"] = fmt.Sprintf(`{%s, admin: "%s:9153"}`, strings.Join(lists, ", "), l.addr)
	l.config["clients"] = `[127.0.0.0/8, "::/0", 192.0.2.0/24]`
	l.start(t)

	for _, a := range global {
		at = append(at, netip.MustParseAddr(a))
	}
	for _, addr := range at {
		for _, q := range []dns.Question{
			{Name: "dns.isp.example.", Qtype: dns.TypeA},
			{Name: "dns.isp.example.", Qtype: dns.TypeAAAA},
			{Name: "dns.isp.example.", Qtype: dns.TypeHTTPS},
			{Name: "_dns.resolver.arpa.", Qtype: dns.TypeSVCB},
			{Name: "_dns.dns.isp.example.", Qtype: dns.TypeSVCB},
		} {
			wantNone(t, fmt.Sprintf("%s %d at %s", q.Name, q.Qtype, addr), askAt(t, addr, q.Name, q.Qtype), hidden)
		}
	}
	if reply := askAt(t, l.addr, "dns.isp.example.", dns.TypeA); !strings.Contains(reply, l.addr.String()) {
		t.Errorf("at %s: got %s; want the address that was asked", l.addr, reply)
	}
	for _, args := range [][]string{{"ddr", "print"}, {"dnr", "print"}} {
		code, stdout, stderr := cfrd(t, append(args, "--config", l.path())...)
		if code != 0 {
			t.Errorf("%v: got exit code %d, %s", args, code, stderr)
		}
		forbidden := hidden
		if args[0] == "dnr" { // whose clients may well be private
			forbidden = hidden[:1]
		}
		wantNone(t, strings.Join(args, " "), stdout, forbidden)
	}
	warnings, err := checkConfig(l.path(), config.ModeAll)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"listen.do53[0]: discovery does not name " + l.addr.String(), "listen.doq[1]: discovery does not name ::1"} {
		if !strings.Contains(strings.Join(warnings, "\n"), want) {
			t.Errorf("config check: got %q; want %q in it", warnings, want)
		}
	}
}

// wantNone makes sure that text has no line that ends with one of hidden.
func wantNone(t *testing.T, what, text string, hidden []string) {
	t.Helper()
	for line := range strings.Lines(text) {
		for _, word := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\n,\"'[]", r) }) {
			for _, h := range hidden {
				if word == h {
					t.Errorf("%s: names %s: %s", what, h, line)
				}
			}
		}
	}
}

// askAt returns the response of the resolver at addr as text.
func askAt(t *testing.T, addr netip.Addr, name string, qtype uint16) string {
	t.Helper()
	c := check.Client{Addr: netip.AddrPortFrom(addr, 8053)}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := c.Exchange(ctx, resolver.TCP, check.Question(name, qtype))
	if err != nil {
		t.Fatalf("%s at %s: %v", name, addr, err)
	}
	if len(reply.Answer) == 0 {
		t.Errorf("%s %d at %s: got %v; want an answer", name, qtype, addr, reply)
	}
	return reply.String()
}

// TestUnnamedAddresses has listeners that discovery never names, and such that it does.
func TestUnnamedAddresses(t *testing.T) {
	l := newLab(t)
	l.config["listen"] = `{do53: ["192.0.2.53:53", "[fe80::1%lo]:53", "192.0.2.54:53"], dot: ["192.0.2.53:853"]}`
	l.config["ddr"] = "{addresses: [192.0.2.53]}"
	certstest.Template{Names: []string{"dns.isp.example"}, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("192.0.2.54")}}.Write(t, filepath.Dir(l.path()))
	l.write(t)
	warnings, err := checkConfig(l.path(), config.ModeAll)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(warnings, "\n")
	for _, want := range []string{"listen.do53[1]: discovery does not name fe80::1%lo", "listen.do53[2]: discovery does not name 192.0.2.54"} {
		if !strings.Contains(text, want) {
			t.Errorf("got %q; want %q in it", warnings, want)
		}
	}
	if strings.Contains(text, "name 192.0.2.53 ") {
		t.Errorf("got %q; want nothing about 192.0.2.53", warnings)
	}
}
