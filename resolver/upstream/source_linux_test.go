package upstream

import (
	"math"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// TestMain runs the tests in a network namespace of their own, whose ports and settings are theirs.
func TestMain(m *testing.M) { netns.Main(m) }

// kernelFirst and kernelLast are the ports that the kernel draws from in the namespace of the tests below, few enough to
// take them all.
const kernelFirst, kernelLast = 40000, 40063

// takePorts has sockets as those of a relay's flows at all ports that the kernel draws from, but for three.
func takePorts(t *testing.T, network, egress string) {
	t.Helper()
	netns.Require(t)
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(kernelFirst)+" "+strconv.Itoa(kernelLast)), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(file, old, 0) })
	for port := kernelFirst; port < kernelLast-2; port++ {
		lc := net.ListenConfig{Control: sharePort}
		if network == "udp" {
			pc, err := lc.ListenPacket(t.Context(), network, net.JoinHostPort(egress, strconv.Itoa(port)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { pc.Close() })
			continue
		}
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Close(fd) })
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: netip.MustParseAddr(egress).As4()}); err != nil {
			t.Fatal(err)
		}
	}
}

// wantSpread fails unless ports are as if drawn from all there are: nearly all distinct, and in each eighth of the range
// about as many.
func wantSpread(t *testing.T, ports []uint16) {
	t.Helper()
	distinct, eighths := map[uint16]bool{}, [8]int{}
	for _, p := range ports {
		distinct[p] = true
		eighths[p>>13]++
	}
	// Of 400 draws of 64512, 1.2 are expected to be repeated, and 51 in each eighth but the first, of which an eighth
	// is left out.
	if len(distinct) < len(ports)-12 {
		t.Errorf("got %d distinct ports of %d, some %.1f bits; want 16", len(distinct), len(ports), math.Log2(float64(len(distinct))))
	}
	for i, n := range eighths {
		if n < len(ports)/32 {
			t.Errorf("got %d of %d ports from the eighth %d of all; want about an eighth", n, len(ports), i)
		}
	}
}

// TestUDPUpstreamPortsBesideRelay has a relay's flows at nearly all ports that the kernel draws from: the ports of queries
// are as hard to guess as without.
func TestUDPUpstreamPortsBesideRelay(t *testing.T) {
	for name, tt := range map[string]struct{ egress, server string }{
		"ipv4": {"127.90.0.1", "127.0.0.1:0"},
		"ipv6": {"::1", "[::1]:0"},
	} {
		t.Run(name, func(t *testing.T) {
			takePorts(t, "udp", tt.egress)
			pc, err := net.ListenPacket("udp", tt.server)
			if err != nil {
				t.Fatal(err)
			}
			var ports []uint16
			addr := udpServer(t, pc, func(query []byte, from net.Addr) {
				ports = append(ports, from.(*net.UDPAddr).AddrPort().Port())
				pc.WriteTo(answerTo(t, query), from)
			})
			u := newUDP(addr, testGroup(t))
			for range 400 {
				if err := exchange(t, u); err != nil {
					t.Fatal(err)
				}
			}
			wantSpread(t, ports)
		})
	}
}

// TestTCPUpstreamPortsBesideRelay is the same over TCP, where a kernel that draws leaves out every port to which a socket
// was bound.
func TestTCPUpstreamPortsBesideRelay(t *testing.T) {
	takePorts(t, "tcp", "127.90.0.1")
	ln := listenTCP(t, "127.0.0.1:0")
	var ports []uint16
	for range 400 {
		c, err := dialFrom(t.Context(), net.Dialer{}, "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, c.LocalAddr().(*net.TCPAddr).AddrPort().Port())
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	wantSpread(t, ports)
}

// TestUpstreamKeepsItsPort has another program try to bind what a query has, in a way that shares.
func TestUpstreamKeepsItsPort(t *testing.T) {
	pc := listenUDP(t)
	defer pc.Close()
	c, err := dialFrom(t.Context(), net.Dialer{}, "udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lc := net.ListenConfig{Control: sharePort}
	if other, err := lc.ListenPacket(t.Context(), "udp", c.LocalAddr().String()); err == nil {
		other.Close()
		t.Errorf("another socket got %v as well", c.LocalAddr())
	}
}
