package relay

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests of this file run in network namespaces of their own:
//
//	client and relay            destination
//	          veth0 ------------ veth1
//	198.51.100.1/24              198.51.100.2/24
//	2001:db8:1::1/64             2001:db8:1::2/64
//
//	relay addresses  203.0.113.0/24, 2001:db8:cf::/64   (local in the first)
//	egress           192.0.2.0/24, 2001:db8:e::/64      (local in the first, routed to it by the second)

const namespaceEnv = "RELAY_TEST_NAMESPACE"

// inNamespace runs the test again in a new network namespace, unless it is in one already, and reports whether it
// still has to run here.
func inNamespace(t *testing.T) bool {
	t.Helper()
	switch os.Getenv(namespaceEnv) {
	case "relay":
		return true
	case "":
	default:
		t.SkipNow()
	}
	cmd := namespaceCommand(t, "relay")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		t.Errorf("in a namespace:\n%s", out)
	case err != nil && os.Getenv("E2E_REQUIRED") != "1":
		t.Skipf("SKIPPED, no right to make a network namespace: %v", err)
	case err != nil:
		t.Fatal(err)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("%s", out)
	}
	return false
}

// namespaceCommand returns the command that runs this test in a new network namespace.
func namespaceCommand(t *testing.T, role string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), namespaceEnv+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// ip runs ip(8), in the namespace of a process unless pid is 0.
func ip(t *testing.T, pid int, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		args := append([]string{"ip"}, strings.Fields(line)...)
		if pid != 0 {
			args = append([]string{"nsenter", "-t", strconv.Itoa(pid), "-n"}, args...)
		}
		if len(strings.Fields(line)) == 0 {
			continue
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
}

// bed is the network of the tests.
type bed struct {
	relay       *Relay
	destination int // process in the namespace of the destination
}

const bedPort = 4443

// newBed sets up the network and runs a relay in it, and in the destination's namespace nothing but the kernel.
func newBed(t *testing.T) *bed {
	t.Helper()
	cat := exec.CommandContext(t.Context(), "cat")
	stdin, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cat.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cat.Wait()
	})
	b := &bed{destination: cat.Process.Pid}
	noDAD(t, 0)
	noDAD(t, b.destination)
	ip(t, 0, `
		link set lo up
		link add veth0 type veth peer name veth1
		link set veth1 netns `+strconv.Itoa(b.destination)+`
		link set veth0 up
		addr add 198.51.100.1/24 dev veth0
		addr add 2001:db8:1::1/64 dev veth0 nodad
		route add local 203.0.113.0/24 dev lo
		route add local 192.0.2.0/24 dev lo
		-6 route add local 2001:db8:cf::/64 dev lo
		-6 route add local 2001:db8:e::/64 dev lo`)
	ip(t, b.destination, `
		link set lo up
		link set veth1 up
		addr add 198.51.100.2/24 dev veth1
		addr add 2001:db8:1::2/64 dev veth1 nodad
		route add 192.0.2.0/24 via 198.51.100.1
		-6 route add 2001:db8:e::/64 via 2001:db8:1::1`)
	b.relay = b.newRelay(t)
	return b
}

// noDAD makes IPv6 addresses usable at once.
func noDAD(t *testing.T, pid int) {
	t.Helper()
	args := []string{"sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad"}
	if pid != 0 {
		args = append([]string{"nsenter", "-t", strconv.Itoa(pid), "-n"}, args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func (b *bed) newRelay(t *testing.T) *Relay {
	t.Helper()
	r, err := newRelay(Config{
		Ports: []uint16{bedPort},
		Settings: Settings{
			Clients:      prefixes("198.51.100.0/24", "2001:db8:1::/64"),
			Egress:       prefixes("192.0.2.0/24", "2001:db8:e::/64"),
			AllowSpecial: prefixes("198.51.100.0/24", "2001:db8:1::/64"),
		},
		Limits: Limits{DrainTimeout: 1},
	}, bedMap{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func prefixes(s ...string) (p []netip.Prefix) {
	for _, s := range s {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// Relay addresses of bedMap.
const (
	relay4to4 = "203.0.113.4"
	relay6to4 = "2001:db8:cf::4"
	relay6to6 = "2001:db8:cf::6"
)

// bedMap maps to the destination.
type bedMap struct{}

func (bedMap) Acquire(relay netip.Addr) (netip.Addr, func(), bool) {
	dst := map[string]string{relay4to4: "198.51.100.2", relay6to4: "198.51.100.2", relay6to6: "2001:db8:1::2"}
	to, ok := dst[relay.String()]
	if !ok {
		return netip.Addr{}, nil, false
	}
	return netip.MustParseAddr(to), func() {}, true
}

func (m bedMap) Contains(addr netip.Addr) bool {
	for _, p := range m.Prefixes() {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func (bedMap) Prefixes() []netip.Prefix { return prefixes("203.0.113.0/24", "2001:db8:cf::/64") }

// dialBed connects a client to a relay address.
func dialBed(t *testing.T, relay string) *net.UDPConn {
	t.Helper()
	local := "198.51.100.1"
	if strings.Contains(relay, ":") {
		local = "2001:db8:1::1"
	}
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(local)}, &net.UDPAddr{IP: net.ParseIP(relay), Port: bedPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return soon(t, c)
}

// setOpt sets socket options.
func setOpt(t testing.TB, c syscall.Conn, opts ...sockopt) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for _, o := range opts {
			if err := unix.SetsockoptInt(int(fd), o.level, o.name, o.value); err != nil {
				t.Errorf("option %v: %v", o, err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// listenDestination opens the destination's socket: made in its namespace, used here.
func (b *bed) listenDestination(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	type result struct {
		c   net.PacketConn
		err error
	}
	ch := make(chan result)
	go func() {
		lockNamespace(b.destination) // this thread ends with the goroutine
		c, err := net.ListenPacket("udp", net.JoinHostPort(addr, strconv.Itoa(bedPort)))
		ch <- result{c, err}
	}()
	res := <-ch
	if res.err != nil {
		t.Fatal(res.err)
	}
	t.Cleanup(func() { res.c.Close() })
	return soon(t, res.c.(*net.UDPConn))
}

var families = []struct{ name, relay, destination string }{
	{"ipv4", relay4to4, "198.51.100.2"},
	{"ipv6-to-ipv4", relay6to4, "198.51.100.2"},
	{"ipv6", relay6to6, "2001:db8:1::2"},
}

func TestUDPNamespaceBothWays(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	ip(t, 0, "link set lo mtu 1500") // the client's way to the relay
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			dst := b.listenDestination(t, fam.destination)
			c := dialBed(t, fam.relay)
			// A large one comes in fragments, and has to go on in fragments, both ways.
			for _, size := range []int{0, 1, 1200, 1452, 5000, 60000} {
				data := randomBytes(size)
				from := exchange(t, c, dst, data)
				reply(t, dst, data, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
				if got, _ := receive(t, c); !bytes.Equal(got, data) {
					t.Errorf("client got %d bytes; want %d", len(got), size)
				}
			}
		})
	}
}

func TestUDPNamespaceUnreachable(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newBed(t)
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			c := dialBed(t, fam.relay)
			for range 2 { // the flow outlives the first
				send(t, c, []byte("nobody listens"))
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("got %v; want %v", err, syscall.ECONNREFUSED)
				}
			}
		})
	}
}

func TestUDPNamespaceRefusals(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	for _, addr := range []string{"203.0.113.99", "2001:db8:cf::99"} {
		c := dialBed(t, addr)
		send(t, c, []byte("no mapping"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: got %v; want %v", addr, err, syscall.ECONNREFUSED)
		}
	}
	set := Settings{
		Clients: prefixes("10.0.0.0/8"),
		Egress:  prefixes("192.0.2.0/24", "2001:db8:e::/64"),
	}
	if err := b.relay.Update(set); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]error{relay4to4: syscall.EHOSTUNREACH, relay6to6: syscall.EACCES} {
		c := dialBed(t, addr)
		send(t, c, []byte("not a client"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("%s: got %v; want %v", addr, err, want)
		}
	}
}

func TestUDPNamespaceTooBig(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	ip(t, 0, "link set veth0 mtu 1400")
	tests := []struct {
		name, relay, destination string
		mtu                      int
	}{
		{"ipv4", relay4to4, "198.51.100.2", 1400},
		{"ipv6-to-ipv4", relay6to4, "198.51.100.2", 1420},
		{"ipv6", relay6to6, "2001:db8:1::2", 1400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dst := b.listenDestination(t, tt.destination)
			c := dialBed(t, tt.relay)
			setOpt(t, c, sockopt{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO})
			if strings.Contains(tt.relay, ":") {
				setOpt(t, c, sockopt{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO},
					sockopt{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1})
			}
			send(t, c, randomBytes(1380))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("got %v; want %v", err, syscall.EMSGSIZE)
			}
			if got := learnedMTU(t, c, tt.relay); got != tt.mtu {
				t.Errorf("got a path MTU of %d; want %d", got, tt.mtu)
			}
			exchange(t, c, dst, randomBytes(1300)) // the flow goes on
		})
	}
}

// A client that is gone says so, and the destination hears it.
func TestUDPNamespaceClientGone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			dst := b.listenDestination(t, fam.destination)
			c, other := dialBed(t, fam.relay), dialBed(t, fam.relay)
			confirmBed(t, other, dst)
			from := exchange(t, c, dst, randomBytes(1200))
			c.Close()
			family := strings.Contains(fam.destination, ":")
			o := ipOptionsOf(family)
			setOpt(t, dst, sockopt{o.level, o.errors, 1})
			reply(t, dst, []byte("too late"), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
			if _, err := dst.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("got %v; want %v", err, syscall.ECONNREFUSED)
			}
			reply(t, dst, []byte("never"), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
			exchange(t, other, dst, []byte("others go on"))
			waitFor(t, "the datagram to be dropped", func() bool { return b.relay.Stats().Unconfirmed > 0 })
			b.relay.stats.unconfirmed.Store(0)
		})
	}
}

// A group of which some datagrams exceed the MTU loses these and no others.
func TestUDPNamespaceGroupTooBig(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	ip(t, 0, "link set veth0 mtu 1400")
	dst := b.listenDestination(t, "198.51.100.2")
	c := dialBed(t, relay4to4)
	exchange(t, c, dst, []byte("begin"))
	tooBig := randomBytes(3*1380 + 1000)
	sendGroup(t, c, netip.AddrPort{}, tooBig, 1380)
	if got, _ := receive(t, dst); !bytes.Equal(got, tooBig[3*1380:]) {
		t.Errorf("got %d bytes; want the last 1000 of the group", len(got))
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("got %v; want %v", err, syscall.EMSGSIZE)
	}
	fits := randomBytes(5 * 1372)
	sendGroup(t, c, netip.AddrPort{}, fits, 1372)
	for i := range 5 {
		if got, _ := receive(t, dst); !bytes.Equal(got, fits[i*1372:][:1372]) {
			t.Errorf("datagram %d: got %d others; want these 1372 bytes", i, len(got))
		}
	}
	if !b.relay.udp.gso.Load() {
		t.Error("groups are off; want them off for that group only")
	}
}

// A reply that is too big is reported to the destination, in terms of its own family.
func TestUDPNamespaceReplyTooBig(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	ip(t, 0, "link set lo mtu 1500")
	for _, tt := range []struct {
		name, relay, destination string
		size, mtu                int
	}{
		{"ipv6-to-ipv4", relay6to4, "198.51.100.2", 1472, 1480},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dst := b.listenDestination(t, tt.destination)
			setOpt(t, dst, sockopt{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO},
				sockopt{unix.IPPROTO_IP, unix.IP_RECVERR, 1})
			c := dialBed(t, tt.relay)
			from := exchange(t, c, dst, randomBytes(1200))
			reply(t, dst, randomBytes(tt.size), from)
			if _, err := dst.Read(make([]byte, 1)); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("got %v; want %v", err, syscall.EMSGSIZE)
			}
			reply(t, dst, randomBytes(tt.mtu-28), from)
			if got, _ := receive(t, c); len(got) != tt.mtu-28 {
				t.Errorf("got %d bytes; want %d", len(got), tt.mtu-28)
			}
		})
	}
}

// learnedMTU returns what the kernel has learned.
func learnedMTU(t *testing.T, c *net.UDPConn, relay string) (mtu int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	level, name := unix.IPPROTO_IP, unix.IP_MTU
	if strings.Contains(relay, ":") {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	if err := raw.Control(func(fd uintptr) {
		if mtu, err = unix.GetsockoptInt(int(fd), level, name); err != nil {
			t.Errorf("path MTU: %v", err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return mtu
}

func TestUDPNamespaceECN(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			dst := b.listenDestination(t, fam.destination)
			c := dialBed(t, fam.relay)
			confirmBed(t, c, dst)
			for _, ecn := range []int{0, 1, 2, 3, 0} {
				mark(t, c, fam.relay, ecn|0x28) // a DSCP is not passed on
				send(t, c, []byte("out"))
				got, from := receiveECN(t, dst)
				if got != ecn {
					t.Errorf("destination: got ECN %d; want %d", got, ecn)
				}
				mark(t, dst, fam.destination, ecn)
				reply(t, dst, []byte("back"), from)
				if got, _ := receiveECN(t, c); got != ecn {
					t.Errorf("client: got ECN %d; want %d", got, ecn)
				}
			}
		})
	}
}

func confirmBed(t *testing.T, c, dst *net.UDPConn) {
	t.Helper()
	from := exchange(t, c, dst, randomBytes(1200))
	reply(t, dst, []byte("reply"), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	receive(t, c)
	exchange(t, c, dst, []byte("confirm"))
}

// mark sets the field of what c sends.
func mark(t *testing.T, c *net.UDPConn, family string, tos int) {
	t.Helper()
	if strings.Contains(family, ":") {
		setOpt(t, c, sockopt{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos}, sockopt{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1})
		return
	}
	setOpt(t, c, sockopt{unix.IPPROTO_IP, unix.IP_TOS, tos}, sockopt{unix.IPPROTO_IP, unix.IP_RECVTOS, 1})
}

// receiveECN returns the whole field that the next datagram was marked with.
func receiveECN(t *testing.T, c *net.UDPConn) (tos int, from netip.AddrPort) {
	t.Helper()
	setOpt(t, c, sockopt{unix.IPPROTO_IP, unix.IP_RECVTOS, 1})
	oob := make([]byte, 128)
	_, n, _, from, err := c.ReadMsgUDPAddrPort(make([]byte, 2048), oob)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range msgs {
		if m.Header.Type == unix.IP_TOS || m.Header.Type == unix.IPV6_TCLASS {
			tos = int(m.Data[0])
		}
	}
	return tos, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// lockNamespace moves the thread of the calling goroutine into the namespace of a process.
func lockNamespace(pid int) {
	runtime.LockOSThread()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		panic(err)
	}
}
