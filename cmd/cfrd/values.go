package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/relay"
	"github.com/cfrd-project/cfrd/relay/addrmap"
	"github.com/cfrd-project/cfrd/zones"
)

// values is a configuration with what the files hold that it names. It is not changed once loadValues has returned it; a
// reload makes another one. settings.go makes the services' own configurations from it.
type values struct {
	*config.Config
	certificate *tls.Certificate // or nil without encrypted listeners
	sealKey     []byte           // or nil without relay.sealed
	policy      *zones.Policy    // or nil without rules
	// destinations are those of a relay elsewhere, or nil without rules. The relay of this process knows its own.
	destinations *relay.Destinations
	zones        *zones.Zones // nil in mode relay
}

// loadValues reads the files that cfg names: the certificate or the store of ACME, the authorities of the upstreams,
// the zones and the seal key. now is the time at which the certificate must be valid. The error is of type config.Problems
// and holds everything that is wrong.
func loadValues(cfg *config.Config, m config.Mode, now time.Time) (*values, error) {
	l := &loader{values: values{Config: cfg}}
	if m.Resolves() {
		l.loadTLS(now)
		l.checkUpstreams()
		l.loadUpstreamCA()
		l.loadZones()
		l.loadPolicy()
	}
	l.loadSealKey()
	if err := l.problems.Err(); err != nil {
		return nil, err
	}
	return &l.values, nil
}

// loader collects values and what is wrong with them.
type loader struct {
	values
	problems config.Problems
}

// loadTLS reads the certificate, if a listener needs one: from its files, or from the store of ACME.
func (l *loader) loadTLS(now time.Time) {
	if !l.Encrypted() {
		return
	}
	if l.TLS.ACME.Used() {
		l.loadACME(now)
		return
	}
	cert, err := certs.Load(l.TLS.Certificate, l.TLS.Key, l.Name, now)
	if err != nil {
		key := "tls.certificate"
		if missing, ok := errors.AsType[*fs.PathError](err); ok && missing.Path == l.TLS.Key {
			key = "tls.key"
		}
		l.problems.Add(key, "%s", err)
		return
	}
	l.certificate = cert
	if warning := l.uncoveredWarning(cert.Leaf); warning != "" {
		l.Warnings = append(l.Warnings, "tls.certificate: "+warning)
	}
}

// checkUpstreams finds upstreams that are this host, for listeners on all of its addresses.
func (l *loader) checkUpstreams() {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return
	}
	for i, up := range l.Upstreams {
		wild := slices.ContainsFunc(l.ListenersOf(up.Protocol), func(a netip.AddrPort) bool {
			return a.Addr().IsUnspecified() && a.Port() == up.Addr.Port()
		})
		ours := slices.ContainsFunc(own, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr() == up.Addr.Addr()
		})
		if wild && ours {
			l.problems.Add(fmt.Sprintf("upstreams[%d]", i), "%s is this host itself: queries would go in circles", up.Addr)
		}
	}
}

// loadUpstreamCA reads the authorities that may sign the certificates of upstreams. Without any, the system's may.
func (l *loader) loadUpstreamCA() {
	if l.UpstreamCA == "" {
		return
	}
	roots, err := certs.LoadOnlyRoots(l.UpstreamCA)
	if err != nil {
		l.problems.Add("upstream_ca", "%s", err)
	}
	for i := range l.Upstreams {
		l.Upstreams[i].RootCAs = roots
	}
}

// loadZones reads the zone files. If one is wrong, each is read alone, to report all that are.
func (l *loader) loadZones() {
	loaded, err := zones.New(zones.Config{Files: l.Zones, Relay: l.RelayRanges(), Forward: l.Forward})
	if err == nil {
		l.zones = loaded
		return
	}
	found := len(l.problems)
	for i, file := range l.Zones {
		if _, err := zones.New(zones.Config{Files: []string{file}}); err != nil {
			l.problems.Add(fmt.Sprintf("zones[%d]", i), "%s", err)
		}
	}
	if _, err := zones.New(zones.Config{Forward: l.Forward}); err != nil {
		key, text, _ := strings.Cut(err.Error(), ": ") // "forward[0]: ..."
		l.problems.Add(key, "%s", text)
	}
	if len(l.problems) == found {
		l.problems.Add("zones", "%s", err)
	}
}

// loadPolicy compiles the rules of steering, if there are any.
func (l *loader) loadPolicy() {
	if !l.Steers() {
		return
	}
	policy, err := zones.NewPolicy(l.PolicyRules(), relay.SpecialPurpose, l.Steer.AllowSpecial)
	if err != nil {
		l.problems.Add("steer", "%s", err)
		return
	}
	l.policy = policy
	if l.destinations, err = relay.NewDestinations(l.relaySettings()); err != nil {
		l.problems.Add("relay", "%s", err)
	}
}

// loadSealKey reads the key of sealed addresses, if there are any, and warns if others can read it too.
func (l *loader) loadSealKey() {
	path := l.Relay.Sealed.KeyFile
	if path == "" {
		return
	}
	key, err := addrmap.LoadKey(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.problems.Add("relay.sealed.key_file", "%s does not exist: make it with `cfrd config init --with-key`", path)
		return
	case err != nil:
		l.problems.Add("relay.sealed.key_file", "%s", err)
		return
	}
	l.sealKey = key
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		l.Warnings = append(l.Warnings, fmt.Sprintf("relay.sealed.key_file: %s can be read by others (mode %04o): "+
			"who has it can tell the destination of every relay address; use mode 0600", path, info.Mode().Perm()))
	}
}
