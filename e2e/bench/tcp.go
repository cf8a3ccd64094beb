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

// tcp compares TCP through the relay with HAProxy, or the other cfrd, between three network namespaces.
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
	for _, port := range []string{"5202", "5206"} {
		if _, err := b.start(loadCore, origin, self, "echo", "198.51.100.2:"+port); err != nil {
			return err
		}
	}
	if err := b.originNames(origin); err != nil {
		return err
	}
	b.write("relay.bench.zone", "$ORIGIN bench.example.\n$TTL 300\n@ SOA ns host 1 3600 600 86400 60\n@ NS ns\nns A 10.0.0.53\n")
	ours, err := b.relay(ctx, b.cfrd, client, relay, relayPlace{"10.0.0.53", "10.99", "192.0.2.64/28", "5201", "5202"})
	if err != nil {
		return err
	}
	start := b.haproxy
	if b.against != "" {
		start = b.otherRelay
	}
	peers, err := start(ctx, client, relay)
	if err != nil {
		return err
	}
	bulk := func(p relayPeer) subject {
		return subject{p.pid, func(ctx context.Context) (float64, error) { return iperf3(ctx, client, p.addr, p.port, b.seconds) }}
	}
	short := func(p relayPeer) subject {
		return subject{p.pid, func(ctx context.Context) (float64, error) {
			_, err := output(ctx, client, self, "connect", net.JoinHostPort(p.addr, p.short), strconv.Itoa(connections))
			return connections, err
		}}
	}
	for _, peer := range peers {
		err = b.compare(ctx, "TCP through the relay, bulk (peer: "+peer.name+")", "MB", bulk(ours), bulk(peer))
		if err != nil {
			return err
		}
	}
	return b.compare(ctx, "TCP through the relay, short connections (peer: "+peers[0].name+")", "connection", short(ours), short(peers[0]))
}

// relayPeer is a relay under load: where its clients find the origin's port for bulk, and that for short connections.
type relayPeer struct {
	name        string
	pid         int
	addr        string
	port, short string
}

// haproxy starts HAProxy, which serves at one port as it is, and at another told to splice.
func (b *bench) haproxy(_ context.Context, _, ns string) ([]relayPeer, error) {
	pid, err := b.start(serverCore, ns, "/usr/sbin/haproxy", "-db", "-f", b.write("haproxy.cfg", `
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
	return []relayPeer{
		{"HAProxy", pid, "10.0.0.54", "5201", "5202"},
		{"HAProxy told to splice", pid, "10.0.0.54", "5204", "5202"},
	}, err
}

// otherRelay starts the cfrd to compare with, at ports and addresses of its own.
func (b *bench) otherRelay(ctx context.Context, client, ns string) ([]relayPeer, error) {
	peer, err := b.relay(ctx, b.against, client, ns, relayPlace{"10.0.0.55", "10.98", "192.0.2.80/28", "5203", "5206"})
	peer.name = "the other cfrd"
	return []relayPeer{peer}, err
}

// relayPlace is where a cfrd resolves, has its relay addresses, sends from, and which ports it relays.
type relayPlace struct{ resolver, pool, egress, bulk, short string }

// relay starts a cfrd and asks it for a relay address of the origin.
func (b *bench) relay(ctx context.Context, binary, client, ns string, at relayPlace) (relayPeer, error) {
	pid, err := b.start(serverCore, ns, binary, "serve", "--config", b.write("relay-"+at.pool+".yaml", fmt.Sprintf(`
name: dns.bench.example
clients: [10.0.0.0/24]
listen: {do53: ["%s:53"]}
upstreams: ["udp://198.51.100.2"]
zones: [relay.bench.zone]
steer: {allow_special: [198.51.100.0/24], rules: [{suffixes: [origin.example]}]}
relay:
  ports: [%s, %s]
  table: {prefixes: [%s.0.0/16], store: leases-%[4]s.db}
  egress: [%[5]s]
  allow_special: [198.51.100.0/24]
log: {level: warn}
`, at.resolver, at.bulk, at.short, at.pool, at.egress)))
	if err != nil {
		return relayPeer{}, err
	}
	var addr string
	err = until(ctx, "a relay address", func() error {
		out, err := output(ctx, client, "dig", "+short", "+tries=1", "+time=1", "@"+at.resolver, "www.origin.example", "A")
		addr = strings.TrimSpace(out)
		if err == nil && !strings.HasPrefix(addr, at.pool+".") {
			err = fmt.Errorf("got %q", addr)
		}
		return err
	})
	if err != nil {
		return relayPeer{}, fmt.Errorf("%w\n%s", err, b.logs())
	}
	return relayPeer{"cfrd", pid, addr, at.bulk, at.short}, nil
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
  rrl-ratelimit: 0
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
ip -n %[2]s addr add 10.0.0.55/24 dev access
ip -n %[2]s addr add 198.51.100.1/24 dev core
ip -n %[3]s addr add 198.51.100.2/24 dev core
ip -n %[1]s link set access up; ip -n %[2]s link set access up
ip -n %[2]s link set core up; ip -n %[3]s link set core up
ip -n %[1]s route add default via 10.0.0.1
ip -n %[3]s route add 192.0.2.64/27 via 198.51.100.1
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
