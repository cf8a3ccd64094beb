package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// relayRoutes returns the routes that cfrd has put in place on the provider's host.
func (l *lab) relayRoutes() string {
	l.t.Helper()
	return l.provider.must("ip", "route", "show", "table", "all", "proto", "207") +
		l.provider.must("ip", "-6", "route", "show", "table", "all", "proto", "207")
}

// wantWay checks where the provider's host sends a packet to addr: local, unreachable or elsewhere.
func (l *lab) wantWay(want string, addrs ...string) {
	l.t.Helper()
	for _, addr := range addrs {
		out, err := l.provider.try("ip", "route", "get", addr)
		got := "elsewhere"
		switch {
		case err != nil && strings.Contains(err.Error(), "No route to host"):
			got = "unreachable"
		case strings.HasPrefix(out, "local"):
			got = "local"
		}
		if got != want {
			l.t.Errorf("%s: got %s (%s %v); want %s", addr, got, out, err, want)
		}
	}
}

// TestHostRoutes follows the routes and the firewall of the relay through a refused reload, kill -9, a second SIGTERM, a
// changed configuration and a clean end.
func TestHostRoutes(t *testing.T) {
	need(t, "dig", "curl", "nft")
	l := newLab(t)
	l.provider.must("ip", "route", "add", "default", "via", origin4)
	l.provider.must("ip", "-6", "route", "add", "default", "via", origin6)
	d, ca := l.serveAll(settings{})
	config := l.read("cfrd.yaml")
	ways := []string{"10.99.200.1", "2001:db8:cf::1", "2001:db8:cf1::1", "192.0.2.64"}
	works := func() {
		t.Helper()
		for _, qtype := range []string{"A", "AAAA"} {
			if got, err := l.fetch(ca, "www.cdn.example", l.relayAddr("www.cdn.example", qtype)); err != nil || got != page {
				t.Errorf("got %q, %v; want the page", got, err)
			}
		}
		l.wantWay("local", ways...)
		if out := l.provider.must("nft", "list", "tables"); strings.Count(out, "cfrd_relay_") != 1 {
			t.Errorf("got tables %q; want one of cfrd", out)
		}
	}
	works()

	before := l.relayRoutes()
	l.write("cfrd.yaml", strings.Replace(config, egress4, "198.51.100.0/28", 1))
	d.reload()
	if want := "relay.egress[0]: 198.51.100.0/28 contains 198.51.100.1, an address of this host's interface core"; !strings.Contains(d.output.String(), want) {
		t.Errorf("the log does not say %q", want)
	}
	if got := l.relayRoutes(); got != before {
		t.Errorf("after a refused reload: got routes\n%s; want those before:\n%s", got, before)
	}

	d.kill()
	l.wantWay("local", ways...)
	d = l.startCfrd(strings.Replace(config, egress4, "192.0.2.64/29", 1))
	works()
	l.wantWay("elsewhere", "192.0.2.79")

	c, err := l.customer.dial("tcp", "", l.relayAddr("www.cdn.example", "A")+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d.signal(syscall.SIGTERM)
	poll(t, 10*time.Second, "the relay drains", func() error {
		if !strings.Contains(d.output.String(), "draining") {
			return errors.New("nothing about it in the log")
		}
		return nil
	})
	d.signal(syscall.SIGTERM)
	d.wait(10 * time.Second)
	d = l.startCfrd(config)
	works()

	d.signal(syscall.SIGTERM)
	if err := d.wait(40 * time.Second); err != nil {
		t.Errorf("got end %v; want a clean one", err)
	}
	l.wantWay("unreachable", ways...)
	if out := l.provider.must("nft", "list", "tables"); out != "" {
		t.Errorf("got tables %q; want none", out)
	}
	if _, err := l.customer.dial("tcp", "", "10.99.200.1:443"); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("a customer without a relay: got %v; want %v", err, syscall.EHOSTUNREACH)
	}

	head, _, _ := strings.Cut(config, "\nsteer:")
	l.startCfrd(head)
	if got := l.relayRoutes(); got != "" {
		t.Errorf("without a relay in the configuration: got routes\n%s; want none", got)
	}
}

// TestHostConflicts: config check and the start name a prefix that contains the gateway or an address of the host.
func TestHostConflicts(t *testing.T) {
	l := newLab(t)
	l.provider.must("ip", "route", "add", "default", "via", origin4)
	l.provider.must("ip", "-6", "route", "add", "default", "via", origin6)
	ca := l.newAuthority()
	config := l.config(ca, settings{})
	for _, row := range []struct{ old, new, want string }{
		{egress4, "198.51.100.2/31", "relay.egress[0]: 198.51.100.2/31 contains 198.51.100.2, the gateway of a route of this host"},
		{egress6, "2001:db8:2::/64", "relay.egress[1]: 2001:db8:2::/64 contains 2001:db8:2::2, the gateway of a route of this host"},
		{egress4, "198.51.100.1/32", "relay.egress[0]: 198.51.100.1/32 contains 198.51.100.1, an address of this host's interface core"},
		{relayPool4, "198.51.100.0/30", "relay.table.prefixes[0]: 198.51.100.0/30 contains 198.51.100.1, an address of this host's"},
	} {
		path := l.write("bad.yaml", strings.Replace(config, row.old, row.new, 1))
		for _, args := range [][]string{{"config", "check", path}, {"serve", "--config", path}} {
			if out, err := l.provider.try(cfrd(t), args...); err == nil || !strings.Contains(out+err.Error(), row.want) {
				t.Errorf("cfrd %s: got %q, %v; want %q", args[0], out, err, row.want)
			}
		}
		if got := l.relayRoutes(); got != "" {
			t.Errorf("got routes\n%s; want none", got)
		}
	}
	if out, err := l.provider.try(cfrd(t), "config", "check", l.write("good.yaml", config)); err != nil {
		t.Errorf("got %q, %v; want no error", out, err)
	}
}

// TestHostServices: programs of the provider's host that listen on all addresses, as sshd does, answer at its own addresses
// alone, also while cfrd is dead; and where the firewall is off, at the relay's as well.
func TestHostServices(t *testing.T) {
	need(t, "dig", "curl", "nft")
	l := newLab(t)
	d, ca := l.serveAll(settings{})
	var closers []io.Closer
	if err := l.provider.do(func() error {
		ln, err := net.Listen("tcp", ":22")
		if err != nil {
			return err
		}
		pc, err := net.ListenPacket("udp", ":161")
		closers = append(closers, ln, pc)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, c := range closers {
			c.Close()
		}
	}()
	refused := func(ns namespace, addr string) {
		t.Helper()
		if c, err := ns.dial("tcp", "", net.JoinHostPort(addr, "22")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("TCP to %s: got %v, %v; want %v", addr, c, err, syscall.ECONNREFUSED)
		}
		c, err := ns.dial("udp", "", net.JoinHostPort(addr, "161"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "?")
		if _, err := readAll(c, 5*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("UDP to %s: got %v; want %v", addr, err, syscall.ECONNREFUSED)
		}
	}
	all := func() {
		t.Helper()
		refused(l.internet, "192.0.2.70")
		refused(l.internet, "2001:db8:e::70")
		refused(l.customer, "10.99.1.1")
		refused(l.customer, "2001:db8:cf1::1")
		refused(l.customer, "2001:db8:cf::1")
	}
	all()
	if c, err := l.internet.dial("tcp", "", "198.51.100.1:22"); err != nil {
		t.Errorf("the host's own address: got %v; want a connection", err)
	} else {
		c.Close()
	}
	if got, err := l.fetch(ca, "www.cdn.example", l.relayAddr("www.cdn.example", "A")); err != nil || got != page {
		t.Errorf("got %q, %v; want the page", got, err)
	}
	d.kill()
	all()
	l.startCfrd(strings.Replace(l.read("cfrd.yaml"), "\nrelay:\n", "\nrelay:\n  firewall: off\n", 1))
	if out := l.provider.must("nft", "list", "tables"); out != "" {
		t.Errorf("with the firewall off: got tables %q; want none", out)
	}
	if c, err := l.internet.dial("tcp", "", "192.0.2.70:22"); err != nil {
		t.Errorf("without the firewall: got %v; want a connection, or the rows above prove nothing", err)
	} else {
		c.Close()
	}
}

// TestHostFirewallImpossible: a relay that may not make its table works, and says so.
func TestHostFirewallImpossible(t *testing.T) {
	need(t, "dig", "curl", "setpriv")
	l := newLab(t)
	for _, p := range []string{relayPool4, egress4} {
		l.provider.must("ip", "route", "add", "local", p, "dev", "lo")
	}
	for _, p := range []string{relayPool6, relaySeal6, egress6} {
		l.provider.must("ip", "-6", "route", "add", "local", p, "dev", "lo")
	}
	ca := l.newAuthority()
	l.serveZones(ca)
	path := l.write("cfrd.yaml", l.config(ca, settings{}))
	p := l.provider.start("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin",
		filepath.Clean(cfrd(t)), "serve", "--config", path)
	poll(t, 20*time.Second, "cfrd warns at /readyz", func() error {
		out, err := l.provider.try("curl", "-s", "http://127.0.0.1:9153/readyz")
		if err == nil && !strings.Contains(out, "relay.firewall: ") {
			err = fmt.Errorf("got %q", out)
		}
		return err
	})
	if !strings.Contains(p.output.String(), "relay.firewall: ") {
		t.Errorf("the log does not name relay.firewall")
	}
}
