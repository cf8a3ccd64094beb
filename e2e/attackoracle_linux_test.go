package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// forwarder is a resolver that is asked the same as ours, with the same upstreams.
type forwarder struct {
	name string
	port string // at resolver4
}

// startForwarders starts Unbound, dnsmasq and BIND, as forwarders to the same upstreams, beside a cfrd.
func (a *attackLab) startForwarders(upstreams []string) []forwarder {
	a.t.Helper()
	need(a.t, "unbound", "dnsmasq", "named")
	a.provider.start("unbound", "-d", "-p", "-c", a.write("forward-unbound.conf", fmt.Sprintf(`
server:
  interface: %s@5301
  access-control: 0.0.0.0/0 allow
  do-ip6: no
  do-daemonize: no
  use-syslog: no
  logfile: ""
  username: ""
  chroot: ""
  directory: %q
  pidfile: ""
  num-threads: 1
  module-config: "iterator"
remote-control:
  control-enable: no
forward-zone:
  name: .
  forward-addr: %s
`, resolver4, a.dir, strings.Join(upstreams, "\n  forward-addr: "))))
	args := []string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts",
		"--bind-interfaces", "--listen-address=" + resolver4, "--port=5302", "--log-facility=-",
	}
	for _, u := range upstreams {
		args = append(args, "--server="+u)
	}
	a.provider.start("dnsmasq", args...)
	a.provider.start("named", "-g", "-c", a.write("forward-named.conf", fmt.Sprintf(`
options {
	directory %q;
	pid-file none;
	session-keyfile none;
	listen-on port 5303 { %s; };
	listen-on-v6 { none; };
	allow-query { any; };
	recursion yes;
	allow-recursion { any; };
	dnssec-validation no;
	forward only;
	forwarders { %s; };
};
controls { };
`, a.dir, resolver4, strings.Join(upstreams, "; "))))
	return []forwarder{{"unbound", "5301"}, {"dnsmasq", "5302"}, {"bind", "5303"}}
}

// verdict is how good an answer is; more is better.
type verdict int

const (
	silence verdict = iota
	servfail
	otherRcode
	truncated
	whole
)

func (v verdict) String() string {
	return [...]string{"no answer", "SERVFAIL", "another RCODE", "a truncated answer", "an answer"}[v]
}

// judge asks f over UDP for names that it has not been asked for, and returns its worst answer and its longest time.
func (a *attackLab) judge(f forwarder, pattern string, qtype uint16) (worst verdict, slowest time.Duration) {
	a.t.Helper()
	var mu sync.Mutex
	var work sync.WaitGroup
	worst = whole
	for i := range 6 {
		work.Go(func() {
			begin := time.Now()
			got := a.judgeOne(f, nthName(pattern, i), qtype)
			mu.Lock()
			defer mu.Unlock()
			worst = min(worst, got)
			slowest = max(slowest, time.Since(begin))
		})
	}
	work.Wait()
	return worst, slowest.Round(time.Millisecond)
}

func (a *attackLab) judgeOne(f forwarder, name string, qtype uint16) verdict {
	c, err := a.customer.dial("udp", "", resolver4+":"+f.port)
	if err != nil {
		a.t.Error(err)
		return silence
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	conn := &dns.Conn{Conn: c, UDPSize: 4096}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	m.SetEdns0(1232, false)
	if err := conn.WriteMsg(m); err != nil {
		return silence
	}
	r, err := conn.ReadMsg()
	switch {
	case err != nil:
		return silence
	case r.Rcode == dns.RcodeServerFailure:
		return servfail
	case r.Rcode != dns.RcodeSuccess:
		return otherRcode
	case r.Truncated:
		return truncated
	case len(r.Answer) == 0:
		return otherRcode
	}
	return whole
}

// withoutEDNS is an upstream at broken4 that answers FORMERR without OPT to every query that has OPT, as servers from
// before RFC 6891 do, and as warmReply does to others.
func (a *attackLab) withoutEDNS() {
	pc := a.internet.listenUDP(netip.AddrPortFrom(netip.MustParseAddr(broken4), 53).String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if n < 17 {
				continue
			}
			reply := warmReply(buf[:n])
			if buf[11] != 0 { // the count of the Additional section
				reply = []byte{buf[0], buf[1], 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0}
			}
			pc.WriteToUDPAddrPort(reply, from)
		}
	}()
	a.t.Cleanup(func() { pc.Close(); <-done })
}

// TestAttackOracles asks Unbound, dnsmasq, BIND and cfrd the same questions, with the same broken upstreams. What cfrd
// answers must be as good as the best of the others.
func TestAttackOracles(t *testing.T) {
	need(t, "unbound", "dnsmasq", "named")
	long := "*.long TXT " + strings.Repeat(`"`+strings.Repeat("x", 250)+`" `, 12) + "\n"
	rows := []struct {
		name      string
		upstreams []string
		prepare   func(a *attackLab)
		question  string
		qtype     uint16
	}{
		{"servfail-and-working", []string{broken4, unbound4}, (*attackLab).servfailing, "o%d.calm.example", dns.TypeA},
		{"refused-and-silent", []string{broken4, silent4}, (*attackLab).refusing, "o%d.calm.example", dns.TypeA},
		{"refused-and-working", []string{broken4, unbound4}, (*attackLab).refusing, "o%d.calm.example", dns.TypeA},
		{"silent-and-working", []string{silent4, unbound4}, func(*attackLab) {}, "o%d.calm.example", dns.TypeA},
		{"formerr-without-opt", []string{broken4}, (*attackLab).withoutEDNS, "warm%d.calm.example", dns.TypeA},
		{"truncated-and-tcp-closed", []string{unbound4}, (*attackLab).breakTCP, "o%d.long.example", dns.TypeTXT},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			a := newAttackLab(t)
			a.serveAttackZones(long, nil)
			r.prepare(a)
			others := a.startForwarders(r.upstreams)
			a.launchCfrd(a.config(a.ca, settings{upstreams: `["udp://` + strings.Join(r.upstreams, `", "udp://`) + `"]`}))
			var best verdict
			for _, f := range append(others, forwarder{"cfrd", "53"}) {
				a.listens(f)
				got, took := a.judge(f, r.question, r.qtype)
				t.Logf("%-26s %-8s %v, at most after %v", r.name, f.name, got, took)
				if got == truncated {
					got = servfail // it sends the client to TCP, where nothing else comes
				}
				if f.name != "cfrd" {
					best = max(best, got)
				} else if got < best {
					t.Errorf("got %v of cfrd; want %v, as the best of the others gives", got, best)
				}
			}
		})
	}
}

// listens waits until f answers to anything at all, or says over TCP that it is there.
func (a *attackLab) listens(f forwarder) {
	a.t.Helper()
	poll(a.t, 20*time.Second, f.name+" listens", func() error {
		c, err := a.customer.dial("tcp", "", resolver4+":"+f.port)
		if err != nil {
			return errors.New("it does not")
		}
		return c.Close()
	})
}
