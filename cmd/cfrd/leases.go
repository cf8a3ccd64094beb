package main

import (
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/relay/addrmap"
)

// openAddressMap opens what relay addresses are made of.
func openAddressMap(v *values, log zerolog.Logger) (*addrmap.Map, error) {
	cfg := v.AddressMap(v.sealKey)
	if cfg.Table != nil {
		cfg.Table.Log = log
	}
	return addrmap.Open(cfg)
}

// leaseWarnings returns what is wrong with the lease file. DNS goes on, so that it keeps no client away.
func (n *node) leaseWarnings() (lines []string) {
	if n.addrs == nil {
		return nil
	}
	fault, kept := n.addrs.Status()
	if fault != nil {
		lines = append(lines, "warning: new destinations are treated as steer.on_failure says: "+fault.Error())
	}
	if kept != nil {
		lines = append(lines, "warning: leases that have ended are still in the lease file: "+kept.Error())
	}
	return lines
}

// leaseFamilies says how the lease file is.
func leaseFamilies() []family {
	return []family{
		gauge("relay_lease_file_failing", "Whether the lease file could not be opened or written when that was last tried.",
			func(s *snapshot, emit emitter) { emit(truth(s.leaseFault != nil)) }),
		gauge("relay_lease_file_erase_failing", "Whether leases that ended could not be erased when that was last tried.",
			func(s *snapshot, emit emitter) { emit(truth(s.eraseFault != nil)) }),
	}
}

// checkLeases returns what is wrong with the lease file that serve would open: a warning if it would go on without it.
func (v *values) checkLeases() (warnings []string, err error) {
	path := v.Relay.Table.Store
	if path == "" || !v.Relays() {
		return nil, nil
	}
	unusable, damaged := addrmap.CheckFile(path)
	var p config.Problems
	if unusable != nil {
		p.Add("relay.table.store", "%s", unusable)
	}
	if damaged != nil {
		warnings = append(warnings, "relay.table.store: "+damaged.Error()+"; serve will rename it, and begin without leases")
	}
	return warnings, p.Err()
}
