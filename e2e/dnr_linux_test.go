package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// dhcpServer is a program that can be told to hand out the Encrypted DNS option.
type dhcpServer struct {
	name    string // of the test
	printer string // what `cfrd dnr print --for` calls it
	family  string // "4" or "6"
	more    []string
	needs   []string
	// serve checks the configuration with the server's own checker and starts it with it on the provider's host.
	serve func(l *lab, printed string) *process
}

// manyAddresses makes option 162 longer than Kea sends as text, and than one option holds.
var manyAddresses = func() (flags []string) {
	for i := range 20 {
		flags = append(flags, "--address", fmt.Sprintf("10.0.0.%d", 100+i))
	}
	return append(flags, "--name", adn)
}()

var dhcpServers = []dhcpServer{
	{"dnsmasq-dhcpv4", "dnsmasq", "4", nil, []string{"dnsmasq"}, (*lab).serveDnsmasq},
	{"dnsmasq-dhcpv6", "dnsmasq", "6", nil, []string{"dnsmasq"}, (*lab).serveDnsmasq},
	{"dhcpd-dhcpv4", "dhcpd", "4", nil, []string{"dhcpd"}, (*lab).serveDhcpd4},
	{"dhcpd-dhcpv6", "dhcpd", "6", nil, []string{"dhcpd"}, (*lab).serveDhcpd6},
	{"kea-2.6-dhcpv4", "kea", "4", nil, nil, (*lab).serveKea4},
	{"kea-2.6-dhcpv4-hexadecimal", "kea", "4", manyAddresses, nil, (*lab).serveKea4},
	{"kea-2.6-dhcpv6", "kea", "6", nil, nil, (*lab).serveKea6},
	{"kea-2.2-dhcpv4", "kea-2.2", "4", nil, []string{"kea-dhcp4"}, (*lab).serveOldKea4},
	{"kea-2.2-dhcpv4-long", "kea-2.2", "4", manyAddresses, []string{"kea-dhcp4"}, (*lab).serveOldKea4},
	{"kea-2.2-dhcpv6", "kea-2.2", "6", nil, []string{"kea-dhcp6"}, (*lab).serveOldKea6},
	{"networkd-dhcpv4", "networkd", "4", nil, nil, (*lab).serveNetworkd},
}

// TestPrintedConfigurations has every server check, and then hand to a DHCP client, what `cfrd dnr print` says for it.
func TestPrintedConfigurations(t *testing.T) {
	for _, s := range dhcpServers {
		t.Run(s.name, func(t *testing.T) {
			l := newLab(t)
			need(t, append(s.needs, "dhclient", "tshark")...)
			wire := l.record(l.customer, "access")
			s.serve(l, l.dnrPrint(s.printer, s.family, s.more...))
			option := l.dhclient(s.family)
			wantDesignated(t, s.family, option)
			if s.more != nil && len(option) < 256 {
				t.Errorf("got %d octets; want more than one option 162 holds", len(option))
			}
			wire.wantClean(map[string]string{"4": "dhcp.option.type == 162", "6": "dhcpv6.option.type == 144"}[s.family])
		})
	}
}

// TestSecondClient asks once more with another client than the others.
func TestSecondClient(t *testing.T) {
	l := newLab(t)
	need(t, "dnsmasq", "udhcpc")
	l.serveDnsmasq(l.dnrPrint("dnsmasq", "4"))
	script := l.script("udhcpc.script", "#!/bin/sh\n[ \"$1\" = bound ] && echo \"$opt162\" >"+filepath.Join(l.dir, "opt162")+"\nexit 0\n")
	l.customer.must("udhcpc", "-i", "access", "-f", "-q", "-n", "-t", "10", "-T", "1", "-O", "162", "-s", script)
	option, err := hex.DecodeString(strings.TrimSpace(l.read("opt162")))
	if err != nil {
		t.Fatal(err)
	}
	wantDesignated(t, "4", option)
}

// dnrPrint returns what cfrd says for a server of DHCPv4 or DHCPv6, from the lab's configuration unless there are flags.
func (l *lab) dnrPrint(server, family string, flags ...string) string {
	l.t.Helper()
	if len(flags) == 0 {
		flags = []string{"--config", l.write("cfrd.yaml", l.config(l.newAuthority(), settings{}))}
	}
	args := []string{"dnr", "print", "--for", server, "--option", "dhcpv" + family}
	return l.provider.must(cfrd(l.t), append(args, flags...)...)
}

// script writes an executable file.
func (l *lab) script(name, content string) string {
	l.t.Helper()
	path := l.write(name, content)
	if err := os.Chmod(path, 0o755); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// dhclient gets a lease, or with DHCPv6 a stateless answer, and returns the data of the Encrypted DNS option in it.
func (l *lab) dhclient(family string) []byte {
	l.t.Helper()
	env := filepath.Join(l.dir, "dhclient.env")
	args := []string{
		"-d", "-" + family, "-sf", l.script("dhclient.script", "#!/bin/sh\nenv >>"+env+"\n"),
		"-lf", l.write("dhclient.leases", ""), "-pf", filepath.Join(l.dir, "dhclient.pid"),
		"-cf", l.write("dhclient.conf", `
option dnr code 162 = string;
option dhcp6.dnr code 144 = string;
request subnet-mask, dnr, dhcp6.name-servers, dhcp6.dnr;
timeout 20;
initial-interval 1;
backoff-cutoff 2;
`),
	}
	name := "new_dnr="
	if family == "6" {
		args, name = append(args, "-S"), "new_dhcp6_dnr="
	}
	l.customer.start("dhclient", append(args, "access")...)
	var option []byte
	poll(l.t, 25*time.Second, "dhclient has an answer", func() error {
		for line := range strings.Lines(l.read("dhclient.env")) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), name); ok {
				return parseColons(value, &option)
			}
		}
		return fmt.Errorf("no %s in:\n%s", name, l.read("dhclient.env"))
	})
	return option
}

// parseColons reads octets as dhclient writes them: 0:1d:a.
func parseColons(s string, to *[]byte) error {
	*to = nil
	for octet := range strings.SplitSeq(s, ":") {
		b, err := hex.DecodeString(fmt.Sprintf("%02s", octet))
		if err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
		*to = append(*to, b...)
	}
	return nil
}

// designated is one resolver of the option, read by other means than cfrd's.
type designated struct {
	adn       string
	addresses []netip.Addr
	alpn      []string
}

// parseDesignated reads one resolver, from its priority on. Lengths have one octet with IPv4 and two with IPv6.
func parseDesignated(b []byte, lengthSize, addrSize int) (d designated, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cut off: %v", r)
		}
	}()
	length := func() (n int) {
		for _, octet := range b[:lengthSize] {
			n = n<<8 | int(octet)
		}
		b = b[lengthSize:]
		return n
	}
	b = b[2:]
	n := length()
	d.adn = strings.Join(lengthPrefixed(b[:n]), ".")
	b = b[n:]
	n = length()
	for addrs := b[:n]; len(addrs) > 0; addrs = addrs[addrSize:] {
		a, _ := netip.AddrFromSlice(addrs[:addrSize])
		d.addresses = append(d.addresses, a)
	}
	for b = b[n:]; len(b) > 0; {
		key, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if key == 1 {
			d.alpn = lengthPrefixed(b[4 : 4+n])
		}
		b = b[4+n:]
	}
	return d, nil
}

// lengthPrefixed takes apart strings that each have an octet with their length in front, such as labels.
func lengthPrefixed(b []byte) (list []string) {
	for len(b) > 0 {
		n := 1 + int(b[0])
		list = append(list, string(b[1:n]))
		b = b[n:]
	}
	return list
}

// wantDesignated fails t unless the option names the lab's resolver, at addresses of the lab, with DoT and DoH.
func wantDesignated(t testing.TB, family string, option []byte) {
	t.Helper()
	instances, lengthSize, addrSize, prefix := [][]byte{option}, 2, 16, "2001:db8:1::/64"
	if family == "4" {
		instances, lengthSize, addrSize, prefix = nil, 1, 4, "10.0.0.0/24"
		for b := option; len(b) > 2; {
			n := min(len(b), 2+int(binary.BigEndian.Uint16(b)))
			instances, b = append(instances, b[2:n]), b[n:]
		}
	}
	var alpn []string
	for _, b := range instances {
		d, err := parseDesignated(b, lengthSize, addrSize)
		if err != nil || d.adn != adn+"." || len(d.addresses) == 0 {
			t.Errorf("got %+v, %v; want %s", d, err, adn)
		}
		for _, a := range d.addresses {
			if !netip.MustParsePrefix(prefix).Contains(a) {
				t.Errorf("got address %v; want one of %s", a, prefix)
			}
		}
		alpn = append(alpn, d.alpn...)
	}
	if !slices.Contains(alpn, "dot") || !slices.Contains(alpn, "h2") {
		t.Errorf("got ALPN %q in %x; want dot and h2", alpn, option)
	}
}

// serveDnsmasq hands out addresses, or answers to Information-Requests with RAs that tell clients to ask.
func (l *lab) serveDnsmasq(printed string) *process {
	l.t.Helper()
	need(l.t, "dnsmasq")
	conf := l.write("dnsmasq.conf", fmt.Sprintf(`
port=0
user=root
interface=access
bind-interfaces
leasefile-ro
dhcp-authoritative
no-ping
dhcp-range=10.0.0.10,10.0.0.30,255.255.255.0
dhcp-range=2001:db8:1::,ra-stateless
ra-param=access,10
enable-ra
dhcp-option=option:dns-server,%s
dhcp-option=option6:dns-server,[%s]
%s`, resolver4, resolver6, printed))
	l.provider.must("dnsmasq", "--test", "-C", conf)
	return l.provider.start("dnsmasq", "-d", "-C", conf)
}

func (l *lab) serveDhcpd4(printed string) *process {
	return l.serveDhcpd("-4", printed, "subnet 10.0.0.0 netmask 255.255.255.0 { range 10.0.0.10 10.0.0.30; }\n")
}

func (l *lab) serveDhcpd6(printed string) *process {
	return l.serveDhcpd("-6", printed, "subnet6 2001:db8:1::/64 { range6 2001:db8:1::1000 2001:db8:1::1fff; }\n")
}

func (l *lab) serveDhcpd(family, printed, subnet string) *process {
	l.t.Helper()
	conf := l.write("dhcpd.conf", "authoritative;\n"+printed+subnet)
	l.provider.must("dhcpd", family, "-t", "-cf", conf)
	return l.provider.start("dhcpd", family, "-f", "-d", "-cf", conf, "-lf", l.write("dhcpd.leases", ""),
		"-pf", filepath.Join(l.dir, "dhcpd.pid"), "access")
}

func (l *lab) serveKea4(printed string) *process {
	return l.newMachine(l.provider).serveKea(l, "Dhcp4", printed)
}

func (l *lab) serveKea6(printed string) *process {
	return l.newMachine(l.provider).serveKea(l, "Dhcp6", printed)
}

// serveKea runs the Kea of Debian trixie.
func (m *machine) serveKea(l *lab, server, printed string) *process {
	l.t.Helper()
	program := "/usr/sbin/kea-" + strings.ToLower(server)
	for name, content := range map[string]string{"etc/printed.conf": printed, "etc/whole.conf": keaConfig(l, server, printed)} {
		m.write(name, content)
		if out, err := m.try(program, "-t", "/"+name); err != nil {
			l.t.Fatalf("%s -t: %v\n%s%s", program, err, out, content)
		}
	}
	return m.start(program, "-c", "/etc/whole.conf")
}

func (l *lab) serveOldKea4(printed string) *process { return l.serveOldKea("Dhcp4", printed) }
func (l *lab) serveOldKea6(printed string) *process { return l.serveOldKea("Dhcp6", printed) }

// serveOldKea runs the Kea of this machine, if it is old enough.
func (l *lab) serveOldKea(server, printed string) *process {
	l.t.Helper()
	program := "kea-" + strings.ToLower(server)
	if v := l.provider.must(program, "-v"); v >= "2.3" {
		skip(l.t, "this machine's Kea is %s, which the tests of Kea 2.6 are about", strings.TrimSpace(v))
	}
	env := []string{"KEA_PIDFILE_DIR=" + l.dir, "KEA_LOCKFILE_DIR=none", program}
	for name, content := range map[string]string{"printed.conf": printed, "whole.conf": keaConfig(l, server, printed)} {
		l.provider.must("env", append(env, "-t", l.write(name, content))...)
	}
	return l.provider.start("env", append(env, "-c", filepath.Join(l.dir, "whole.conf"))...)
}

// keaConfig returns a configuration that has in it what was printed, and serves the customers' link.
func keaConfig(l *lab, server, printed string) string {
	l.t.Helper()
	var config map[string]map[string]any
	if err := json.Unmarshal(regexp.MustCompile(`(?m)^//.*$`).ReplaceAll([]byte(printed), nil), &config); err != nil {
		l.t.Fatalf("%v in:\n%s", err, printed)
	}
	c := config[server]
	c["lease-database"] = map[string]any{"type": "memfile", "persist": false}
	c["loggers"] = []any{map[string]any{
		"name": "kea-" + strings.ToLower(server), "severity": "INFO", "output_options": []any{map[string]any{"output": "stdout"}},
	}}
	subnet := map[string]any{"id": 1}
	if server == "Dhcp4" {
		c["interfaces-config"] = map[string]any{"interfaces": []string{"access/10.0.0.1"}}
		subnet["subnet"], subnet["pools"] = "10.0.0.0/24", []any{map[string]any{"pool": "10.0.0.10-10.0.0.30"}}
		c["subnet4"] = []any{subnet}
	} else {
		c["interfaces-config"] = map[string]any{"interfaces": []string{"access"}}
		c["server-id"] = map[string]any{"type": "LL", "persist": false}
		subnet["subnet"], subnet["interface"] = "2001:db8:1::/64", "access"
		c["subnet6"] = []any{subnet}
	}
	b, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		l.t.Fatal(err)
	}
	return string(b)
}

// serveNetworkd makes systemd-networkd the DHCP server. It has no checker, but says which lines it does not take.
func (l *lab) serveNetworkd(printed string) *process {
	l.t.Helper()
	m := l.newMachine(l.provider)
	m.write("etc/systemd/network/access.network", `
[Match]
Name=access
[Network]
KeepConfiguration=yes
Address=10.0.0.1/24
DHCPServer=yes
IPv6AcceptRA=no
[DHCPServer]
PoolOffset=10
PoolSize=20
PersistLeases=no
`+printed)
	p := m.start("/usr/lib/systemd/systemd-networkd")
	poll(l.t, 10*time.Second, "networkd serves", func() error {
		if !strings.Contains(m.read("run/systemd/netif/links/*"), "ADMIN_STATE=configured") {
			return errors.New(p.output.String())
		}
		return nil
	})
	if out := p.output.String(); regexp.MustCompile(`access\.network:\d+:`).MatchString(out) {
		l.t.Errorf("networkd said:\n%s\nwant no word about its file", out)
	}
	return p
}

// recording is what went over one link, as a capture file.
type recording struct {
	l    *lab
	mu   sync.Mutex
	file bytes.Buffer
}

// record records a link of ns until t ends.
func (l *lab) record(ns namespace, dev string) *recording {
	l.t.Helper()
	r := &recording{l: l}
	// Magic number, version, no time zone, no accuracy, largest frame, Ethernet.
	for _, v := range []uint32{0xa1b2c3d4, 2 | 4<<16, 0, 0, 65536, 1} {
		r.file.Write(binary.NativeEndian.AppendUint32(nil, v))
	}
	ns.tap(dev, r.add)
	return r
}

func (r *recording) add(frame []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, v := range []uint32{uint32(now.Unix()), uint32(now.Nanosecond() / 1000), uint32(len(frame)), uint32(len(frame))} {
		r.file.Write(binary.NativeEndian.AppendUint32(nil, v))
	}
	r.file.Write(frame)
}

// wantClean dissects the recording with tshark: there must be packets that match the filter, and nothing malformed.
func (r *recording) wantClean(filter string) {
	t := r.l.t
	t.Helper()
	need(t, "tshark")
	r.mu.Lock()
	file := r.l.write("link.pcap", r.file.String())
	r.mu.Unlock()
	tshark := func(filter string) string {
		return runIn(t, r.l.dir, "env", "HOME="+r.l.dir, "XDG_CONFIG_HOME="+r.l.dir, "tshark", "-n", "-r", file, "-Y", filter, "-V")
	}
	if tshark(filter) == "" {
		t.Errorf("tshark finds no packet with %s", filter)
	}
	// The severity is that of errors.
	const bad = "_ws.malformed || _ws.expert.severity >= 0x00800000"
	if out := tshark(bad); out != "" {
		t.Errorf("tshark says that these packets are malformed:\n%s", out)
	}
}
