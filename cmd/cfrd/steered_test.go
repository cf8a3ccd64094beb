package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/relay"
	"github.com/cfrd-project/cfrd/relay/addrmap"
)

// TestRefusedIsNotSteered has a policy that steers all it may. What the relay refuses as a destination is not steered
// even so, also where the relay runs on another host.
func TestRefusedIsNotSteered(t *testing.T) {
	for _, m := range []config.Mode{config.ModeAll, config.ModeResolver} {
		t.Run(fmt.Sprint(m), func(t *testing.T) {
			steered, refuses := steerEverything(t, m)
			for addr, want := range map[string]bool{
				// What two lists disagreed about, and what surrounds it.
				"192.31.195.255": true, "192.31.196.0": false, "192.31.196.255": false, "192.31.197.0": true,
				"192.52.192.255": true, "192.52.193.0": false, "192.52.193.255": false, "192.52.194.0": true,
				"192.175.47.255": true, "192.175.48.0": false, "192.175.48.255": false, "192.175.49.0": true,
				"2620:4f:7fff:ffff::": true, "2620:4f:8000::": false, "2620:4f:8000:ffff::1": false, "2620:4f:8001::": true,
				"::": false, "::2": false, "::192.0.2.1": false, "::ffff:8.8.8.8": false,
				// What the policy may steer, with what the relay may relay to and without.
				"10.1.2.3": true, "10.2.0.1": false, "192.168.0.1": false,
				// Of the relay itself: where it sends from, and relay addresses.
				"127.90.0.1": false, "198.18.0.1": false, "8.8.4.4": false, "2001:db8:cf::1": false,
				"8.8.8.8": true, "2606:4700::1111": true,
			} {
				if got := steered(netip.MustParseAddr(addr)); got != want {
					t.Errorf("%s: got steered %t; want %t", addr, got, want)
				}
			}
			for i := range 1 << 16 {
				a4, a6 := netip.AddrFrom4([4]byte{byte(i >> 8), byte(i), 1, 1}), netip.AddrFrom16([16]byte{byte(i >> 8), byte(i), 15: 1})
				for _, addr := range []netip.Addr{a4, a6} {
					if refuses(addr) && steered(addr) {
						t.Errorf("%s: got steered to a relay that refuses it", addr)
					}
				}
			}
		})
	}
}

// steerEverything returns whether the resolver of a process that runs in mode m, and whose own relay is not there yet,
// steers an address, and whether a relay that runs under the same configuration refuses it.
func steerEverything(t *testing.T, m config.Mode) (steered, refuses func(netip.Addr) bool) {
	l := newLab(t)
	writeFile(t, filepath.Join(l.dir, "seal.key"), fmt.Sprintf("%x\n", addrmap.NewKey()))
	l.config["steer"] = `{allow_special: [10.0.0.0/8], rules: [{suffixes: ["."]}]}`
	l.config["relay"] = `{ports: [443], sealed: {prefix: "2001:db8:cf::/64", key_file: seal.key}, ` +
		`egress: [127.90.0.0/16, 8.8.4.0/24], allow_special: [10.1.0.0/16]}`
	l.write(t)
	cfg, err := config.Read(l.path(), m)
	if err != nil {
		t.Fatal(err)
	}
	v, err := loadValues(cfg, m, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{mode: m, log: zerolog.Nop(), values: v}
	if n.addrs, err = addrmap.Open(v.AddressMap(v.sealKey)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.addrs.Close() })
	destinations, err := relay.NewDestinations(v.relaySettings())
	if err != nil {
		t.Fatal(err)
	}
	s := n.resolverSettings(v, nil).Steering
	steered = func(addr netip.Addr) bool {
		yes, _ := s.Policy.Steer([]string{"www.example."}, addr, func() bool { return false })
		return yes && !s.Relay.Contains(addr)
	}
	return steered, func(addr netip.Addr) bool { return !destinations.Permits(addr) || n.addrs.Contains(addr) }
}
