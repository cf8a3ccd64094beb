package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

const (
	benchNames = 1000   // asked in turn; all are in the cache
	missNames  = 400000 // asked once each; none is in the cache
)

// dnsPart is one way of asking.
type dnsPart struct {
	work, mode  string
	ours, peers string // ports
	args        []string
}

// dns compares cached answers over UDP, DoT and DoH with Unbound, or with the other cfrd; with that also answers that
// are not cached.
func (b *bench) dns(ctx context.Context) error {
	cert, key, err := b.certificate("dns.bench.example", "127.0.0.1")
	if err != nil {
		return err
	}
	queries := b.queries()
	if err := b.authority(); err != nil {
		return err
	}
	name, startPeer := "Unbound", b.unbound
	if b.against != "" {
		name = "the other cfrd"
		startPeer = func(cert, key string) (int, error) { return b.resolver(b.against, "550", cert, key) }
	}
	peer, err := startPeer(cert, key)
	if err != nil {
		return err
	}
	cfrd, err := b.resolver(b.cfrd, "560", cert, key)
	if err != nil {
		return err
	}
	for _, part := range []dnsPart{
		{"cached answer, UDP", "udp", "5601", "5501", []string{"-c", "16", "-q", "200"}},
		{"cached answer, DoT", "dot", "5602", "5502", []string{"-c", "16", "-q", "200"}},
		{"cached answer, DoH over HTTP/2", "doh", "5603", "5503", []string{"-c", "64", "-q", "64", "-O", "doh-uri=https://127.0.0.1/dns-query"}},
	} {
		load := func(port string, seconds int) func(context.Context) (float64, error) {
			return func(ctx context.Context) (float64, error) {
				return dnsperf(ctx, queries, part.mode, port, seconds, part.args)
			}
		}
		for _, port := range []string{part.ours, part.peers} {
			warm := func() error { _, err := load(port, 1)(ctx); return err }
			if err := until(ctx, "warm up "+part.work, warm); err != nil {
				return fmt.Errorf("%w\n%s", err, b.logs())
			}
		}
		err := b.compare(ctx, part.work+" (peer: "+name+")", "answer",
			subject{pid: cfrd, load: load(part.ours, b.seconds)}, subject{pid: peer, load: load(part.peers, b.seconds)})
		if err != nil {
			return err
		}
	}
	if b.against == "" {
		return nil
	}
	return b.compare(ctx, "answer that is not cached, UDP (peer: "+name+")", "answer",
		subject{pid: cfrd, load: b.misses("5601")}, subject{pid: peer, load: b.misses("5501")})
}

// misses returns a load of names that nobody has asked for before.
func (b *bench) misses(port string) func(context.Context) (float64, error) {
	next := 0
	return func(ctx context.Context) (float64, error) {
		var q strings.Builder
		const perRound = 20000
		for i := next; i < next+perRound; i++ {
			fmt.Fprintf(&q, "n%d.miss.bench.example A\n", i%missNames)
		}
		next += perRound
		// A single pass over the input, however long it takes.
		return dnsperf(ctx, b.write("misses-"+port, q.String()), "udp", port, 30, []string{"-c", "8", "-q", "50", "-n", "1"})
	}
}

// completed finds what dnsperf counts. Over DoH it is the HTTP responses: dnsperf 2.10 loses track of the DNS messages
// in them when the frames of several streams alternate.
var (
	sent      = regexp.MustCompile(`Queries sent:\s+(\d+)`)
	completed = regexp.MustCompile(`Queries completed:\s+(\d+)`)
	http200   = regexp.MustCompile(`return codes:\s+200: (\d+)`)
)

// dnsperf returns how many queries were answered.
func dnsperf(ctx context.Context, queries, mode, port string, seconds int, more []string) (float64, error) {
	argv := []string{"dnsperf", "-s", "127.0.0.1", "-p", port, "-m", mode, "-d", queries, "-l", strconv.Itoa(seconds), "-T", "1"}
	out, err := output(ctx, "", append(argv, more...)...)
	if err != nil {
		return 0, err
	}
	done := completed
	if mode == "doh" {
		done = http200
	}
	s, d := sent.FindStringSubmatch(out), done.FindStringSubmatch(out)
	if s == nil || d == nil || !strings.Contains(out, "NOERROR") {
		return 0, fmt.Errorf("dnsperf: no answers in\n%s", out)
	}
	asked, err1 := strconv.ParseFloat(s[1], 64)
	answered, err2 := strconv.ParseFloat(d[1], 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	if answered < 0.98*asked {
		return 0, fmt.Errorf("dnsperf: %.0f queries, but only %.0f answers", asked, answered)
	}
	return answered, nil
}

// queries writes dnsperf's input.
func (b *bench) queries() string {
	var q strings.Builder
	for i := range benchNames {
		fmt.Fprintf(&q, "host%d.bench.example A\n", i)
	}
	return b.write("queries", q.String())
}

// authority starts NSD with the names that are asked.
func (b *bench) authority() error {
	var zone strings.Builder
	zone.WriteString("$ORIGIN bench.example.\n$TTL 3600\n@ SOA ns host 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n*.miss A 192.0.2.1\n")
	for i := range benchNames {
		fmt.Fprintf(&zone, "host%d A 192.0.2.%d\n", i, i%254+1)
	}
	b.write("bench.example.zone", zone.String())
	conf := b.write("nsd.conf", fmt.Sprintf(`
server:
  ip-address: 127.0.0.1@5499
  username: ""
  chroot: ""
  zonesdir: %[1]q
  database: ""
  pidfile: ""
  xfrdfile: ""
  zonelistfile: "%[1]s/nsd.list"
  xfrdir: %[1]q
  server-count: 1
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: bench.example
  zonefile: bench.example.zone
`, b.dir))
	_, err := b.start(loadCore, "", "/usr/sbin/nsd", "-d", "-c", conf)
	return err
}

func (b *bench) unbound(cert, key string) (int, error) {
	conf := b.write("unbound.conf", fmt.Sprintf(`
server:
  interface: 127.0.0.1@5501
  interface: 127.0.0.1@5502
  interface: 127.0.0.1@5503
  tls-port: 5502
  https-port: 5503
  tls-service-pem: %q
  tls-service-key: %q
  do-not-query-localhost: no
  do-daemonize: no
  use-syslog: no
  logfile: ""
  verbosity: 0
  username: ""
  chroot: ""
  directory: %q
  pidfile: ""
  num-threads: 1
  so-reuseport: yes
  so-rcvbuf: 4m
  so-sndbuf: 4m
  incoming-num-tcp: 1000
  module-config: "iterator"
  minimal-responses: yes
remote-control:
  control-enable: no
stub-zone:
  name: bench.example
  stub-addr: 127.0.0.1@5499
`, cert, key, b.dir))
	return b.start(serverCore, "", "/usr/sbin/unbound", "-d", "-p", "-c", conf)
}

// resolver starts a cfrd at ports that begin with the three digits.
func (b *bench) resolver(binary, ports, cert, key string) (int, error) {
	conf := b.write("cfrd-"+ports+".yaml", fmt.Sprintf(`
name: dns.bench.example
clients: [127.0.0.0/8]
listen: {do53: ["127.0.0.1:%[1]s1"], dot: ["127.0.0.1:%[1]s2"], doh: ["127.0.0.1:%[1]s3"], admin: "127.0.0.1:%[1]s9"}
tls: {certificate: %[2]q, key: %[3]q}
upstreams: ["udp://127.0.0.1:5499"]
log: {level: warn}
`, ports, cert, key))
	return b.start(serverCore, "", binary, "serve", "--mode", "resolver", "--config", conf)
}

// certificate makes a self-signed ECDSA P-256 certificate for both servers.
func (b *bench) certificate(name, addr string) (cert, key string, err error) {
	cert, key = b.dir+"/cert.pem", b.dir+"/key.pem"
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN="+name,
		"-addext", "subjectAltName=DNS:"+name+",IP:"+addr).CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("openssl: %w\n%s", err, out)
	}
	return cert, key, nil
}
