package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The files in which networkd keeps what it has learnt.
const (
	linkStates = "run/systemd/netif/links/*"
	leases     = "run/systemd/netif/leases/*"
)

// TestSystemd lets systemd-networkd and systemd-resolved learn of cfrd in the three ways of RFC 9463. They must end up
// asking it over TLS. Its certificate has no address, so that the name in the option is what lets them.
func TestSystemd(t *testing.T) {
	for _, way := range []struct {
		name     string
		network  string // of the client's .network file
		server   string // as the client's state has it
		state    string // file with the state
		option   string // as tshark finds it
		serve    string // further lines of cfrd's configuration
		announce func(l *lab) *process
	}{
		{
			"dhcpv4", "DHCP=ipv4\nIPv6AcceptRA=no\n",
			"DNR=" + resolver4 + "#" + adn, leases, "dhcp.option.type == 162", "",
			func(l *lab) *process { return l.serveDnsmasq(l.dnrPrint("dnsmasq", "4")) },
		},
		{
			"dhcpv6", "IPv6AcceptRA=yes\n",
			"DNS=" + resolver6 + "#" + adn, linkStates, "dhcpv6.option.type == 144", "",
			func(l *lab) *process { return l.serveDnsmasq(l.dnrPrint("dnsmasq", "6")) },
		},
		{
			"ra-of-cfrd", "Address=" + customer6 + "/64\nIPv6AcceptRA=yes\n",
			"DNS=" + resolver6 + "#" + adn, linkStates, "icmpv6.opt.type == 144", "",
			func(l *lab) *process { return l.announce("--ra") },
		},
		{
			"dhcpv6-of-cfrd", "Address=" + customer6 + "/64\nDHCP=ipv6\nIPv6AcceptRA=no\n[DHCPv6]\nWithoutRA=information-request\n",
			"DNS=" + resolver6 + "#" + adn, linkStates, "dhcpv6.option.type == 144", "",
			func(l *lab) *process { return l.announce("--dhcpv6") },
		},
		{
			"ra-of-serve", "Address=" + customer6 + "/64\nIPv6AcceptRA=yes\n",
			"DNS=" + resolver6 + "#" + adn, linkStates, "icmpv6.opt.type == 144",
			"dnr: {announce: [{interface: access, ra: true, max_interval: 10s}]}", nil,
		},
	} {
		t.Run(way.name, func(t *testing.T) {
			l := newLab(t)
			wire := l.record(l.customer, "access")
			d, ca := l.serveNamed(settings{more: way.serve})
			if way.announce != nil {
				way.announce(l)
			}
			m, _ := l.systemdClient(ca, way.network)
			m.waitState(way.state, "has the resolver", func(s string) bool { return strings.Contains(s, way.server) })
			m.ask("direct.example", origin4)
			d.wantOnlyTLS()
			wire.wantClean(way.option)
		})
	}
}

// TestSystemdBesideRadvd has radvd advertise the customers' router on the same link as our announcer, from a host of its
// own and from the same. Hosts take addresses and the default route from the one, the resolver from the other; and when
// the announcer ends they forget the resolver, and only that.
func TestSystemdBesideRadvd(t *testing.T) {
	for _, row := range []struct {
		name   string
		router func(l *lab) (host namespace, dev string)
	}{
		{"on-another-host", (*lab).newRouter},
		{"on-the-same-host", func(l *lab) (namespace, string) { return l.provider, "access" }},
	} {
		t.Run(row.name, func(t *testing.T) {
			l := newLab(t)
			need(t, "rdisc6")
			d, ca := l.serveNamed(settings{})
			wire := l.record(l.customer, "access")
			host, dev := row.router(l)
			router := host.linkLocal(dev)
			l.serveRadvd(host, dev)
			announcer := l.announce("--ra")
			m, _ := l.systemdClient(ca, "IPv6AcceptRA=yes\n")

			known := func(s string) bool { return strings.Contains(s, "DNS="+resolver6+"#"+adn) }
			m.waitState(linkStates, "has the resolver", known)
			l.waitDefaultRoute(router)
			m.ask("direct.example", origin4)
			d.wantOnlyTLS()
			l.wantTwoRouters(router)

			announcer.signal(syscall.SIGTERM)
			if err := announcer.wait(10 * time.Second); err != nil {
				t.Errorf("the announcer ended with %v", err)
			}
			m.waitState(linkStates, "has the resolver no more", func(s string) bool { return !strings.Contains(s, resolver6) })
			l.waitDefaultRoute(router)
			wire.wantClean("icmpv6.opt.type == 144")
		})
	}
}

// TestSystemdWrongName announces cfrd by another name than its certificate has. resolved must not ask it.
func TestSystemdWrongName(t *testing.T) {
	l := newLab(t)
	d, ca := l.serveNamed(settings{})
	l.serveDnsmasq(l.dnrPrint("dnsmasq", "4", "--name", "other.isp.example", "--address", resolver4))
	m, resolved := l.systemdClient(ca, "DHCP=ipv4\nIPv6AcceptRA=no\n")
	m.waitState(leases, "has the resolver", func(s string) bool { return strings.Contains(s, "#other.isp.example") })
	poll(t, 20*time.Second, "resolved refuses", func() error {
		if out, err := m.dig("direct.example"); err == nil && strings.Contains(out, "NOERROR") {
			t.Fatalf("got\n%s\nwant no answer", out)
		}
		if !strings.Contains(resolved.output.String(), "certificate verify failed") {
			return errors.New("no word about a certificate")
		}
		return nil
	})
	for _, transport := range []string{"dot", "udp", "tcp"} {
		if n := d.queries(transport); n != 0 {
			t.Errorf("got %d queries over %s; want none", n, transport)
		}
	}
}

// serveNamed starts a cfrd whose certificate has its name and no address.
func (l *lab) serveNamed(s settings) (*daemon, *authority) {
	l.t.Helper()
	ca := l.newAuthority()
	l.serveZones(ca)
	config := l.config(ca, s)
	ca.issue("cfrd", adn)
	return l.startCfrd(config), ca
}

// systemdClient runs networkd and resolved on the customer's host. They trust ca, and ask over TLS or not at all.
func (l *lab) systemdClient(ca *authority, network string) (m *machine, resolved *process) {
	l.t.Helper()
	need(l.t, "dig")
	m = l.newMachine(l.customer)
	l.customer.must("ip", "addr", "flush", "dev", "access", "scope", "global")
	m.write("etc/ssl/certs/ca-certificates.crt", pemBlock("CERTIFICATE", ca.cert.Raw))
	m.write("etc/systemd/network/access.network", "[Match]\nName=access\n[Network]\n"+network)
	m.write("etc/systemd/resolved.conf", "[Resolve]\nDNSOverTLS=yes\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\n")
	m.start("/usr/lib/systemd/systemd-networkd")
	return m, m.start("/usr/lib/systemd/systemd-resolved")
}

// waitState waits until what networkd has learnt is as wanted.
func (m *machine) waitState(pattern, what string, wanted func(string) bool) {
	m.ns.t.Helper()
	poll(m.ns.t, 20*time.Second, "networkd "+what, func() error {
		if state := m.read(pattern); !wanted(state) {
			return errors.New(state)
		}
		return nil
	})
}

// dig asks resolved as the host's programs do.
func (m *machine) dig(name string) (string, error) {
	return m.ns.try("dig", "+tries=1", "+time=2", "@127.0.0.53", name, "A")
}

// ask asks resolved for an address until it has the answer.
func (m *machine) ask(name, want string) {
	m.ns.t.Helper()
	poll(m.ns.t, 20*time.Second, "resolved answers", func() error {
		out, err := m.dig(name)
		if err == nil && !strings.Contains(out, "\tA\t"+want+"\n") {
			err = fmt.Errorf("got\n%s\nwant %s", out, want)
		}
		return err
	})
}

// wantOnlyTLS fails unless queries have come over TLS, and none without encryption.
func (d *daemon) wantOnlyTLS() {
	d.t.Helper()
	if n := d.queries("dot"); n == 0 {
		d.t.Error("got no query over TLS")
	}
	for _, plain := range []string{"udp", "tcp"} {
		if n := d.queries(plain); n != 0 {
			d.t.Errorf("got %d queries over %s; want none", n, plain)
		}
	}
}

// queries returns how many queries have come by a transport.
func (d *daemon) queries(transport string) int {
	d.t.Helper()
	n, err := strconv.Atoi(d.metric(`cfrd_queries_total{transport="` + transport + `"}`))
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

// announce starts our announcer on the provider's host.
func (l *lab) announce(by string) *process {
	l.t.Helper()
	return l.provider.start(cfrd(l.t), "dnr", "announce", "--interface", "access", "--max-interval", "10s", by,
		"--name", adn, "--address", resolver4+","+resolver6)
}

// newRouter adds a host to the customers' link.
func (l *lab) newRouter() (host namespace, dev string) {
	l.t.Helper()
	host, dev = namespace{t: l.t, name: l.provider.name + "r"}, "lan"
	if out, err := exec.Command("ip", "netns", "add", host.name).CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
	l.t.Cleanup(func() { exec.Command("ip", "netns", "del", host.name).Run() })
	l.provider.must("ip", "link", "add", "link", "access", "name", dev, "netns", host.name, "type", "macvlan", "mode", "bridge")
	host.must("sysctl", "-qw", "net.ipv6.conf.lan.accept_dad=0", "net.ipv6.conf.all.forwarding=1")
	host.must("ip", "link", "set", dev, "up")
	return host, dev
}

// serveRadvd runs radvd on a host.
func (l *lab) serveRadvd(host namespace, dev string) {
	l.t.Helper()
	need(l.t, "radvd")
	host.start("radvd", "-n", "-m", "stderr", "-p", filepath.Join(l.dir, "radvd.pid"), "-C", l.write("radvd.conf", `
interface `+dev+` {
	AdvSendAdvert on;
	MinRtrAdvInterval 3;
	MaxRtrAdvInterval 5;
	prefix 2001:db8:1::/64 { };
};
`))
}

// linkLocal returns the address that a link of ns has on the link.
func (ns namespace) linkLocal(dev string) (addr netip.Addr) {
	ns.t.Helper()
	poll(ns.t, 5*time.Second, "address of "+dev, func() error {
		for line := range strings.Lines(ns.must("ip", "-6", "-o", "addr", "show", "dev", dev, "scope", "link")) {
			if f := strings.Fields(line); len(f) > 3 {
				p, err := netip.ParsePrefix(f[3])
				addr = p.Addr()
				return err
			}
		}
		return errors.New("none")
	})
	return addr
}

// waitDefaultRoute waits until the customer has one default route, by the router.
func (l *lab) waitDefaultRoute(router netip.Addr) {
	l.t.Helper()
	poll(l.t, 10*time.Second, "default route", func() error {
		out := l.customer.must("ip", "-6", "route", "show", "default")
		if strings.Count(out, "via ") != 1 || !strings.Contains(out, "via "+router.String()+" ") {
			return fmt.Errorf("got %q; want one by %v", out, router)
		}
		return nil
	})
}

// wantTwoRouters lets rdisc6 ask for the Router Advertisements of the link: those of the router, and from another
// address ours with the resolver.
func (l *lab) wantTwoRouters(router netip.Addr) {
	l.t.Helper()
	poll(l.t, 15*time.Second, "rdisc6", func() error {
		out, err := l.customer.try("rdisc6", "-r", "2", "-w", "1500", "access")
		if err != nil {
			return err
		}
		for advertisement := range strings.SplitSeq(out, "Hop limit") {
			ours := strings.Contains(advertisement, "Recursive DNS server     : "+resolver6)
			if ours && strings.Contains(advertisement, " from fe80:") && !strings.Contains(advertisement, " from "+router.String()) {
				return nil
			}
		}
		return fmt.Errorf("nothing of ours in:\n%s", out)
	})
}
