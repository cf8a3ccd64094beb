package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// servfailing runs an NSD at broken4 that is to serve the root but has no data for it: SERVFAIL to everything.
func (a *attackLab) servfailing() {
	a.t.Helper()
	a.startNSDAt("servfail", broken4, "zone:\n  name: .\n  zonefile: "+a.dir+"/there-is-none\n")
	a.answers(broken4, "SERVFAIL")
}

// refusing runs an NSD at broken4 that serves nothing: REFUSED to everything.
func (a *attackLab) refusing() {
	a.t.Helper()
	a.startNSDAt("refused", broken4, "")
	a.answers(broken4, "REFUSED")
}

// answers waits until a server at addr answers with an RCODE.
func (a *attackLab) answers(addr, rcode string) {
	a.t.Helper()
	poll(a.t, 15*time.Second, addr+" answers "+rcode, func() error {
		out, err := a.internet.try("dig", "+tries=1", "+time=1", "@"+addr, "www.calm.example", "A")
		if err == nil && !strings.Contains(out, rcode) {
			err = fmt.Errorf("got:\n%s", out)
		}
		return err
	})
}

// breakTCP resets every TCP connection to port 53 of the upstream.
func (a *attackLab) breakTCP() {
	a.t.Helper()
	a.internet.must("nft", "add", "rule", "inet", "e2e", "input", "ip", "daddr", unbound4, "tcp", "dport", "53", "reject", "with", "tcp", "reset")
}

// TestAttackServfailUpstream has the first of two upstreams answer SERVFAIL to everything, as one does that has lost
// its line. The bystander's questions are all answered by the other one.
func TestAttackServfailUpstream(t *testing.T) {
	a := newAttackLab(t)
	a.serveAttackZones("", nil)
	a.servfailing()
	d := a.startVictim(settings{upstreams: fmt.Sprintf("[%q, %q]", "udp://"+broken4, "udp://"+unbound4)}, "")
	a.underAttack(t, d, growth{64 << 20, 500}, func() {
		a.assault(assault{Kind: "flood", Sources: clients4(8), Name: "s%d.flood.example", Type: dns.TypeA, Count: 1000, Rate: 100})
	})
}

// TestAttackServfailAlone has the only upstream answer SERVFAIL to everything: cfrd is not ready.
func TestAttackServfailAlone(t *testing.T) {
	for rcode, start := range map[string]func(*attackLab){"servfail": (*attackLab).servfailing, "refused": (*attackLab).refusing} {
		t.Run(rcode, func(t *testing.T) {
			a := newAttackLab(t)
			start(a)
			a.launchCfrd(a.config(a.ca, settings{upstreams: fmt.Sprintf("[%q]", "udp://"+broken4)}))
			status := func() string {
				out, _ := a.provider.try("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9153/readyz")
				return out
			}
			poll(t, 10*time.Second, "cfrd tells whether it is ready", func() error {
				if s := status(); s != "200" && s != "503" {
					return fmt.Errorf("got %s", s)
				}
				return nil
			})
			for range 5 {
				a.customer.ask("", "www.calm.example", dns.TypeA, 5*time.Second)
			}
			poll(t, 10*time.Second, "/readyz tells that the only upstream is of no use", func() error {
				if s := status(); s != "503" {
					return fmt.Errorf("got %s; want 503", s)
				}
				return nil
			})
		})
	}
}

// TestAttackWithheldAnswer has answers at hand while a second upstream, or the connection for the whole of an answer,
// never answers. What there is must go out long before the query ends.
func TestAttackWithheldAnswer(t *testing.T) {
	const longTXT = "long TXT "
	zone := longTXT + strings.Repeat(`"`+strings.Repeat("x", 250)+`" `, 12) + "\n"
	t.Run("refused-and-silent", func(t *testing.T) {
		a := newAttackLab(t)
		a.refusing()
		a.startCfrd(a.config(a.ca, settings{upstreams: fmt.Sprintf("[%q, %q]", "udp://"+broken4, "udp://"+silent4)}))
		for i := range 3 {
			begin := time.Now()
			m := a.customer.ask("", fmt.Sprintf("w%d.calm.example", i), dns.TypeA, 5*time.Second)
			if took := time.Since(begin); m == nil || m.Rcode != dns.RcodeRefused || took > 3*time.Second {
				t.Errorf("got %s after %v; want REFUSED, which is what the first upstream says, in less than 3 s", rcodeOf(m), took)
			}
		}
	})
	t.Run("truncated-and-no-tcp", func(t *testing.T) {
		a := newAttackLab(t)
		a.serveAttackZones(zone, nil)
		a.breakTCP()
		d := a.startVictim(settings{}, "")
		a.underAttack(t, d, growth{64 << 20, 500}, func() {
			for range 4 {
				m := askOverUDP(a.attackers, "10.0.1.1", "long.example", dns.TypeTXT)
				if m == nil || !m.Truncated || m.Rcode != dns.RcodeSuccess {
					t.Errorf("long.example TXT: got %s; want the truncated answer that there is", rcodeOf(m))
				}
			}
		})
	})
	t.Run("refused-silent-and-good", func(t *testing.T) {
		a := newAttackLab(t)
		a.serveAttackZones("", nil)
		a.refusing()
		d := a.startVictim(settings{upstreams: fmt.Sprintf("[%q, %q, %q]", "udp://"+broken4, "udp://"+silent4, "udp://"+unbound4)}, "")
		a.underAttack(t, d, growth{64 << 20, 500}, func() {
			a.assault(assault{Kind: "flood", Sources: clients4(8), Name: "w%d.flood.example", Type: dns.TypeA, Count: 500, Rate: 50})
		})
	})
}

// askOverUDP asks once and takes an answer that is truncated.
func askOverUDP(ns namespace, source, name string, qtype uint16) *dns.Msg {
	c, err := ns.dial("udp", source, resolver4+":53")
	if err != nil {
		return nil
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	conn := &dns.Conn{Conn: c, UDPSize: 4096}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	m.SetEdns0(1232, false)
	if conn.WriteMsg(m) != nil {
		return nil
	}
	r, err := conn.ReadMsg()
	if err != nil {
		return nil
	}
	return r
}

// upstreamPorts returns the local ports of the provider's connections to a DoT upstream.
func (a *attackLab) upstreamPorts() []string {
	out, err := a.provider.try("ss", "-Htn", "state", "established", "dst", unbound4+":853")
	if err != nil {
		a.t.Errorf("ss: %v", err)
	}
	var ports []string
	for _, m := range regexp.MustCompile(`:(\d+)\s+`+regexp.QuoteMeta(unbound4)+`:853`).FindAllStringSubmatch(out, -1) {
		ports = append(ports, m[1])
	}
	return ports
}

// stallPhase is how long an attack lasts of which only the beginning can be late: what waits for a silent connection when
// it is found silent is less than one in a hundred of the queries of this time.
const stallPhase = 20 * time.Second

// TestAttackSilentConnection drops what comes on the DoT connections to the upstream that are open, as a firewall does
// that has lost its state: no FIN, no RST. New connections work.
func TestAttackSilentConnection(t *testing.T) {
	a := newAttackLab(t)
	a.serveAttackZones("", nil)
	d := a.startVictim(settings{upstreams: fmt.Sprintf("[%q]", "tls://"+unbound4+"#unbound.isp.example")}, "")
	a.underAttack(t, d, growth{64 << 20, 500}, func() {
		ports := a.upstreamPorts()
		if len(ports) == 0 {
			t.Error("there is no connection to the upstream")
			return
		}
		if _, err := a.internet.try("nft", "add", "rule", "inet", "e2e", "input", "ip", "daddr", unbound4, "tcp", "dport", "853",
			"tcp", "sport", "{", strings.Join(ports, ","), "}", "drop"); err != nil {
			t.Errorf("nft: %v", err)
		}
		sleep(t.Context(), stallPhase)
	})
}

// TestAttackStoppedUpstream stops the first of two DoT upstreams with its connections open.
func TestAttackStoppedUpstream(t *testing.T) {
	a := newAttackLab(t)
	first := a.serveAttackZones("", nil)
	a.startUnbound("second", broken4, "stub-zone:\n  name: example\n  stub-addr: "+nsd4+"\n")
	d := a.startVictim(settings{upstreams: fmt.Sprintf("[%q, %q]", "tls://"+unbound4+"#unbound.isp.example", "tls://"+broken4+"#unbound.isp.example")}, "")
	a.underAttack(t, d, growth{64 << 20, 500}, func() {
		first.signal(syscall.SIGSTOP)
		sleep(t.Context(), stallPhase)
		first.signal(syscall.SIGCONT)
	})
}

// TestAttackSlowZones has twelve clients ask for names below zones whose servers never answer. A slow zone is no fault
// of the upstream, and takes nothing from others.
func TestAttackSlowZones(t *testing.T) {
	const zones = 100
	var zone strings.Builder
	for i := range zones {
		for j := range 8 {
			fmt.Fprintf(&zone, "z%[1]d.silent NS ns%[2]d.z%[1]d.silent\nns%[2]d.z%[1]d.silent A 198.18.%[1]d.%[2]d\n", i, j+1)
		}
	}
	a := newAttackLab(t)
	a.serveAttackZones(zone.String(), nil)
	d := a.startVictim(settings{}, "")
	a.underAttack(t, d, growth{128 << 20, sockets}, func() {
		a.assault(assault{Kind: "flood", Sources: clients4(12), Name: "q%d.z#.silent.example", Type: dns.TypeA, Count: 12000, Rate: 1200})
	})
	if out, err := a.provider.try("curl", "-sf", "http://127.0.0.1:9153/readyz"); err != nil {
		t.Errorf("/readyz after the attack: %v\n%s", err, out)
	}
	poll(t, 5*time.Second, "nothing waits", func() error {
		if d.number("cfrd_in_flight") > 0 {
			return errors.New("queries are in flight")
		}
		return nil
	})
}
