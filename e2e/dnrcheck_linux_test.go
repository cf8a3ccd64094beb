package e2e

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// network is the provider's router and DHCP server as far as DNR goes: it says whatever octets it is told to.
type network struct {
	t  *testing.T
	mu sync.Mutex
	announcement
}

// announcement is what a network says. Nil options are not sent, but the messages that would carry them are.
type announcement struct {
	hops   int      // of Router Advertisements; 0 means 255
	ra     [][]byte // options
	dhcp6  [][]byte // data of options 144
	dhcp4  []byte   // data of option 162
	dns4   string   // option 6; empty means that of the resolver
	silent bool
}

func (n *network) say(a announcement) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.announcement = a
}

func (n *network) said() announcement {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.announcement
}

// startNetwork answers on the customer's link until t ends.
func (l *lab) startNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t}
	nd := n.listen(l, "ip6:ipv6-icmp", "::")
	v6 := n.listen(l, "udp6", "[::]:547")
	v4 := n.listen(l, "udp4", "0.0.0.0:67")
	var wg sync.WaitGroup
	wg.Go(func() { n.advertise(ipv6.NewPacketConn(nd)) })
	wg.Go(func() { n.serveDHCPv6(v6) })
	wg.Go(func() { n.serveDHCPv4(v4) })
	t.Cleanup(func() {
		for _, c := range []net.PacketConn{nd, v6, v4} {
			c.Close()
		}
		wg.Wait()
	})
	return n
}

// listen opens a socket on the provider's end of the link that receives what is sent to routers and servers.
func (n *network) listen(l *lab, proto, addr string) (pc net.PacketConn) {
	n.t.Helper()
	err := l.provider.do(func() error {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "access") })
			return err
		}}
		var err error
		if pc, err = lc.ListenPacket(context.Background(), proto, addr); err != nil || proto == "udp4" {
			return err
		}
		ifi, err := net.InterfaceByName("access")
		if err != nil {
			return err
		}
		p := ipv6.NewPacketConn(pc)
		return errors.Join(
			p.JoinGroup(ifi, &net.UDPAddr{IP: net.ParseIP("ff02::2")}),
			p.JoinGroup(ifi, &net.UDPAddr{IP: net.ParseIP("ff02::1:2")}),
			p.SetMulticastInterface(ifi),
		)
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return pc
}

// advertise answers Router Solicitations.
func (n *network) advertise(pc *ipv6.PacketConn) {
	buf := make([]byte, 2000)
	for {
		size, _, _, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		a := n.said()
		if size == 0 || buf[0] != 133 || a.silent {
			continue
		}
		hops := a.hops
		if hops == 0 {
			hops = 255
		}
		message := unhex(n.t, "86 00 0000 40 00 0000 00000000 00000000")
		for _, o := range a.ra {
			message = append(message, o...)
		}
		if pc.SetMulticastHopLimit(hops) != nil {
			return
		}
		if _, err := pc.WriteTo(message, nil, &net.IPAddr{IP: net.ParseIP("ff02::1")}); err != nil {
			n.t.Errorf("send a Router Advertisement: %v", err)
		}
	}
}

// serveDHCPv6 answers Information-requests.
func (n *network) serveDHCPv6(pc net.PacketConn) {
	buf := make([]byte, 2000)
	for {
		size, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		a, q := n.said(), buf[:size]
		if size < 4 || q[0] != 11 || a.silent {
			continue
		}
		reply := append([]byte{7}, q[1:4]...)
		reply = append(reply, unhex(n.t, "0002 000a 0003 0001 020000000001")...)
		for rest := q[4:]; len(rest) >= 4; {
			end := 4 + int(binary.BigEndian.Uint16(rest[2:]))
			if binary.BigEndian.Uint16(rest) == 1 {
				reply = append(reply, rest[:end]...)
			}
			rest = rest[end:]
		}
		for _, data := range a.dhcp6 {
			reply = binary.BigEndian.AppendUint16(reply, 144)
			reply = append(binary.BigEndian.AppendUint16(reply, uint16(len(data))), data...)
		}
		pc.WriteTo(reply, from)
	}
}

// serveDHCPv4 answers DHCPDISCOVER and DHCPINFORM. Anything else, above all a request for a lease, fails the test.
func (n *network) serveDHCPv4(pc net.PacketConn) {
	buf := make([]byte, 2000)
	for {
		size, _, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		a, q := n.said(), buf[:size]
		if size < 243 || a.silent {
			continue
		}
		kind := map[byte]byte{1: 2, 8: 5}[q[242]]
		if kind == 0 {
			n.t.Errorf("got a DHCPv4 message of type %d; want no others than DHCPDISCOVER and DHCPINFORM", q[242])
			continue
		}
		reply := append([]byte(nil), q[:240]...)
		reply[0] = 2
		reply = append(reply, 53, 1, kind, 54, 4, 10, 0, 0, 1)
		dns := netip.MustParseAddr(resolver4)
		if a.dns4 != "" {
			dns = netip.MustParseAddr(a.dns4)
		}
		reply = append(append(reply, 6, 4), dns.AsSlice()...)
		for data := a.dhcp4; len(data) > 0; {
			part := min(len(data), 255)
			reply = append(append(reply, 162, byte(part)), data[:part]...)
			data = data[part:]
		}
		reply = append(reply, 255)
		pc.WriteTo(reply, udpAddr("255.255.255.255", 68))
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// option is an Encrypted DNS option before it becomes octets. What makes it wrong is a field of its own.
type option struct {
	priority uint16
	name     string // ADN
	addrs    []string
	params   string // hexadecimal
	lifetime uint32
	wide     bool // 2 octets for the length of addresses in DHCPv4
	padding  byte // each octet of it
}

// Service parameters in hexadecimal.
const (
	alpnDoT  = "0001 0004 03646f74"
	alpnDoQ  = "0001 0004 03646f71"
	alpnDoH  = "0001 0006 026833026832"
	dnsQuery = "0007 0010 2f646e732d71756572797b3f646e737d"
)

// good returns an option in which nothing is wrong, for the addresses of one family.
func good(params string, addrs ...string) option {
	return option{priority: 1, name: adn, addrs: addrs, params: params, lifetime: 1800}
}

func (o option) wireName() (b []byte) {
	for label := range strings.SplitSeq(o.name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

func (o option) wireAddrs() (b []byte) {
	for _, a := range o.addrs {
		b = append(b, netip.MustParseAddr(a).AsSlice()...)
	}
	return b
}

// dhcp4 returns one instance.
func (o option) dhcp4(t testing.TB) []byte {
	b := binary.BigEndian.AppendUint16(nil, o.priority)
	b = append(append(b, byte(len(o.wireName()))), o.wireName()...)
	if o.wide {
		b = append(b, 0)
	}
	b = append(append(b, byte(len(o.wireAddrs()))), o.wireAddrs()...)
	b = append(b, unhex(t, o.params)...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func appendSized(b, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func (o option) dhcp6(t testing.TB) []byte {
	b := appendSized(binary.BigEndian.AppendUint16(nil, o.priority), o.wireName())
	return append(appendSized(b, o.wireAddrs()), unhex(t, o.params)...)
}

func (o option) ra(t testing.TB) []byte {
	b := binary.BigEndian.AppendUint16([]byte{144, 0}, o.priority)
	b = binary.BigEndian.AppendUint32(b, o.lifetime)
	b = appendSized(appendSized(appendSized(b, o.wireName()), o.wireAddrs()), unhex(t, o.params))
	for len(b)%8 != 0 {
		b = append(b, o.padding)
	}
	b[1] = byte(len(b) / 8)
	return b
}

// with returns o changed by f.
func (o option) with(f func(*option)) option {
	f(&o)
	return o
}

// everything is an announcement in which nothing is wrong: every transport by every way.
func everything(t testing.TB) (a announcement) {
	for _, params := range []string{alpnDoT, alpnDoQ, alpnDoH + dnsQuery} {
		v6 := good(params, resolver6)
		a.ra = append(a.ra, v6.ra(t))
		a.dhcp6 = append(a.dhcp6, v6.dhcp6(t))
		a.dhcp4 = append(a.dhcp4, good(params, resolver4).dhcp4(t)...)
	}
	return a
}

// dnrReport is what `cfrd dnr check --json` prints, as far as it is looked at.
type dnrReport struct {
	OK    bool `json:"ok"`
	Steps []struct {
		Step, Target, Status, Detail string
	} `json:"steps"`
	Servers []struct {
		By        string
		Instances []json.RawMessage
		Clients   []struct{ Client string }
	} `json:"servers"`
}

// failed reports whether a step failed of whose detail text is a part.
func (r dnrReport) failed(step, text string) bool {
	for _, s := range r.Steps {
		if s.Step == step && s.Status == "fail" && strings.Contains(s.Detail, text) {
			return true
		}
	}
	return false
}

// checkDNR runs `cfrd dnr check` on the customer's host and returns its report and exit code.
func (l *lab) checkDNR(t *testing.T, ca *authority, more ...string) (r dnrReport, code int, out string) {
	t.Helper()
	args := append([]string{"dnr", "check", "--interface", "access", "--ca", ca.file, "--timeout", "1500ms", "--json"}, more...)
	out, err := l.customer.try(cfrd(t), args...)
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		code = ee.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return r, code, out
}

// TestDNRCheck has a network in which nothing is wrong, and one for each thing that can be.
func TestDNRCheck(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.startCfrd(l.config(ca, settings{}))
	n := l.startNetwork(t)

	t.Run("nothing-is-wrong", func(t *testing.T) {
		n.say(everything(t))
		r, code, out := l.checkDNR(t, ca)
		if code != 0 || !r.OK {
			t.Errorf("got exit code %d and\n%s\nwant 0", code, out)
		}
		by := make(map[string]int)
		for _, s := range r.Servers {
			by[s.By] += len(s.Instances)
		}
		if len(r.Servers) != 3 || by["ra"] != 3 || by["dhcpv6"] != 3 || by["dhcpv4"] != 3 {
			t.Errorf("got %d messages with instances %v; want 3 of each\n%s", len(r.Servers), by, out)
		}
		for _, step := range []string{"dot", "doq", "doh", "doh3", "dot-certificate", "ddr", "agreement", "client-systemd"} {
			if !strings.Contains(out, fmt.Sprintf("%q", step)) {
				t.Errorf("step %s is not there:\n%s", step, out)
			}
		}
	})
	t.Run("table", func(t *testing.T) {
		n.say(everything(t))
		out, err := l.customer.try(cfrd(t), "dnr", "check", "--interface", "access", "--ca", ca.file, "--timeout", "1s")
		if err != nil || strings.Contains(out, "fail") || !strings.Contains(out, "dot-certificate") {
			t.Errorf("got %v and\n%s", err, out)
		}
	})
	t.Run("without-addresses", func(t *testing.T) { l.checkWithoutAddresses(t, n, ca) })
	t.Run("called-wrongly", func(t *testing.T) { l.checkDNRUsage(t) })
	for name, row := range l.brokenNetworks(t, ca) {
		t.Run(name, func(t *testing.T) {
			n.say(row.announcement)
			r, code, out := l.checkDNR(t, ca)
			if code != 1 || r.OK || !r.failed(row.step, row.detail) {
				t.Errorf("got exit code %d; want 1, and step %s to fail with %q:\n%s", code, row.step, row.detail, out)
			}
		})
	}
}

// brokenNetwork is a network with one thing wrong, and what has to be said about it.
type brokenNetwork struct {
	announcement
	step, detail string
}

func (l *lab) brokenNetworks(t *testing.T, ca *authority) map[string]brokenNetwork {
	t.Helper()
	v4 := func(list ...option) (a announcement) {
		for _, o := range list {
			a.dhcp4 = append(a.dhcp4, o.dhcp4(t)...)
		}
		return a
	}
	v6 := func(o option) announcement { return announcement{dhcp6: [][]byte{o.dhcp6(t)}} }
	ra := func(o option) announcement { return announcement{ra: [][]byte{o.ra(t)}} }
	dot4, dot6 := good(alpnDoT, resolver4), good(alpnDoT, resolver6)
	params := func(hex string) func(*option) { return func(o *option) { o.params = hex } }
	port := func(p uint16) func(*option) { return params(alpnDoT + fmt.Sprintf("0003 0002 %04x", p)) }
	contradiction := ra(dot6)
	contradiction.dhcp4 = good(alpnDoT, resolver4).with(func(o *option) { o.name = "dns.other.example" }).dhcp4(t)
	elsewhere := ra(dot6)
	elsewhere.dhcp6 = [][]byte{dot6.with(port(8853)).dhcp6(t)}
	thousands := v6(dot6)
	for range 250 {
		thousands.dhcp6 = append(thousands.dhcp6, nil)
	}
	lie := ra(dot6)
	lie.ra = append(lie.ra, []byte{144, 255, 0, 1, 0, 0, 0, 0})
	zero := ra(dot6)
	zero.ra = append(zero.ra, []byte{144, 0, 0, 1, 0, 0, 0, 0})
	forwarded := ra(dot6)
	forwarded.hops = 64
	dead := v4(dot4)
	dead.dns4 = "10.0.0.99"
	dohpath := "0007 000b 2f6f746865727b3f646e737d"
	dohpath = strings.Replace(dohpath, "000b", fmt.Sprintf("%04x", len("/other{?dns}")), 1)

	return map[string]brokenNetwork{
		"ascii-parameters":    {v4(dot4.with(params(hex.EncodeToString([]byte("alpn=dot"))))), "ascii-svcparams", "presentation form"},
		"wide-address-length": {v4(dot4.with(func(o *option) { o.wide = true })), "wide-addr-length", "2 octets"},
		"hints":               {v6(dot6.with(params(alpnDoT + "0006 0010 20010db8000100000000000000000053"))), "hints", "ipv6hint"},
		"mandatory-key":       {ra(dot6.with(params("0000 0002 0001" + alpnDoT))), "mandatory", "some clients refuse"},
		"mandatory-key-for-systemd": {
			ra(dot6.with(params("0000 0002 0001" + alpnDoT))), "client-systemd", "mandatory",
		},
		"priority-zero":     {v4(dot4.with(func(o *option) { o.priority = 0 })), "priority-zero", "Service Priority is 0"},
		"multicast-address": {ra(good(alpnDoT, resolver6, "ff02::53")), "address-discarded", "ff02::53 is multicast"},
		"only-multicast":    {ra(good(alpnDoT, "ff02::53")), "no-address", "none of 1"},
		"h2-without-dohpath": {
			v4(dot4.with(params("0001 0003 026832"))), "no-dohpath", "dohpath is missing",
		},
		"name-not-ldh":       {v6(dot6.with(func(o *option) { o.name = "dns_1.isp.example" })), "adn-syntax", "letters, digits and hyphens"},
		"truncated":          {announcement{dhcp6: [][]byte{dot6.dhcp6(t)[:25]}}, "addr-length", "at most"},
		"padding-not-zero":   {ra(dot6.with(func(o *option) { o.padding = 1 })), "padding", "want zeros"},
		"lifetime-zero":      {ra(dot6.with(func(o *option) { o.lifetime = 0 })), "lifetime", "no longer"},
		"lifetime-too-short": {ra(dot6.with(func(o *option) { o.lifetime = 5 })), "lifetime", "5s"},
		"one-wrong-instance-for-apple": {
			v4(dot4, option{priority: 2, name: adn, addrs: nil, params: ""}), "client-apple", "ignores all 2 instances",
		},
		"expired-certificate": {
			v4(dot4.with(port(l.serveTLS(t, ca, "expired", time.Now().Add(-time.Hour), adn)))),
			"dot-certificate", "expired",
		},
		"certificate-for-another-name": {
			v4(dot4.with(port(l.serveTLS(t, ca, "other", time.Now().Add(time.Hour), "dns.other.example")))),
			"dot-certificate", "dns.other.example",
		},
		"transport-does-not-answer":     {v4(dot4.with(port(8854))), "dot", "does not work"},
		"address-does-not-answer":       {v4(good(alpnDoT, "10.0.0.98")), "dot", "does not work"},
		"servers-contradict-each-other": {contradiction, "agreement", "dns.other.example"},
		"servers-contradict-in-port":    {elsewhere, "agreement", "8853"},
		"contradicts-discovery": {
			v4(dot4.with(params(alpnDoH + dohpath))), "ddr", "/other{?dns}",
		},
		"dns-server-does-not-answer": {dead, "ddr", "does not answer"},
		"thousands-of-options":       {thousands, "dhcpv6", "251 instances"},
		"length-that-lies":           {lie, "options", "exceeds the message"},
		"length-zero":                {zero, "options", "is 0"},
		"from-beyond-the-link":       {forwarded, "hop-limit", "64"},
		"nothing-designated":         {announcement{}, "dnr", "no server hands out"},
		"nobody-there":               {announcement{silent: true}, "dnr", "no router and no DHCP server"},
	}
}

// serveTLS completes handshakes at the resolver's address with a certificate of its own, and returns the port.
func (l *lab) serveTLS(t *testing.T, ca *authority, file string, until time.Time, name string) uint16 {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(ca.issueAt(file, time.Now().Add(-2*time.Hour), until, name))
	if err != nil {
		t.Fatal(err)
	}
	var ln net.Listener
	if err := l.provider.do(func() (err error) {
		ln, err = net.Listen("tcp", resolver4+":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"dot"}}).Handshake()
			conn.Close()
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return netip.MustParseAddrPort(ln.Addr().String()).Port()
}

// checkWithoutAddresses takes the customer's addresses away: a host that is new on the link has none either.
func (l *lab) checkWithoutAddresses(t *testing.T, n *network, ca *authority) {
	n.say(everything(t))
	l.customer.must("ip", "addr", "flush", "dev", "access", "scope", "global")
	l.customer.must("sysctl", "-qw", "net.ipv6.conf.access.addr_gen_mode=1")
	l.customer.must("ip", "-6", "addr", "flush", "dev", "access")
	t.Cleanup(func() {
		l.customer.must("sysctl", "-qw", "net.ipv6.conf.access.addr_gen_mode=0")
		l.customer.must("ip", "link", "set", "access", "down")
		l.customer.must("ip", "link", "set", "access", "up")
		for _, a := range []string{customer4 + "/24", customer6 + "/64"} {
			l.customer.must("ip", "addr", "add", a, "dev", "access")
		}
	})
	r, code, out := l.checkDNR(t, ca, "--listen-only")
	by := make(map[string]int)
	for _, s := range r.Servers {
		by[s.By]++
	}
	if code != 0 || by["ra"] != 1 || by["dhcpv4"] != 1 || !strings.Contains(out, "no link-local address") {
		t.Errorf("got exit code %d and messages %v; want 0, one by RA and one by DHCPv4:\n%s", code, by, out)
	}
}

// checkDNRUsage has what is wrong before anything is asked.
func (l *lab) checkDNRUsage(t *testing.T) {
	for name, row := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no-interface":      {nil, 2, "--interface"},
		"argument":          {[]string{"--interface", "access", "more"}, 2, "more"},
		"no-such-interface": {[]string{"--interface", "none"}, 1, "no such interface"},
		"no-such-file":      {[]string{"--interface", "access", "--ca", filepath.Join(l.dir, "none")}, 2, "none"},
	} {
		out, err := l.customer.try(cfrd(t), append([]string{"dnr", "check"}, row.args...)...)
		ee, ok := errors.AsType[*exec.ExitError](err)
		if !ok || ee.ExitCode() != row.code || !strings.Contains(err.Error(), row.text) {
			t.Errorf("%s: got %v %s; want exit code %d and a word about %s", name, err, out, row.code, row.text)
		}
	}
	_, err := l.customer.try("setpriv", "--bounding-set=-net_raw", "--inh-caps=-all", cfrd(t), "dnr", "check", "--interface", "access")
	if err == nil || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("without rights: got %v; want a word about CAP_NET_RAW", err)
	}
}

// TestDNRCheckOfServers checks what servers hand out that we did not write, with what cfrd prints for them. Some do not
// answer DHCPINFORM, but only what asks for an address.
func TestDNRCheckOfServers(t *testing.T) {
	for _, s := range dhcpServers {
		if !slices.Contains([]string{"dnsmasq-dhcpv4", "dnsmasq-dhcpv6", "dhcpd-dhcpv4", "kea-2.2-dhcpv4-long", "kea-2.2-dhcpv6"}, s.name) {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			need(t, s.needs...)
			l := newLab(t)
			s.serve(l, l.dnrPrint(s.printer, s.family, s.more...))
			out, err := l.customer.try(cfrd(t), "dnr", "check", "--interface", "access", "--listen-only", "--timeout", "5s")
			if err != nil || !strings.Contains(out, "client-systemd  dhcpv"+s.family) {
				t.Errorf("got %v and\n%s\nwant no fault with what dhcpv%s hands out", err, out, s.family)
			}
		})
	}
}

// TestDNRCheckOfAnnouncer checks what we announce by ourselves, by all three ways, and goes on to the resolver.
func TestDNRCheckOfAnnouncer(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.startCfrd(l.config(ca, settings{}))
	l.provider.start(cfrd(t), "dnr", "announce", "--interface", "access", "--config", filepath.Join(l.dir, "cfrd.yaml"),
		"--ra", "--dhcpv6", "--dhcpv4")
	var r dnrReport
	poll(t, 30*time.Second, "all three are there", func() error {
		var code int
		var out string
		if r, code, out = l.checkDNR(t, ca); code != 0 || len(r.Servers) < 3 {
			return fmt.Errorf("exit code %d, %s", code, out)
		}
		return nil
	})
	by := make(map[string]bool)
	for _, s := range r.Servers {
		by[s.By] = len(s.Instances) == 3
	}
	if !by["ra"] || !by["dhcpv6"] || !by["dhcpv4"] {
		t.Errorf("got %v; want three transports each by RA, DHCPv6 and DHCPv4", by)
	}
}
