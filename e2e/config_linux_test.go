package e2e

import (
	"fmt"
	"os"
	"strings"
)

// settings are the lines of a configuration that tests vary; the zero value is what an operator would write.
type settings struct {
	upstreams string // default: Unbound over Do53
	listen    string // default: all transports at the resolver's two addresses
	steer     string // further lines of steer:, indented by two
	relay     string // further lines of relay:, indented by two
	more      string // further top-level lines
	clients   string // further clients, each with a comma before it
}

const defaultListen = `{
  do53: ["10.0.0.53:53", "[2001:db8:1::53]:53"],
  dot: ["10.0.0.53:853", "[2001:db8:1::53]:853"],
  doh: ["10.0.0.53:443", "[2001:db8:1::53]:443"],
  doq: ["10.0.0.53:853", "[2001:db8:1::53]:853"],
  admin: "127.0.0.1:9153"}`

// config returns the configuration of a cfrd with everything on, and writes the files that it names.
func (l *lab) config(ca *authority, s settings) string {
	l.t.Helper()
	cert, key := l.cfrdCertificate(ca)
	if err := os.Chmod(l.write("seal.key", strings.Repeat("0123456789abcdef", 4)+"\n"), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.write("isp.example.zone", `$ORIGIN isp.example.
$TTL 300
@        SOA  dns hostmaster 1 3600 600 86400 60
@        NS   dns
dns      A    10.0.0.53
dns      AAAA 2001:db8:1::53
www      CNAME dns
*.wild   TXT  "a wildcard"
`)
	if s.upstreams == "" {
		s.upstreams = fmt.Sprintf(`["udp://%s"]`, unbound4)
	}
	if s.listen == "" {
		s.listen = defaultListen
	}
	return fmt.Sprintf(`name: %s
clients: [10.0.0.0/26, "2001:db8:1::/64", 127.0.0.0/8%s]
listen: %s
tls: {certificate: %q, key: %q}
upstreams: %s
upstream_ca: %q
zones: [isp.example.zone]
ddr: {advertise_relay: true}
steer:
  max_ttl: 60s
  hints: rewrite
  on_failure: pass
  allow_special: [198.51.100.0/24, 203.0.113.0/24, "2001:db8:2::/64"]
  rules:
    - {suffixes: [bank.example], action: pass}
    - {suffixes: [cdn.example]}
    - {prefixes: [203.0.113.0/24]}
    - {ech: true}
%s
relay:
  ports: [443, 80, 4443]
  sealed: {prefix: "%s", key_file: seal.key}
  table: {prefixes: [%s, "%s"], store: leases.db}
  egress: [%s, "%s"]
  allow_special: [198.51.100.0/24, 203.0.113.0/24, "2001:db8:2::/64"]
%s
%s
`, adn, s.clients, s.listen, cert, key, s.upstreams, ca.file, s.steer, relaySeal6, relayPool4, relayPool6, egress4, egress6, s.relay, s.more)
}

// serveAll starts everything on the far side and a cfrd with s.
func (l *lab) serveAll(s settings) (*daemon, *authority) {
	l.t.Helper()
	ca := l.newAuthority()
	l.serveZones(ca)
	l.serveHTTPS(ca)
	return l.startCfrd(l.config(ca, s)), ca
}
