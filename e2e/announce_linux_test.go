package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAnnounceBesideRadvd has radvd advertise the customers' router on the same link as our announcer, from a host of its
// own and from the same. Hosts take addresses and the default route from the one, the resolver from the other; and when
// the announcer ends they forget the resolver, and only that.
func TestAnnounceBesideRadvd(t *testing.T) {
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

// TestAnnounceDHCPINFORM asks our announcer by DHCPv4, as a host that has its address from elsewhere. It must get only
// what it asks for.
func TestAnnounceDHCPINFORM(t *testing.T) {
	l := newLab(t)
	wire := l.record(l.customer, "access")
	l.announce("--dhcpv4")
	for _, asks := range []bool{true, false} {
		option := l.inform(asks)
		if asks {
			wantDesignated(t, "4", option)
		} else if option != nil {
			t.Errorf("got option 162 with %x without asking for it", option)
		}
	}
	wire.wantClean("dhcp.option.type == 162")
}

// inform sends DHCPINFORM until there is an answer, and returns the data of its option 162.
func (l *lab) inform(ask bool) (option []byte) {
	l.t.Helper()
	conn := l.customer.listenUDP(customer4 + ":68")
	defer conn.Close()
	var hardware net.HardwareAddr
	if err := l.customer.do(func() error {
		link, err := net.InterfaceByName("access")
		if err == nil {
			hardware = link.HardwareAddr
		}
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	// The fixed part of RFC 2131, Section 2, then the options: type, parameters, end.
	request := make([]byte, 236)
	copy(request, []byte{1, 1, 6, 0, 'c', 'f', 'r', 'd'})
	copy(request[12:], net.ParseIP(customer4).To4())
	copy(request[28:], hardware)
	request = append(request, 99, 130, 83, 99, 53, 1, 8, 55, 2, 1, 6)
	if ask {
		request = append(request[:len(request)-3], 3, 1, 6, 162)
	}
	request = append(request, 255)
	poll(l.t, 10*time.Second, "answer to DHCPINFORM", func() error {
		if _, err := conn.WriteToUDP(request, udpAddr("255.255.255.255", 67)); err != nil {
			return err
		}
		reply := make([]byte, 1500)
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(reply)
		if err != nil {
			return err
		}
		if n < 240 || string(reply[4:8]) != "cfrd" {
			return fmt.Errorf("got %x; want an answer", reply[:n])
		}
		for b := reply[240:n]; len(b) > 2 && b[0] != 255; b = b[2+int(b[1]):] {
			if b[0] == 162 {
				option = append(option, b[2:2+int(b[1])]...)
			}
		}
		return nil
	})
	return option
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
