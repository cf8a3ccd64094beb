package dnr

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// testNamespace is a network namespace of its own.
type testNamespace struct {
	t    *testing.T
	name string
}

// newTestNamespace skips t loudly if there is no right to make one, or fails it with E2E_REQUIRED=1.
func newTestNamespace(t *testing.T, suffix string) testNamespace {
	t.Helper()
	ns := testNamespace{t, fmt.Sprintf("announce%d%s", os.Getpid(), suffix)}
	if out, err := exec.Command("ip", "netns", "add", ns.name).CombinedOutput(); err != nil {
		if os.Getenv("E2E_REQUIRED") == "1" {
			t.Fatalf("E2E_REQUIRED=1 and no network namespace can be made: %v: %s", err, out)
		}
		t.Skipf("SKIPPED: no network namespace can be made: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", ns.name).Run() })
	return ns
}

func (ns testNamespace) ip(args ...string) {
	ns.t.Helper()
	if out, err := exec.Command("ip", append([]string{"-n", ns.name}, args...)...).CombinedOutput(); err != nil {
		ns.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// do runs f on a thread that is in ns and ends with it; sockets that f opens stay there.
func (ns testNamespace) do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+ns.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		errc <- err
	}()
	return <-errc
}

// system returns that of this host as seen from ns.
func (ns testNamespace) system() system {
	here := thisSystem()
	open := func(open openFunc) openFunc {
		return func(l linkState) (conn packetConn, err error) {
			err = ns.do(func() (err error) { conn, err = open(l); return err })
			return conn, err
		}
	}
	return system{
		look: func(name string) (l linkState, err error) {
			err = ns.do(func() (err error) { l, err = here.look(name); return err })
			return l, err
		},
		watch: func(ctx context.Context, name string, changed func(linkState)) error {
			return ns.do(func() error { return here.watch(ctx, name, changed) })
		},
		openND: open(here.openND), openDHCPv6: open(here.openDHCPv6), openDHCPv4: open(here.openDHCPv4),
		random: here.random,
	}
}

// veth is a link between a server and a host.
type veth struct{ server, host testNamespace }

func newVeth(t *testing.T) veth {
	t.Helper()
	v := veth{newTestNamespace(t, "s"), newTestNamespace(t, "h")}
	v.server.ip("link", "add", "lan0", "type", "veth", "peer", "name", "host0", "netns", v.host.name)
	v.server.ip("addr", "add", server6.String()+"/64", "dev", "lan0", "nodad")
	v.server.ip("addr", "add", server4.String()+"/24", "dev", "lan0")
	v.host.ip("addr", "add", host4.String()+"/24", "dev", "host0")
	v.server.ip("link", "set", "lan0", "up")
	v.host.ip("link", "set", "host0", "up")
	return v
}

// ends opens the host's sockets as soon as it has a link-local address.
func (v veth) ends(t *testing.T) hostEnds {
	t.Helper()
	var h hostEnds
	err := v.host.do(func() (err error) {
		ctx, ready := context.WithTimeout(t.Context(), 20*time.Second)
		defer ready()
		err = watch(ctx, "host0", func(l linkState) {
			if h.link = l; l.notReady6() == "" {
				ready()
			}
		})
		if err != nil {
			return err
		}
		if h.nd, err = openHostND(h.link); err != nil {
			return err
		}
		six, err := listenDHCP(h.link, "udp6", "::", dhcp6ClientPort, partDHCPv6)
		if err != nil {
			return err
		}
		h.dhcp6 = &dhcp6Conn{ipv6.NewPacketConn(six), h.link}
		four, err := listenDHCP(h.link, "udp4", "0.0.0.0", dhcp4ClientPort, partDHCPv4)
		h.dhcp4 = dhcp4Conn{four}
		return err
	})
	if err != nil || h.link.notReady6() != "" {
		t.Fatalf("got error %v on %+v; want a link that is ready", err, h.link)
	}
	// Reading ends with the test's time, which fails it.
	timer := time.AfterFunc(time.Minute, func() { h.close() })
	t.Cleanup(func() { timer.Stop(); h.close() })
	return h
}

// hostND sends from the host's address.
type hostND struct {
	packetConn
	link linkState
}

func openHostND(l linkState) (packetConn, error) {
	c, err := openND(l)
	return hostND{c, l}, err
}

func (h hostND) send(p packet) error {
	p.from = h.link.linkLocal
	return h.packetConn.send(p)
}

func (h hostEnds) close() {
	for _, c := range []packetConn{h.nd, h.dhcp6, h.dhcp4} {
		c.Close()
	}
}

// wait waits until text is logged.
func (l *lines) wait(t *testing.T, text string) {
	t.Helper()
	tick, limit := time.NewTicker(20*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for l.count(text) == 0 {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("got\n%swant %q in it", l.buf.String(), text)
		}
	}
}

// TestAnnouncerVeth is TestAnnouncer on a link of the kernel.
func TestAnnouncerVeth(t *testing.T) {
	t.Parallel()
	v := newVeth(t)
	h := v.ends(t)
	log := new(lines)
	cfg := everything(zerolog.New(log))
	cfg.MaxInterval = shortestMaxInterval
	_, stop := start(t, cfg, v.server.system())
	defer stop()
	testAnnouncer(t, h, stop)
	if t.Failed() {
		t.Log(log.buf.String())
	}
}

// TestAnnouncerVethChanges does to the interface what happens in the field. After each change, the announcer must come
// back by itself.
func TestAnnouncerVethChanges(t *testing.T) {
	t.Parallel()
	v := newVeth(t)
	h := v.ends(t)
	log := new(lines)
	cfg := everything(zerolog.New(log))
	cfg.DHCPv6, cfg.DHCPv4 = false, false
	_, stop := start(t, cfg, v.server.system())
	waitRA(t, h.nd)
	for _, change := range []struct {
		name       string
		away, back [][]string
		reason     string
	}{
		{
			"down", [][]string{{"link", "set", "lan0", "down"}},
			[][]string{{"link", "set", "lan0", "up"}}, "the interface is down",
		},
		{
			"renamed", [][]string{{"link", "set", "lan0", "down"}, {"link", "set", "lan0", "name", "wan0"}, {"link", "set", "wan0", "up"}},
			[][]string{{"link", "set", "wan0", "down"}, {"link", "set", "wan0", "name", "lan0"}, {"link", "set", "lan0", "up"}},
			"no such interface",
		},
		{
			"without-link-local", [][]string{{"addr", "flush", "dev", "lan0", "scope", "link"}},
			[][]string{{"addr", "add", "fe80::53/64", "dev", "lan0"}}, "no link-local address",
		},
	} {
		t.Run(change.name, func(t *testing.T) {
			for _, args := range change.away {
				v.server.ip(args...)
			}
			log.wait(t, change.reason)
			for _, args := range change.back {
				v.server.ip(args...)
			}
			waitRA(t, h.nd)
		})
	}
	h.close()
	stop()
}

// TestNotPermitted drops the right to open raw sockets on one thread.
func TestNotPermitted(t *testing.T) {
	v := newVeth(t)
	err := v.server.do(func() error {
		l, err := look("lan0")
		if err != nil {
			return err
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		_, err = openND(l)
		return err
	})
	if !isPermission(err) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("got error %v; want one that names CAP_NET_RAW", err)
	}
}

// TestPortTaken has a DHCP server on the same host.
func TestPortTaken(t *testing.T) {
	v := newVeth(t)
	var l linkState
	var other packetConn
	err := v.server.do(func() (err error) {
		if l, err = look("lan0"); err != nil {
			return err
		}
		other, err = openDHCPv4(l)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	cfg := everything(zerolog.Nop())
	_, err = newAnnouncer(cfg, v.server.system())
	if err == nil || !strings.Contains(err.Error(), "port 67") || !strings.Contains(err.Error(), "switch dhcpv4 off") {
		t.Errorf("got error %v; want one about port 67", err)
	}
	cfg.DHCPv4 = false
	if _, err = newAnnouncer(cfg, v.server.system()); err != nil {
		t.Errorf("got error %v without dhcpv4; want none", err)
	}
}

// TestLook reads addresses that must and must not be announced.
func TestLook(t *testing.T) {
	ns := newTestNamespace(t, "l")
	ns.ip("link", "add", "lan0", "type", "veth", "peer", "name", "host0")
	ns.ip("link", "set", "host0", "up")
	ns.ip("link", "set", "lan0", "up")
	ns.ip("addr", "add", "2001:db8::1/64", "dev", "lan0", "nodad", "preferred_lft", "0")
	ns.ip("addr", "add", "2001:db8::2/64", "dev", "lan0", "nodad")
	ns.ip("addr", "add", "192.0.2.1/24", "dev", "lan0")
	ns.ip("link", "property", "add", "dev", "lan0", "altname", "another-name")
	var l, missing, other linkState
	err := ns.do(func() (err error) {
		if l, err = look("lan0"); err != nil {
			return err
		}
		if missing, err = look("wan0"); err != nil {
			return err
		}
		other, err = look("another-name")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := l.usable(); len(got) != 2 || !l.exists() || !l.up || l.mtu != 1500 || len(l.mac) != 6 ||
		l.ipv4() != netip.MustParseAddr("192.0.2.1") || !l.onLink(netip.MustParseAddr("192.0.2.200")) {
		t.Errorf("got %+v; want two addresses", l)
	}
	if missing.exists() || other.exists() {
		t.Errorf("got %+v and %+v; want no interfaces", missing, other)
	}
}
