package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses of the lab, see doc.go.
const (
	customer4  = "10.0.0.2"
	customer6  = "2001:db8:1::2"
	stranger4  = "10.0.0.66"
	resolver4  = "10.0.0.53"
	resolver6  = "2001:db8:1::53"
	origin4    = "198.51.100.2"
	origin6    = "2001:db8:2::2"
	unbound4   = "198.51.100.53"
	nsd4       = "198.51.100.54"
	adn        = "dns.isp.example"
	relayPool4 = "10.99.0.0/16"
	relayPool6 = "2001:db8:cf1::/64"
	relaySeal6 = "2001:db8:cf::/64"
	egress4    = "192.0.2.64/28"
	egress6    = "2001:db8:e::/64"
)

// required reports whether a test may not be skipped.
func required() bool { return os.Getenv("E2E_REQUIRED") == "1" }

// skip skips t loudly, or fails it if nothing may be skipped.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if required() {
		t.Fatalf("E2E_REQUIRED=1 and "+format, args...)
	}
	t.Skipf("SKIPPED: "+format, args...)
}

// need skips t unless every program is installed.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := lookPath(p); err != nil {
			skip(t, "%s is not installed; e2e/test.sh installs it", p)
		}
	}
}

// lookPath finds a program, also where Debian keeps daemons.
func lookPath(program string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path := filepath.Join(dir, program); isExecutable(path) {
			return path, nil
		}
	}
	return exec.LookPath(program)
}

func isExecutable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// buildOnce builds the binary under test once for all tests, unless E2E_CFRD says where one is.
var buildOnce = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("E2E_CFRD"); bin != "" {
		return bin, nil
	}
	dir, err := os.MkdirTemp("", "cfrd-e2e-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "cfrd")
	args := []string{"build", "-o", bin}
	if os.Getenv("E2E_RACE") == "1" {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../cmd/cfrd")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, os.Chmod(dir, 0o755)
})

// cfrd returns the path of the built cfrd.
func cfrd(t testing.TB) string {
	t.Helper()
	bin, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func TestMain(m *testing.M) {
	if spec := os.Getenv(attackerRole); spec != "" {
		os.Exit(attack(spec))
	}
	code := m.Run()
	if bin, err := buildOnce(); err == nil && os.Getenv("E2E_CFRD") == "" {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// namespace is one host of the lab: a network namespace with a name of its own.
type namespace struct {
	t    testing.TB
	name string
}

// lab is the three hosts.
type lab struct {
	t                            testing.TB
	dir                          string
	customer, provider, internet namespace
}

// newLab makes the hosts and the links between them; they are gone when t ends.
func newLab(t testing.TB) *lab {
	t.Helper()
	need(t, "ip")
	id := fmt.Sprintf("cfrd%d-%d", os.Getpid(), labCount.next())
	l := &lab{t: t, dir: t.TempDir()}
	// nginx, NSD and Unbound drop their rights, and read what we write for them.
	for d := l.dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []struct {
		ns   *namespace
		name string
	}{{&l.customer, "c"}, {&l.provider, "p"}, {&l.internet, "i"}} {
		*h.ns = namespace{t: t, name: id + h.name}
		if out, err := exec.Command("ip", "netns", "add", h.ns.name).CombinedOutput(); err != nil {
			skip(t, "a network namespace cannot be made (%s): run e2e/test.sh, or as root", bytes.TrimSpace(out))
		}
		t.Cleanup(func() { exec.Command("ip", "netns", "del", h.ns.name).Run() })
	}
	l.link(l.customer, "access", l.provider, "access")
	l.link(l.provider, "core", l.internet, "core")
	l.addresses()
	return l
}

// counter numbers the labs of one test binary.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) next() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n
}

var labCount counter

func (l *lab) link(a namespace, aName string, b namespace, bName string) {
	l.t.Helper()
	a.must("ip", "link", "add", aName, "type", "veth", "peer", "name", bName, "netns", b.name)
}

func (l *lab) addresses() {
	l.t.Helper()
	for _, ns := range []namespace{l.customer, l.provider, l.internet} {
		ns.must("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
		ns.must("ip", "link", "set", "lo", "up")
	}
	add := func(ns namespace, dev string, addrs ...string) {
		ns.must("sysctl", "-qw", "net.ipv6.conf."+dev+".accept_dad=0")
		ns.must("ip", "link", "set", dev, "up")
		for _, a := range addrs {
			ns.must("ip", "addr", "add", a, "dev", dev)
		}
	}
	add(l.customer, "access", customer4+"/24", stranger4+"/24", customer6+"/64")
	add(l.provider, "access", "10.0.0.1/24", resolver4+"/24", "2001:db8:1::1/64", resolver6+"/64")
	add(l.provider, "core", "198.51.100.1/24", "2001:db8:2::1/64")
	add(l.internet, "core", origin4+"/24", unbound4+"/24", nsd4+"/24", origin6+"/64")

	l.customer.must("ip", "route", "add", "default", "via", "10.0.0.1", "src", customer4)
	l.customer.must("ip", "-6", "route", "add", "default", "via", "2001:db8:1::1")
	l.provider.must("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	for _, prefix := range []string{"10.0.0.0/24", egress4} {
		l.internet.must("ip", "route", "add", prefix, "via", "198.51.100.1")
	}
	for _, prefix := range []string{"2001:db8:1::/64", egress6} {
		l.internet.must("ip", "-6", "route", "add", prefix, "via", "2001:db8:2::1")
	}
}

// command returns a command that runs in ns.
func (ns namespace) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	if path, err := lookPath(program); err == nil {
		program = path
	}
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", ns.name, program}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// must runs a command in ns and returns its standard output; t fails if it fails.
func (ns namespace) must(program string, args ...string) string {
	ns.t.Helper()
	out, err := ns.try(program, args...)
	if err != nil {
		ns.t.Fatalf("%s: %s %s: %v", ns.name, program, strings.Join(args, " "), err)
	}
	return out
}

// try runs a command in ns for at most 30 s and returns its standard output.
func (ns namespace) try(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ns.t.Context(), 30*time.Second)
	defer cancel()
	var stderr bytes.Buffer
	cmd := ns.command(ctx, program, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%w\n%s%s", err, out, stderr.Bytes())
	}
	return string(out), nil
}

// do runs f on a thread that is in ns; sockets that f opens stay there. f must not start goroutines that open more,
// except through the standard library's dialers that it calls itself.
func (ns namespace) do(f func() error) error {
	ns.t.Helper()
	errc := make(chan error, 1)
	go func() {
		// The thread is never unlocked, and so ends with this goroutine instead of going back to the pool.
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+ns.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			errc <- err
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			errc <- err
			return
		}
		errc <- f()
	}()
	return <-errc
}

// dial connects from within ns.
func (ns namespace) dial(network, local, remote string) (net.Conn, error) {
	var c net.Conn
	err := ns.do(func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second}
		if local != "" {
			d.LocalAddr = localAddr(network, local)
		}
		c, err = d.Dial(network, remote)
		return err
	})
	return c, err
}

func localAddr(network, addr string) net.Addr {
	ap := netip.AddrPortFrom(netip.MustParseAddr(addr), 0)
	if strings.HasPrefix(network, "udp") {
		return net.UDPAddrFromAddrPort(ap)
	}
	return net.TCPAddrFromAddrPort(ap)
}

// listenUDP opens a UDP socket within ns.
func (ns namespace) listenUDP(addr string) *net.UDPConn {
	ns.t.Helper()
	var pc *net.UDPConn
	err := ns.do(func() (err error) {
		pc, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		return err
	})
	if err != nil {
		ns.t.Fatal(err)
	}
	return pc
}

// process is a program that runs in the background.
type process struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	output *log
	done   chan struct{}
	err    error // of Wait; valid once done is closed
}

// log collects what a process writes.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start runs a program in ns until t ends. Its output is shown if t fails.
func (ns namespace) start(program string, args ...string) *process {
	ns.t.Helper()
	p := &process{t: ns.t, name: program, output: &log{}, done: make(chan struct{})}
	p.cmd = ns.command(context.Background(), program, args...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	// A test binary that dies takes its programs with it. The lock keeps the thread alive that they hang on.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		ns.t.Fatalf("start %s: %v", program, err)
	}
	ns.t.Cleanup(func() {
		p.kill()
		if ns.t.Failed() {
			ns.t.Logf("%s said:\n%s", program, tail(p.output.String(), 6000))
		}
	})
	return p
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + s[len(s)-n:]
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// kill ends the process at once and waits for it.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// wait waits for the process to end by itself.
func (p *process) wait(limit time.Duration) error {
	p.t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		p.t.Fatalf("%s still runs after %v", p.name, limit)
		return nil
	}
}

// poll calls f until it returns nil, and fails t with its last error when the time is over.
func poll(t testing.TB, limit time.Duration, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	var err error
	for {
		if err = f(); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		}
	}
}

// write puts a file into the lab's folder and returns its path.
func (l *lab) write(name, content string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return path
}

func (l *lab) read(name string) string {
	l.t.Helper()
	b, err := os.ReadFile(filepath.Join(l.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		l.t.Fatal(err)
	}
	return string(b)
}

// readAll drains c with a deadline.
func readAll(c net.Conn, limit time.Duration) ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	return io.ReadAll(c)
}

// dialDoH connects from the customer's host to cfrd's DoH listener, whatever the URL says.
func (l *lab) dialDoH(context.Context, string, string) (net.Conn, error) {
	return l.customer.dial("tcp", "", resolver4+":443")
}

func udpAddr(addr string, port uint16) *net.UDPAddr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), port))
}
