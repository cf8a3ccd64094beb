package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"golang.org/x/sync/errgroup"

	"github.com/cfrd-project/cfrd/resolver"
	"github.com/cfrd-project/cfrd/zones"
)

// configTemplate is the configuration of the demo's resolver and relay: an ordinary one, but for its loopback addresses.
//
//go:embed demo.yaml.tmpl
var configTemplate string

// stage is everything that the demo runs: an ordinary node, and the internet around it.
type stage struct {
	// set once by newStage
	ports    Ports
	newNode  NewNode
	ca       *authority
	caFile   string // with the certificate of ca
	origin   *origin
	upstream *resolver.Server
	node     Node
}

// newStage binds every listener, or none. Files that the node reads are written into dir.
func newStage(ports Ports, dir string, newNode NewNode) (_ *stage, err error) {
	s := &stage{ports: ports, newNode: newNode, caFile: filepath.Join(dir, "ca.pem")}
	if s.ca, err = newAuthority(); err != nil {
		return nil, err
	}
	for _, step := range []func(dir string) error{s.writeCertificates, s.bindOrigin, s.bindUpstream, s.bindNode} {
		if err := step(dir); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// close closes what is bound. It is for a stage that never runs.
func (s *stage) close() {
	if s.origin != nil {
		s.origin.close()
	}
	if s.upstream != nil {
		s.upstream.Close()
	}
}

// bindOrigin makes the web server.
func (s *stage) bindOrigin(string) error {
	cert, err := s.ca.issue([]string{steeredName, directName, outerName})
	if err != nil {
		return err
	}
	s.origin, err = newOrigin(netip.AddrPortFrom(originAddr, s.ports.Origin), cert)
	return err
}

// bindUpstream makes the recursive resolver that knows the names of the demo's internet. It is a resolver of this program
// that has only a zone.
func (s *stage) bindUpstream(dir string) error {
	zone := fmt.Sprintf(`$ORIGIN demo.test.
$TTL 300
@        SOA   ns hostmaster 1 3600 600 86400 60
@        NS    ns
ns       A     127.0.0.1
steered  A     %[1]v
steered  HTTPS 1 . alpn="h2,h3" port=%[2]d ipv4hint=%[1]v ech="%[3]s"
_%[2]d._https.steered HTTPS 1 steered alpn="h2,h3" port=%[2]d ipv4hint=%[1]v ech="%[3]s"
direct   A     %[1]v
`, originAddr, s.ports.Origin, base64.StdEncoding.EncodeToString(s.origin.echConfigs))
	file := filepath.Join(dir, "demo.test.zone")
	if err := os.WriteFile(file, []byte(zone), 0o600); err != nil {
		return err
	}
	local, err := zones.New(zones.Config{Files: []string{file}})
	if err != nil {
		return err
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	s.upstream, err = resolver.New(resolver.Config{
		Listen:   resolver.Listen{Do53: []netip.AddrPort{netip.AddrPortFrom(resolverAddr, 0)}},
		Settings: resolver.Settings{Clients: loopback, Local: []resolver.Local{local}},
	})
	return err
}

// bindNode makes the resolver and the relay from a configuration file, as `cfrd serve` does.
func (s *stage) bindNode(dir string) (err error) {
	path := filepath.Join(dir, "cfrd.yaml")
	if err := s.writeConfig(path); err != nil {
		return err
	}
	s.node, err = s.newNode(path)
	return err
}

// writeConfig writes the configuration of the node to path, and its zone beside it.
func (s *stage) writeConfig(path string) error {
	tmpl, err := template.New("demo.yaml").Parse(configTemplate)
	if err != nil {
		return err
	}
	var text strings.Builder
	err = tmpl.Execute(&text, map[string]any{
		"Name": resolverName, "Resolver": resolverAddr, "Origin": originAddr,
		"Relay": relayPrefix, "Egress": egressPrefix,
		"Do53": s.ports.Do53, "DoT": s.ports.DoT, "DoH": s.ports.DoH, "DoQ": s.ports.DoQ,
		"Admin": s.ports.Admin, "OriginPort": s.ports.Origin,
		"Upstream": s.upstream.Addrs().Do53[0], "Steered": steeredName,
	})
	if err != nil {
		return err
	}
	zone := fmt.Sprintf("$ORIGIN %s.\n$TTL 300\n@ SOA @ hostmaster 1 3600 600 86400 60\n@ NS @\n@ A %v\n",
		resolverName, resolverAddr)
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "dns.demo.test.zone"), []byte(zone), 0o600); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text.String()), 0o600)
}

// writeCertificates writes what the node serves, and the CA for those who want to verify it.
func (s *stage) writeCertificates(dir string) error {
	cert, err := s.ca.issue([]string{resolverName}, resolverAddr)
	if err != nil {
		return err
	}
	key, err := x509.MarshalECPrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{
		s.caFile:                       {Type: "CERTIFICATE", Bytes: s.ca.cert.Raw},
		filepath.Join(dir, "cert.pem"): {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		filepath.Join(dir, "key.pem"):  {Type: "EC PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// run runs everything until ctx is done.
func (s *stage) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return named("origin", s.origin.run(ctx)) })
	g.Go(func() error { return named("upstream", s.upstream.Run(ctx)) })
	g.Go(func() error { return s.node.Run(ctx) })
	return g.Wait()
}

// named returns err with the service that it is of, or nil.
func named(service string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", service, err)
	}
	return nil
}
