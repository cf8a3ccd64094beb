package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// connections is how many short connections a round makes.
const connections = 3000

// tcp compares TCP through the relay with HAProxy, between three network namespaces.
func (b *bench) tcp(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	id := fmt.Sprintf("bench%d", os.Getpid())
	client, relay, origin := id+"c", id+"r", id+"o"
	defer func() {
		for _, ns := range []string{client, relay, origin} {
			exec.Command("ip", "netns", "del", ns).Run()
		}
	}()
	if err := topology(client, relay, origin); err != nil {
		return err
	}
	// One for each subject: between two tests iperf3 does not listen for a moment.
	for _, port := range []string{"5201", "5203", "5204"} {
		if _, err := b.start(loadCore, origin, "iperf3", "-s", "-B", "198.51.100.2", "-p", port); err != nil {
			return err
		}
	}
	if _, err := b.start(loadCore, origin, self, "echo", "198.51.100.2:5202"); err != nil {
		return err
	}
	haproxy, err := b.start(serverCore, relay, "/usr/sbin/haproxy", "-db", "-f", b.write("haproxy.cfg", `
global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen bulk
  bind 10.0.0.54:5201
  server origin 198.51.100.2:5203
listen spliced
  option splice-request
  option splice-response
  bind 10.0.0.54:5204
  server origin 198.51.100.2:5204
listen short
  bind 10.0.0.54:5202
  server origin 198.51.100.2:5202
`))
	if err != nil {
		return err
	}
	cfrd, err := b.start(serverCore, relay, b.cfrd, "serve", "--config", b.write("relay.yaml", `
name: dns.bench.example
clients: [10.0.0.0/24]
listen: {do53: ["10.0.0.53:53"], admin: "127.0.0.1:9153"}
upstreams: ["udp://198.51.100.2"]
zones: [relay.bench.zone]
steer: {allow_special: [198.51.100.0/24], rules: [{suffixes: [origin.example]}]}
relay:
  ports: [5201, 5202]
  table: {prefixes: [10.99.0.0/16], store: leases.db}
  egress: [192.0.2.64/28]
  allow_special: [198.51.100.0/24]
  limits: {new_flows_per_second: 1000000, new_flows_burst: 1000000} # of one client, which plays all
log: {level: warn}
`))
	if err != nil {
		return err
	}
	b.write("relay.bench.zone", "$ORIGIN bench.example.\n$TTL 300\n@ SOA ns host 1 3600 600 86400 60\n@ NS ns\nns A 10.0.0.53\n")
	if err := b.originNames(origin); err != nil {
		return err
	}
	var addr string
	err = until(ctx, "a relay address", func() error {
		out, err := output(ctx, client, "dig", "+short", "+tries=1", "+time=1", "@10.0.0.53", "www.origin.example", "A")
		addr = strings.TrimSpace(out)
		if err == nil && !strings.HasPrefix(addr, "10.99.") {
			err = fmt.Errorf("got %q", addr)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, b.logs())
	}
	bulk := func(to, port string) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) { return iperf3(ctx, client, to, port, b.seconds) }
	}
	short := func(to string) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			_, err := output(ctx, client, self, "connect", to+":5202", strconv.Itoa(connections))
			return connections, err
		}
	}
	for _, peer := range []struct{ name, port string }{{"HAProxy", "5201"}, {"HAProxy told to splice", "5204"}} {
		err = b.compare(ctx, "TCP through the relay, bulk (peer: "+peer.name+")", "MB",
			subject{pid: cfrd, load: bulk(addr, "5201")}, subject{pid: haproxy, load: bulk("10.0.0.54", peer.port)})
		if err != nil {
			return err
		}
	}
	return b.compare(ctx, "TCP through the relay, short connections (peer: HAProxy)", "connection",
		subject{pid: cfrd, load: short(addr)}, subject{pid: haproxy, load: short("10.0.0.54")})
}

// originNames serves the one name of the origin's network.
func (b *bench) originNames(ns string) error {
	b.write("origin.example.zone", "$ORIGIN origin.example.\n$TTL 3600\n@ SOA ns host 1 3600 600 86400 60\n@ NS ns\nns A 198.51.100.2\nwww A 198.51.100.2\n")
	conf := b.write("nsd-origin.conf", fmt.Sprintf(`
server:
  ip-address: 198.51.100.2
  username: ""
  chroot: ""
  zonesdir: %[1]q
  database: ""
  pidfile: ""
  xfrdfile: ""
  zonelistfile: "%[1]s/nsd-origin.list"
  xfrdir: %[1]q
  server-count: 1
remote-control:
  control-enable: no
zone:
  name: origin.example
  zonefile: origin.example.zone
`, b.dir))
	_, err := b.start(loadCore, ns, "/usr/sbin/nsd", "-d", "-c", conf)
	return err
}

// topology makes client – relay – origin.
func topology(client, relay, origin string) error {
	script := fmt.Sprintf(`set -e
for ns in %[1]s %[2]s %[3]s; do ip netns add $ns; ip -n $ns link set lo up; done
ip -n %[1]s link add access type veth peer name access netns %[2]s
ip -n %[2]s link add core type veth peer name core netns %[3]s
ip -n %[1]s addr add 10.0.0.2/24 dev access
ip -n %[2]s addr add 10.0.0.1/24 dev access
ip -n %[2]s addr add 10.0.0.53/24 dev access
ip -n %[2]s addr add 10.0.0.54/24 dev access
ip -n %[2]s addr add 198.51.100.1/24 dev core
ip -n %[3]s addr add 198.51.100.2/24 dev core
ip -n %[1]s link set access up; ip -n %[2]s link set access up
ip -n %[2]s link set core up; ip -n %[3]s link set core up
ip -n %[1]s route add default via 10.0.0.1
ip -n %[3]s route add 192.0.2.64/28 via 198.51.100.1
`, client, relay, origin)
	out, err := exec.Command("bash", "-c", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("network namespaces: %w\n%s", err, out)
	}
	return nil
}

// iperf3 returns how many megabytes arrived.
func iperf3(ctx context.Context, ns, to, port string, seconds int) (float64, error) {
	out, err := output(ctx, ns, "iperf3", "-c", to, "-p", port, "-t", strconv.Itoa(seconds), "-P", "4", "-J")
	if err != nil {
		return 0, err
	}
	var report struct {
		End struct {
			SumReceived struct {
				Bytes float64 `json:"bytes"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return 0, fmt.Errorf("iperf3: %w", err)
	}
	if report.End.SumReceived.Bytes == 0 {
		return 0, fmt.Errorf("iperf3: no bytes arrived:\n%s", out)
	}
	return report.End.SumReceived.Bytes / 1e6, nil
}

// helper is the other end and the load of the short connections, as processes of their own.
func helper(what string, args []string) error {
	if what == "echo" {
		return echo(args[0])
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	return connect(args[0], n)
}

// echo sends back what it gets, until it is killed.
func echo(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// connect makes n connections, eight at a time; each sends a few bytes, reads them back and is closed.
func connect(addr string, n int) error {
	const atOnce = 8
	errc := make(chan error, atOnce)
	for range atOnce {
		go func() {
			var err error
			for range n / atOnce {
				if err = roundTrip(addr); err != nil {
					break
				}
			}
			errc <- err
		}()
	}
	var err error
	for range atOnce {
		err = errors.Join(err, <-errc)
	}
	return err
}

func roundTrip(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := []byte("a few bytes")
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err = io.ReadFull(c, buf)
	return err
}
