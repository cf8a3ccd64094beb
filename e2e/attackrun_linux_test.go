package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Addresses of the attack run, see newAttackLab.
const (
	attackers4 = "10.0.1.0/24"
	attackers6 = "2001:db8:a::/48"
	nsdDrop65  = "198.51.100.56" // questions of type HTTPS that are sent here are dropped
	broken4    = "198.51.100.57" // an upstream that does not work
	silent4    = "198.51.100.58" // an address that never answers
	silentNS   = "198.18.0.0/16" // name servers that never answer
)

// attackLab is a lab with a fourth host: the attackers, who are clients like everybody else, with many addresses.
//
//	attackers 10.0.1.0/24, 2001:db8:a::/48 ─── attack ─── 10.0.2.1 provider
type attackLab struct {
	*lab
	attackers namespace
	ca        *authority
	nofile    int // limit of open files of the victim, or 0
}

func newAttackLab(t *testing.T) *attackLab {
	t.Helper()
	need(t, "nft", "nsd", "unbound", "nice", "prlimit")
	l := newLab(t)
	a := &attackLab{lab: l, attackers: namespace{t: t, name: strings.TrimSuffix(l.customer.name, "c") + "x"}, ca: l.newAuthority()}
	if out, err := exec.Command("ip", "netns", "add", a.attackers.name).CombinedOutput(); err != nil {
		t.Fatalf("add a namespace: %v\n%s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", a.attackers.name).Run() })
	l.link(a.attackers, "attack", l.provider, "attack")
	for ns, addrs := range map[namespace][2]string{
		a.attackers: {"10.0.2.2/30", "2001:db8:b::2/64"},
		l.provider:  {"10.0.2.1/30", "2001:db8:b::1/64"},
	} {
		ns.must("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.attack.accept_dad=0")
		ns.must("ip", "link", "set", "lo", "up")
		ns.must("ip", "link", "set", "attack", "up")
		ns.must("ip", "addr", "add", addrs[0], "dev", "attack")
		ns.must("ip", "addr", "add", addrs[1], "dev", "attack")
	}
	a.attackers.must("sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1") // a local route is enough for IPv4 only
	a.attackers.must("ip", "route", "add", "local", attackers4, "dev", "lo")
	a.attackers.must("ip", "-6", "route", "add", "local", attackers6, "dev", "lo")
	a.attackers.must("ip", "route", "add", "default", "via", "10.0.2.1")
	a.attackers.must("ip", "-6", "route", "add", "default", "via", "2001:db8:b::1")
	l.provider.must("ip", "route", "add", attackers4, "via", "10.0.2.2")
	l.provider.must("ip", "-6", "route", "add", attackers6, "via", "2001:db8:b::2")
	for _, addr := range []string{nsdDrop65, broken4, silent4} {
		l.internet.must("ip", "addr", "add", addr+"/24", "dev", "core")
	}
	l.internet.must("ip", "route", "add", "local", silentNS, "dev", "lo")
	l.internet.must("nft", "-f", l.write("drop.nft", `table inet e2e {
	chain input {
		type filter hook input priority 0;
		ip daddr { `+silent4+`, `+silentNS+` } drop
		ip daddr `+nsdDrop65+` udp dport 53 @th,`+fmt.Sprint((8+12+len("\x06n00000\x06drop65\x07example\x00"))*8)+`,16 65 drop
	}
}
`))
	return a
}

// attackZone is the part of the zone example. that the attack run needs besides the names that tests add.
const attackZone = `$ORIGIN example.
$TTL 300
@               SOA   ns hostmaster 1 3600 600 86400 60
@               NS    ns
ns              A     198.51.100.54
*.calm          A     198.51.100.2
*.cdn           A     198.51.100.2
*.fill          A     198.51.100.2
*.flood         A     198.51.100.2
`

// serveAttackZones serves example. with more records, and further zones by name, with NSD; and Unbound in front of it,
// over Do53 and DoT.
func (a *attackLab) serveAttackZones(records string, zones map[string]string) *process {
	t := a.t
	t.Helper()
	all := map[string]string{
		"example": attackZone + records,
		"drop65.example": "$ORIGIN drop65.example.\n$TTL 300\n@ SOA ns h 1 3600 600 86400 60\n@ NS ns\nns A " + nsdDrop65 +
			"\n* A 198.51.100.2\n",
	}
	maps.Copy(all, zones)
	var nsd, stubs strings.Builder
	for name, zone := range all {
		fmt.Fprintf(&nsd, "zone:\n  name: %s\n  zonefile: %s\n", name, a.write("zones/"+name+".zone", zone))
		at := nsd4
		if name == "drop65.example" {
			at = nsdDrop65
		}
		fmt.Fprintf(&stubs, "stub-zone:\n  name: %s\n  stub-addr: %s\n", name, at)
	}
	a.startNSDAt("attack", nsd4+"\n  ip-address: "+nsdDrop65, nsd.String())
	return a.startUnbound("attack", unbound4, stubs.String())
}

// startNSDAt runs an NSD at addr with these zones.
func (a *attackLab) startNSDAt(name, addr, zones string) *process {
	a.t.Helper()
	return a.internet.startServer("nsd", "-d", "-c", a.write("nsd-"+name+".conf", fmt.Sprintf(`
server:
  ip-address: %[1]s
  username: ""
  chroot: ""
  zonesdir: %[2]q
  database: ""
  pidfile: ""
  xfrdfile: ""
  zonelistfile: "%[2]s/nsd-%[3]s.list"
  xfrdir: %[2]q
  server-count: 1
  tcp-count: 500
remote-control:
  control-enable: no
%[4]s`, addr, a.dir, name, zones)))
}

// startUnbound runs an Unbound at addr that gets everything from these stub zones, and waits until it serves.
func (a *attackLab) startUnbound(name, addr, stubs string) *process {
	a.t.Helper()
	cert, key := a.ca.issue("unbound-"+name, "unbound.isp.example", addr)
	p := a.internet.startServer("unbound", "-d", "-p", "-c", a.write("unbound-"+name+".conf", fmt.Sprintf(`
server:
  interface: %[1]s@53
  interface: %[1]s@853
  tls-port: 853
  tls-service-pem: %[2]q
  tls-service-key: %[3]q
  access-control: 0.0.0.0/0 allow
  outgoing-interface: %[1]s
  outgoing-range: 8192
  num-queries-per-thread: 8192
  incoming-num-tcp: 500
  do-ip6: no
  do-daemonize: no
  use-syslog: no
  verbosity: 1
  logfile: ""
  username: ""
  chroot: ""
  directory: %[4]q
  pidfile: ""
  num-threads: 1
  so-rcvbuf: 4m
  module-config: "iterator"
  qname-minimisation: no
  target-fetch-policy: "0 0 0 0 0"
  local-zone: "." typetransparent
  local-data: ". 3600 NS ns.root.example."
remote-control:
  control-enable: no
%[5]s`, addr, cert, key, a.dir, stubs)))
	poll(a.t, 20*time.Second, "Unbound serves", func() error {
		out, err := a.internet.try("dig", "+tries=1", "+time=2", "@"+addr, "ready.calm.example", "A")
		if err == nil && !strings.Contains(out, "NOERROR") {
			err = fmt.Errorf("got:\n%s", out)
		}
		return err
	})
	return p
}

// startVictim starts the cfrd that is attacked, with further lines of limits: and s.
func (a *attackLab) startVictim(s settings, limits string) *daemon {
	a.t.Helper()
	s.clients = fmt.Sprintf(", %s, %q", attackers4, attackers6)
	s.more += "\nadmin: {pprof: true}\ncache: {size: 1MiB}\n"
	if limits != "" {
		s.more += "limits: {" + limits + "}\n"
	}
	args := []string{"-n", "-10", cfrd(a.t), "serve", "--config", a.write("cfrd.yaml", a.config(a.ca, s))}
	if a.nofile > 0 {
		args = append([]string{"-n", "-10", "prlimit", "--nofile=" + strconv.Itoa(a.nofile)}, args[2:]...)
	}
	d := &daemon{process: a.provider.start("nice", args...), l: a.lab}
	d.waitReady()
	return d
}

// startServer starts a program with the priority of a server that is not to wait for other programs of this machine.
func (ns namespace) startServer(program string, args ...string) *process {
	ns.t.Helper()
	path, err := lookPath(program)
	if err != nil {
		ns.t.Fatal(err)
	}
	return ns.start("nice", append([]string{"-n", "-10", path}, args...)...)
}

// favour gives the test's own threads, which the bystander runs on, the priority of the servers that it asks, as far
// as the test has the right to: what else runs on this machine is no attack.
func favour(t *testing.T) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil {
			syscall.Setpriority(syscall.PRIO_PROCESS, tid, -10)
		}
	}
	// Where the kernel schedules by session first, see sched(7), the whole test must come before other sessions.
	os.WriteFile("/proc/self/autogroup", []byte("-10"), 0)
	t.Cleanup(func() { os.WriteFile("/proc/self/autogroup", []byte("0"), 0) })
}

// fill has other clients ask so many names that the cache is full, as it is in a resolver that has served for a while:
// what an attack leaves is seen against that.
func (a *attackLab) fill() {
	a.t.Helper()
	a.assault(assault{Kind: "flood", Sources: clients4(32), Name: "f%d.fill.example", Type: dns.TypeA, Count: 4500, Rate: 1500})
}

// assault runs an attacker until it has done what it was told.
func (a *attackLab) assault(spec assault) tally {
	t := a.t
	b, err := json.Marshal(spec)
	if err != nil {
		t.Error(err)
	}
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Error(err)
	}
	cmd := a.attackers.command(t.Context(), "nice", "-n", "19", self)
	cmd.Env = append(os.Environ(), attackerRole+"="+string(b))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var got tally
	if err == nil {
		err = json.Unmarshal(out, &got)
	}
	if err != nil {
		t.Errorf("attacker: %v\n%s%s", err, out, stderr.Bytes())
	}
	t.Logf("attacker: %+v", got)
	if got.Sent == 0 && got.Open == 0 {
		t.Errorf("the attack %+v did not take place", spec)
	}
	return got
}

// clients4 returns n addresses of attackers; each is a client of its own.
func clients4(n int) (addrs []string) {
	for i := range n {
		addrs = append(addrs, fmt.Sprintf("10.0.1.%d", i+1))
	}
	return addrs
}

// customers6 returns an address of each of n /64s of one /56.
func customers6(n int) (addrs []string) {
	for i := range n {
		addrs = append(addrs, fmt.Sprintf("2001:db8:a:%x::1", i))
	}
	return addrs
}

const (
	calmPhase   = 5 * time.Second
	attackPhase = 12 * time.Second
)

// growth bounds what a daemon may take more than before while it is attacked.
type growth struct {
	memory      int // octets
	descriptors int
}

// sockets is room for the descriptors of as many queries to upstreams as a resolver may have under way at one time.
const sockets = 4400

// underAttack has a bystander ask d in peace, and then for as long as attack lasts. It holds the bystander's queries
// and what d holds to the criteria of the attack run.
func (a *attackLab) underAttack(t *testing.T, d *daemon, limit growth, attack func()) {
	t.Helper()
	calm, attacked := newBystander(a.lab, a.ca), newBystander(a.lab, a.ca)
	favour(t)
	a.fill()
	calm.warm()
	calm.watchFor(calmPhase, closed())
	before, goroutines, err := d.usageAfterCollection()
	if err != nil {
		t.Fatal(err)
	}
	watch := d.watch()
	done := make(chan struct{})
	go func() {
		defer close(done)
		attack()
	}()
	attacked.watchFor(attackPhase, done)
	<-done
	most := watch.stop()
	t.Logf("before: %v, %v goroutines; at most: %v", before, goroutines, most)
	wantUnmoved(t, calm, attacked)
	if most.resident > before.resident+limit.memory {
		t.Errorf("got %d octets of memory under attack, %d before; want at most %d more", most.resident, before.resident, limit.memory)
	}
	if most.descriptors > before.descriptors+limit.descriptors {
		t.Errorf("got %d descriptors under attack, %d before; want at most %d more", most.descriptors, before.descriptors, limit.descriptors)
	}
	d.wantReturned(t, before, goroutines)
}

// closed returns a channel that is closed already.
func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// ask sends one query from a source address of an attacker's or customer's host over UDP, with a large EDNS buffer,
// and over TCP if the answer is truncated. It returns nil for no answer.
func (ns namespace) ask(source, name string, qtype uint16, limit time.Duration) *dns.Msg {
	ns.t.Helper()
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	m.SetEdns0(1232, false)
	deadline := time.Now().Add(limit)
	for _, network := range []string{"udp", "tcp"} {
		c, err := ns.dial(network, source, resolver4+":53")
		if err != nil {
			return nil
		}
		defer c.Close()
		c.SetDeadline(deadline)
		conn := &dns.Conn{Conn: c, UDPSize: 4096}
		if conn.WriteMsg(m) != nil {
			return nil
		}
		r, err := conn.ReadMsg()
		if err != nil {
			return nil
		}
		if !r.Truncated || network == "tcp" {
			return r
		}
	}
	return nil
}
