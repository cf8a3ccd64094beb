package announce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// asRoot reports whether the test may go on here. Without root it runs it again in a user namespace where it is root,
// and skips it loudly if there is no right to make one, or fails it with E2E_REQUIRED=1.
func asRoot(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `mount -t tmpfs tmpfs /run && exec "$@"`, "sh", os.Args[0],
		"-test.run=^"+t.Name()+"$", "-test.v")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	_, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case failed:
		t.Errorf("in a user namespace:\n%s", out)
	case err != nil && os.Getenv("E2E_REQUIRED") == "1":
		t.Errorf("E2E_REQUIRED=1 and no user namespace can be made: %v", err)
	case err != nil:
		t.Skipf("SKIPPED: no user namespace can be made: %v", err)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("%s", out)
	}
	return false
}

// testNamespace is a network namespace of its own.
type testNamespace struct {
	t    *testing.T
	name string
}

// newTestNamespace skips t loudly if there is no right to make one, or fails it with E2E_REQUIRED=1.
func newTestNamespace(t *testing.T, suffix string) testNamespace {
	t.Helper()
	ns := testNamespace{t, fmt.Sprintf("announce%d-%s-%s", os.Getpid(), t.Name(), suffix)}
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
		return func(l link.State) (conn link.Conn, err error) {
			err = ns.do(func() (err error) { conn, err = open(l); return err })
			return conn, err
		}
	}
	return system{
		look: func(name string) (l link.State, err error) {
			err = ns.do(func() (err error) { l, err = here.look(name); return err })
			return l, err
		},
		watch: func(ctx context.Context, name string, changed func(link.State)) error {
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
		err = link.Watch(ctx, "host0", func(l link.State) {
			if h.link = l; l.NotReady6() == "" {
				ready()
			}
		})
		if err != nil {
			return err
		}
		if h.nd, err = openHostND(h.link); err != nil {
			return err
		}
		if h.dhcp6, err = listenHost(h.link, "udp6", "[::]:546"); err != nil {
			return err
		}
		h.dhcp4, err = listenHost(h.link, "udp4", "0.0.0.0:68")
		return err
	})
	if err != nil || h.link.NotReady6() != "" {
		t.Fatalf("got error %v on %+v; want a link that is ready", err, h.link)
	}
	// Reading ends with the test's time, which fails it.
	timer := time.AfterFunc(time.Minute, func() { h.close() })
	t.Cleanup(func() { timer.Stop(); h.close() })
	return h
}

// hostUDP is the socket of a DHCP client.
type hostUDP struct {
	*net.UDPConn
	link link.State
}

func listenHost(l link.State, network, address string) (link.Conn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), l.Name) }), err)
	}}
	pc, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return hostUDP{pc.(*net.UDPConn), l}, nil
}

func (h hostUDP) Receive(buf []byte) (link.Packet, error) {
	n, from, err := h.ReadFromUDPAddrPort(buf)
	return link.Packet{Peer: netip.AddrPortFrom(from.Addr().WithZone("").Unmap(), from.Port()), Data: buf[:n]}, err
}

func (h hostUDP) Send(p link.Packet) error {
	to := p.Peer
	if to.Addr().Is6() {
		to = netip.AddrPortFrom(to.Addr().WithZone(h.link.Name), to.Port())
	}
	_, err := h.WriteToUDPAddrPort(p.Data, to)
	return err
}

// hostND sends from the host's address.
type hostND struct {
	link.Conn
	link link.State
}

func openHostND(l link.State) (link.Conn, error) {
	c, err := link.OpenND(l)
	return hostND{c, l}, err
}

func (h hostND) Send(p link.Packet) error {
	p.From = h.link.LinkLocal
	return h.Conn.Send(p)
}

func (h hostEnds) close() {
	for _, c := range []link.Conn{h.nd, h.dhcp6, h.dhcp4} {
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
	if !asRoot(t) {
		return
	}
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
	if !asRoot(t) {
		return
	}
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
			"down",
			[][]string{{"link", "set", "lan0", "down"}},
			[][]string{{"link", "set", "lan0", "up"}},
			"the interface is down",
		},
		{
			"renamed",
			[][]string{{"link", "set", "lan0", "down"}, {"link", "set", "lan0", "name", "wan0"}, {"link", "set", "wan0", "up"}},
			[][]string{{"link", "set", "wan0", "down"}, {"link", "set", "wan0", "name", "lan0"}, {"link", "set", "lan0", "up"}},
			"no such interface",
		},
		{
			"without-link-local",
			[][]string{{"addr", "flush", "dev", "lan0", "scope", "link"}},
			[][]string{{"addr", "add", "fe80::53/64", "dev", "lan0"}},
			"no link-local address",
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
	if !asRoot(t) {
		return
	}
	v := newVeth(t)
	err := v.server.do(func() error {
		l, err := link.Look("lan0")
		if err != nil {
			return err
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		_, err = link.OpenND(l)
		return err
	})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("got error %v; want one that names CAP_NET_RAW", err)
	}
}

// TestPortTaken has a DHCP server on the same host.
func TestPortTaken(t *testing.T) {
	if !asRoot(t) {
		return
	}
	v := newVeth(t)
	var l link.State
	var other link.Conn
	err := v.server.do(func() (err error) {
		if l, err = link.Look("lan0"); err != nil {
			return err
		}
		other, err = link.OpenDHCPv4(l)
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
	if !asRoot(t) {
		return
	}
	ns := newTestNamespace(t, "l")
	ns.ip("link", "add", "lan0", "type", "veth", "peer", "name", "host0")
	ns.ip("link", "set", "host0", "up")
	ns.ip("link", "set", "lan0", "up")
	ns.ip("addr", "add", "2001:db8::1/64", "dev", "lan0", "nodad", "preferred_lft", "0")
	ns.ip("addr", "add", "2001:db8::2/64", "dev", "lan0", "nodad")
	ns.ip("addr", "add", "192.0.2.1/24", "dev", "lan0")
	ns.ip("link", "property", "add", "dev", "lan0", "altname", "another-name")
	var l, missing, other link.State
	err := ns.do(func() (err error) {
		if l, err = link.Look("lan0"); err != nil {
			return err
		}
		if missing, err = link.Look("wan0"); err != nil {
			return err
		}
		other, err = link.Look("another-name")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Usable(); len(got) != 2 || !l.Exists() || !l.Up || l.MTU != 1500 || len(l.MAC) != 6 ||
		l.IPv4() != netip.MustParseAddr("192.0.2.1") || !l.OnLink(netip.MustParseAddr("192.0.2.200")) {
		t.Errorf("got %+v; want two addresses", l)
	}
	if missing.Exists() || other.Exists() {
		t.Errorf("got %+v and %+v; want no interfaces", missing, other)
	}
}
