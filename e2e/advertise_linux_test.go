package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// advertisement is a Router Advertisement that was seen on a link, read by other means than cfrd's.
type advertisement struct {
	from, to       netip.Addr
	hops           byte
	routerLifetime uint16
	lifetimes      []uint32     // of its Encrypted DNS options
	designated     []designated // in them
}

// parseRouterAdvertisement reads an Ethernet frame; ok is false if there is something else in it.
func parseRouterAdvertisement(frame []byte) (a advertisement, ok bool) {
	const ethernet, ip, icmp = 14, 40, 16
	if len(frame) < ethernet+ip+icmp || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IPV6 ||
		frame[ethernet+6] != unix.IPPROTO_ICMPV6 || frame[ethernet+ip] != 134 {
		return a, false
	}
	a.hops = frame[ethernet+7]
	a.from, _ = netip.AddrFromSlice(frame[ethernet+8 : ethernet+24])
	a.to, _ = netip.AddrFromSlice(frame[ethernet+24 : ethernet+40])
	a.routerLifetime = binary.BigEndian.Uint16(frame[ethernet+ip+6:])
	for b := frame[ethernet+ip+icmp:]; len(b) >= 8 && b[1] > 0 && int(b[1])*8 <= len(b); b = b[int(b[1])*8:] {
		if o := b[:int(b[1])*8]; o[0] == 144 {
			a.lifetimes = append(a.lifetimes, binary.BigEndian.Uint32(o[4:]))
			a.designated = append(a.designated, parseAdvertised(o))
		}
	}
	return a, true
}

// parseAdvertised reads an Encrypted DNS option, which has more lengths in it than that of DHCPv6.
func parseAdvertised(o []byte) designated {
	name := 2 + int(binary.BigEndian.Uint16(o[8:]))
	addrs := 2 + int(binary.BigEndian.Uint16(o[8+name:]))
	params := o[8+name+addrs:]
	rest := params[2 : 2+binary.BigEndian.Uint16(params)]
	d, err := parseDesignated(bytes.Join([][]byte{o[2:4], o[8 : 8+name+addrs], rest}, nil), 2, 16)
	if err != nil {
		return designated{adn: err.Error()}
	}
	return d
}

// advertisements are all Router Advertisements on a link since a test began to listen.
type advertisements struct {
	mu   sync.Mutex
	list []advertisement
}

func (l *lab) hearAdvertisements() *advertisements {
	h := new(advertisements)
	l.customer.tap("access", func(frame []byte) {
		if a, ok := parseRouterAdvertisement(frame); ok {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.list = append(h.list, a)
		}
	})
	return h
}

// count returns how many there are, from the one with index from on, that match.
func (h *advertisements) count(from int, match func(advertisement) bool) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.list[from:] {
		if match(a) {
			n++
		}
	}
	return n
}

func (h *advertisements) all() int {
	return h.count(0, func(advertisement) bool { return true })
}

// ours reports whether a is what cfrd should say.
func ours(a advertisement) bool { return len(a.designated) > 0 && a.lifetimes[0] > 0 }

// farewell reports whether a takes back what cfrd said.
func farewell(a advertisement) bool { return len(a.designated) > 0 && a.lifetimes[0] == 0 }

func (h *advertisements) wait(t testing.TB, from int, what string, match func(advertisement) bool) {
	t.Helper()
	poll(t, 20*time.Second, what, func() error {
		if h.count(from, match) == 0 {
			return errors.New("no such Router Advertisement")
		}
		return nil
	})
}

// rdisc6 solicits and returns what rdisc6 says of the Router Advertisement that comes.
func (l *lab) rdisc6(more ...string) string {
	l.t.Helper()
	return l.customer.must("rdisc6", append(more, "access")...)
}

const announceAll = `dnr:
  announce:
    - {interface: access, ra: true, dhcpv6: true, dhcpv4: true, max_interval: 10s, pvd: true}`

// TestAnnounce hands out what serve runs by Router Advertisements, DHCPv6 and DHCPv4.
func TestAnnounce(t *testing.T) {
	need(t, "rdisc6", "tshark", "dhclient")
	l := newLab(t)
	heard, wire := l.hearAdvertisements(), l.record(l.customer, "access")
	ca := l.newAuthority()
	d := l.startCfrd(l.config(ca, settings{more: announceAll}))
	heard.wait(t, 0, "a Router Advertisement", ours)
	for _, a := range heard.list {
		if a.hops != 255 || a.routerLifetime != 0 || !a.from.IsLinkLocalUnicast() {
			t.Errorf("got %+v; want hop limit 255 and no default router", a)
		}
		for i, d := range a.designated {
			if d.adn != adn+"." || len(d.addresses) != 1 || d.addresses[0].String() != resolver6 || a.lifetimes[i] != 30 {
				t.Errorf("got %+v for %d s; want %s at %s for 30 s", d, a.lifetimes[i], adn, resolver6)
			}
		}
		if len(a.designated) != 3 {
			t.Errorf("got %d ways to the resolver; want DoH, DoQ and DoT", len(a.designated))
		}
	}
	out := l.rdisc6("-1")
	for _, want := range []string{"Router lifetime           :            0", "Recursive DNS server     : " + resolver6, "from fe80::"} {
		if !strings.Contains(out, want) {
			t.Errorf("rdisc6 says\n%swant %q in it", out, want)
		}
	}
	if option := l.dhclient("6"); len(option) == 0 {
		t.Error("dhclient got an empty option")
	}
	wantDesignated(t, "4", l.informFixed())
	for _, filter := range []string{"icmpv6.type == 134", "dhcpv6.msgtype == 7", "dhcp.option.dhcp == 5"} {
		wire.wantClean(filter)
	}
	if got := d.metric(`cfrd_announce_parts{interface="access"}`); got != "3" {
		t.Errorf("got %s parts at work; want 3", got)
	}
	since := heard.all()
	d.signal(syscall.SIGTERM)
	heard.wait(t, since, "the resolver is withdrawn", farewell)
	if out := l.customer.must("dig", "+short", "+timeout=2", "+tries=1", "@"+resolver4, "dns.isp.example", "A"); strings.TrimSpace(out) != resolver4 {
		t.Errorf("got %q while hosts are being told; want the resolver to answer", out)
	}
	if err := d.wait(30 * time.Second); err != nil {
		t.Errorf("got %v; want a clean end", err)
	}
	if got := heard.count(since, farewell); got != 3 {
		t.Errorf("got %d last Router Advertisements; want 3", got)
	}
}

// informFixed sends a DHCPINFORM as a host with a fixed address does, and returns the Encrypted DNS option of the reply.
func (l *lab) informFixed() []byte {
	t := l.t
	t.Helper()
	pc := l.customer.listenUDP(customer4 + ":68")
	defer pc.Close()
	request := make([]byte, 236, 300)
	copy(request, []byte{1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef})
	copy(request[12:], netip.MustParseAddr(customer4).AsSlice())
	request = append(request, 99, 130, 83, 99, 53, 1, 8, 55, 2, 6, 162, 255)
	if _, err := pc.WriteToUDPAddrPort(request, netip.MustParseAddrPort("10.0.0.255:67")); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 1500)
	if err := pc.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, from, err := pc.ReadFromUDPAddrPort(reply)
	if err != nil {
		t.Fatal(err)
	}
	if from.Port() != 67 || !bytes.Equal(reply[4:8], request[4:8]) || !bytes.Equal(reply[16:20], net.IPv4zero.To4()) {
		t.Errorf("got % x from %s; want a reply without an address", reply[:n], from)
	}
	var option []byte
	for b := reply[240:n]; len(b) > 2 && b[0] != 255; b = b[2+int(b[1]):] {
		if b[0] == 162 {
			option = append(option, b[2:2+b[1]]...)
		}
		if b[0] == 51 {
			t.Error("got a lease time; want none in a reply to DHCPINFORM")
		}
	}
	return option
}

// TestAnnounceFollowsInterface takes the interface away in every way, from the command of its own.
func TestAnnounceFollowsInterface(t *testing.T) {
	need(t, "rdisc6")
	l := newLab(t)
	heard := l.hearAdvertisements()
	p := l.provider.start(cfrd(t), "dnr", "announce", "--interface", "access", "--ra", "--name", adn, "--address", resolver6)
	heard.wait(t, 0, "a Router Advertisement", ours)
	for _, step := range []struct {
		name       string
		away, back []string // commands of ip
		reason     string
	}{
		{"down", []string{"link set access down"}, []string{"link set access up"}, "interface is down"},
		{
			"renamed",
			[]string{"link set access down", "link set access name other", "link set other up"},
			[]string{"link set other down", "link set other name access", "link set access up"},
			"no such interface",
		},
		{
			"without-link-local",
			[]string{"addr flush dev access scope link"},
			[]string{"addr add fe80::53/64 dev access nodad"},
			"no link-local address",
		},
	} {
		t.Run(step.name, func(t *testing.T) {
			run := func(commands []string) {
				for _, c := range commands {
					l.provider.must("ip", strings.Fields(c)...)
				}
			}
			run(step.away)
			poll(t, 10*time.Second, "it waits", func() error {
				if !strings.Contains(p.output.String(), step.reason) {
					return fmt.Errorf("got\n%swant %q in it", p.output, step.reason)
				}
				return nil
			})
			since := heard.all()
			run(step.back)
			heard.wait(t, since, "a Router Advertisement", ours)
			if out := l.rdisc6("-1"); !strings.Contains(out, resolver6) {
				t.Errorf("rdisc6 says\n%swant %s in it", out, resolver6)
			}
		})
	}
	p.signal(os.Interrupt)
	if err := p.wait(20 * time.Second); err != nil {
		t.Errorf("got %v; want a clean end", err)
	}
}

// TestAnnounceBesideRouter announces from the host whose radvd makes it the link's default router, which it must stay.
func TestAnnounceBesideRouter(t *testing.T) {
	need(t, "rdisc6", "radvd")
	l := newLab(t)
	l.customer.must("sysctl", "-qw", "net.ipv6.conf.access.accept_ra=2")
	l.customer.must("ip", "-6", "route", "del", "default")
	heard, wire := l.hearAdvertisements(), l.record(l.customer, "access")
	conf := l.write("radvd.conf", `interface access {
	AdvSendAdvert on;
	AdvOtherConfigFlag on;
	MinRtrAdvInterval 3;
	MaxRtrAdvInterval 4;
	AdvDefaultLifetime 1800;
	prefix 2001:db8:1::/64 { };
};
`)
	l.provider.start("radvd", "-n", "-m", "stderr", "-C", conf, "-p", filepath.Join(l.dir, "radvd.pid"))
	heard.wait(t, 0, "a Router Advertisement of radvd", func(a advertisement) bool { return a.routerLifetime == 1800 })
	since := heard.all()
	p := l.provider.start(cfrd(t), "dnr", "announce", "--interface", "access", "--name", adn, "--address", resolver6)
	heard.wait(t, since, "a Router Advertisement of cfrd", ours)
	defaultRoute := func() string {
		return l.customer.must("ip", "-6", "route", "show", "default", "proto", "ra")
	}
	if got := defaultRoute(); !strings.Contains(got, "via fe80::") {
		t.Errorf("got default route %q; want radvd's", got)
	}
	out := l.rdisc6("-w", "3000", "-r", "1")
	for _, want := range []string{"1800 (0x00000708) seconds", "Router lifetime           :            0", resolver6} {
		if !strings.Contains(out, want) {
			t.Errorf("rdisc6 says\n%swant %q in it", out, want)
		}
	}
	poll(t, 10*time.Second, "the difference is reported", func() error {
		if !strings.Contains(p.output.String(), "O flag is true there") {
			return errors.New(p.output.String())
		}
		return nil
	})
	p.signal(os.Interrupt)
	if err := p.wait(20 * time.Second); err != nil {
		t.Errorf("got %v; want a clean end", err)
	}
	if got := defaultRoute(); !strings.Contains(got, "via fe80::") {
		t.Errorf("after cfrd's last: got default route %q; want radvd's", got)
	}
	wire.wantClean("icmpv6.type == 134")
}

// TestAnnounceCannot wants errors at the start that say what to do.
func TestAnnounceCannot(t *testing.T) {
	need(t, "setpriv", "dnsmasq")
	l := newLab(t)
	announce := []string{"dnr", "announce", "--interface", "access", "--name", adn, "--address", resolver4 + "," + resolver6}
	t.Run("without-rights", func(t *testing.T) {
		args := append([]string{"--bounding-set=-net_raw", "--inh-caps=-net_raw", cfrd(t)}, announce...)
		if _, err := l.provider.try("setpriv", args...); err == nil || !strings.Contains(err.Error(), "CAP_NET_RAW") {
			t.Errorf("got %v; want an error that names CAP_NET_RAW", err)
		}
	})
	t.Run("port-taken", func(t *testing.T) {
		p := l.provider.start("dnsmasq", "-d", "-C", "/dev/null", "-p", "0", "-i", "access", "-F", "10.0.0.100,10.0.0.200",
			"-l", filepath.Join(l.dir, "leases"), "--pid-file=")
		poll(t, 10*time.Second, "dnsmasq serves", func() error {
			if !strings.Contains(p.output.String(), "DHCP, IP range") {
				return errors.New(p.output.String())
			}
			return nil
		})
		_, err := l.provider.try(cfrd(t), append(announce, "--dhcpv4")...)
		if err == nil || !strings.Contains(err.Error(), "UDP port 67 belongs to a DHCP server") {
			t.Errorf("got %v; want an error about port 67", err)
		}
	})
}
