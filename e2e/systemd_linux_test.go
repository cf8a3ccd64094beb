package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
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
