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
	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/relay"
	"github.com/cfrd-project/cfrd/relay/addrmap"
	"github.com/cfrd-project/cfrd/resolver"
	"github.com/cfrd-project/cfrd/zones"
)

// values is a configuration with everything that its files hold. From it the services' own configurations are made.
type values struct {
	*config.Config
	certificate *tls.Certificate // or nil without encrypted listeners
	sealKey     []byte           // or nil without relay.sealed
	policy      *zones.Policy    // or nil without rules
	// destinations are those of a relay elsewhere, or nil without rules. The relay of this process knows its own.
	destinations *relay.Destinations
	zones        *zones.Zones // nil in mode relay
}

// loadValues reads what the configuration names. It reports everything that is wrong, as problems.
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

type loader struct {
	values
	problems config.Problems
}

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

func (v *values) relaySettings() relay.Settings {
	return relay.Settings{
		Clients:      v.Relay.Clients,
		Egress:       v.Relay.Egress,
		AllowSpecial: v.Relay.AllowSpecial,
	}
}

func (v *values) relayLimits() relay.Limits {
	return relay.Limits(v.Relay.Limits)
}

func (v *values) listen() resolver.Listen {
	l := v.Listen
	return resolver.Listen{Do53: l.Do53, DoT: l.DoT, DoH: l.DoH, DoQ: l.DoQ}
}

func (v *values) limits() resolver.Limits { return resolver.Limits(v.Limits) }

// settings returns what the resolver works with. local comes before the zones; steerTo is nil if there is no relay.
func (v *values) settings(discovery *ddr.Zone, steerTo resolver.Relay) resolver.Settings {
	s := resolver.Settings{
		Clients:   v.Clients,
		Local:     []resolver.Local{discovery, v.zones},
		Upstreams: v.Upstreams,
	}
	if v.policy != nil && steerTo != nil {
		s.Steering = &resolver.Steering{
			Policy:    v.policy,
			Relay:     steerTo,
			Clients:   v.Relay.Clients,
			MaxTTL:    v.Steer.MaxTTL,
			Hints:     v.Steer.Hints,
			OnFailure: v.Steer.OnFailure,
		}
	}
	return s
}

// discovery returns what is advertised: the encrypted listeners that run, and the relay if one runs beside them.
func (v *values) discovery(running resolver.Listen, holder *certs.Holder, relays bool) ddr.Config {
	ownName, ownHTTPS := v.owned()
	cfg := ddr.Config{
		Name:        v.Name,
		OwnName:     ownName,
		OwnHTTPS:    ownHTTPS,
		PvD:         v.DDR.PvD,
		Addresses:   v.Addresses(),
		Services:    services(running),
		Certificate: holder.Leaf,
		TTL:         v.DDR.TTL,
		Info:        &ddr.Info{ExtErr: resolver.ExtendedErrors(), URL: v.DDR.InfoURL},
	}
	if relays && v.DDR.AdvertiseRelay {
		cfg.Relay = &ddr.RelayService{Key: uint16(v.DDR.RelayKey), Clients: v.Relay.Clients, Ports: v.Relay.Ports}
	}
	return cfg
}

// services returns the encrypted listeners in the order in which clients should prefer them: without head-of-line
// blocking first, and what passes most firewalls before what passes fewer.
func services(l resolver.Listen) (list []ddr.Service) {
	add := func(p ddr.Protocol, addrs []netip.AddrPort) {
		for _, a := range addrs {
			list = append(list, ddr.Service{Protocol: p, Addr: a})
		}
	}
	add(ddr.DoH3, l.DoH)
	add(ddr.DoQ, l.DoQ)
	add(ddr.DoH, l.DoH)
	add(ddr.DoT, l.DoT)
	return list
}
