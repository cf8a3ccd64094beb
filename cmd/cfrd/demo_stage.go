package main

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
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/resolver"
	"github.com/cfrd-project/cfrd/zones"
)

// demoConfig is the configuration of the demo's resolver and relay: an ordinary one, but for its loopback addresses.
//
//go:embed demo.yaml.tmpl
var demoConfig string

// demoStage is everything that the demo runs: an ordinary node, and the internet around it.
type demoStage struct {
	ports    demoPorts
	ca       *demoCA
	caFile   string
	origin   *demoOrigin
	upstream *resolver.Server
	node     *node
}

// newDemoStage binds every listener. Files that the node reads are written into dir.
func newDemoStage(ports demoPorts, dir string) (*demoStage, error) {
	s := &demoStage{ports: ports, caFile: filepath.Join(dir, "ca.pem")}
	var err error
	if s.ca, err = newDemoCA(); err != nil {
		return nil, err
	}
	for _, bind := range []func(dir string) error{s.writeCertificates, s.newOrigin, s.newUpstream, s.newNode} {
		if err := bind(dir); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *demoStage) newOrigin(string) error {
	cert, err := s.ca.issue([]string{demoSteeredName, demoDirectName, demoOuterName})
	if err != nil {
		return err
	}
	s.origin, err = newDemoOrigin(netip.AddrPortFrom(demoOriginAddr, s.ports.origin), cert)
	return err
}

// newUpstream makes the recursive resolver that knows the names of the demo's internet. It is one of ours, with
// nothing but a zone.
func (s *demoStage) newUpstream(dir string) error {
	zone := fmt.Sprintf(`$ORIGIN demo.test.
$TTL 300
@        SOA   ns hostmaster 1 3600 600 86400 60
@        NS    ns
ns       A     127.0.0.1
steered  A     %[1]v
steered  HTTPS 1 . alpn="h2,h3" port=%[2]d ipv4hint=%[1]v ech="%[3]s"
_%[2]d._https.steered HTTPS 1 steered alpn="h2,h3" port=%[2]d ipv4hint=%[1]v ech="%[3]s"
direct   A     %[1]v
`, demoOriginAddr, s.ports.origin, base64.StdEncoding.EncodeToString(s.origin.echConfigs))
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
		Listen:   resolver.Listen{Do53: []netip.AddrPort{netip.AddrPortFrom(demoResolverAddr, 0)}},
		Settings: resolver.Settings{Clients: loopback, Local: []resolver.Local{local}},
	})
	return err
}

// newNode makes the resolver and the relay from a configuration file, as `cfrd serve` does.
func (s *demoStage) newNode(dir string) error {
	path := filepath.Join(dir, "cfrd.yaml")
	if err := s.writeConfig(path); err != nil {
		return err
	}
	cfg, err := config.Read(path, config.ModeAll)
	if err != nil {
		return err
	}
	v, err := loadValues(cfg, config.ModeAll, time.Now())
	if err != nil {
		return err
	}
	s.node, err = newNode(v, config.ModeAll, zerolog.Nop())
	return err
}

func (s *demoStage) writeConfig(path string) error {
	tmpl, err := template.New("demo.yaml").Parse(demoConfig)
	if err != nil {
		return err
	}
	var text strings.Builder
	err = tmpl.Execute(&text, map[string]any{
		"Name": demoResolverName, "Resolver": demoResolverAddr, "Origin": demoOriginAddr,
		"Relay": demoRelayPrefix, "Egress": demoEgressPrefix,
		"Do53": s.ports.do53, "DoT": s.ports.dot, "DoH": s.ports.doh, "DoQ": s.ports.doq,
		"Admin": s.ports.admin, "OriginPort": s.ports.origin,
		"Upstream": s.upstream.Addrs().Do53[0], "Steered": demoSteeredName,
	})
	if err != nil {
		return err
	}
	zone := fmt.Sprintf("$ORIGIN %s.\n$TTL 300\n@ SOA @ hostmaster 1 3600 600 86400 60\n@ NS @\n@ A %v\n",
		demoResolverName, demoResolverAddr)
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "dns.demo.test.zone"), []byte(zone), 0o600); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text.String()), 0o600)
}

// writeCertificates writes what the node serves, and the CA for those who want to verify it.
func (s *demoStage) writeCertificates(dir string) error {
	cert, err := s.ca.issue([]string{demoResolverName}, demoResolverAddr)
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
func (s *demoStage) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return named("origin", s.origin.run(ctx)) })
	g.Go(func() error { return named("upstream", s.upstream.Run(ctx)) })
	g.Go(func() error { return s.node.run(ctx) })
	return g.Wait()
}
