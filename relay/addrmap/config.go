package addrmap

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	// minEpoch leaves a clock that is off by some seconds without effect.
	minEpoch = time.Minute
	// maxGrace is as long as any client has been seen to hold on to an address, and then some.
	maxGrace = 30 * 24 * time.Hour
	// minBits4 is the shortest IPv4 prefix that can be a pool. There is no larger block to have: a longer list of
	// free addresses would be a mistake in the configuration.
	minBits4 = 8
	// maxLeases bounds TableConfig.MaxLeases, so that indices fit into 32 bits.
	maxLeases = 1 << 28
)

// prefixes returns all relay prefixes.
func (cfg *Config) prefixes() []netip.Prefix {
	var prefixes []netip.Prefix
	if cfg.Sealed != nil {
		prefixes = append(prefixes, cfg.Sealed.Prefix)
	}
	if cfg.Table != nil {
		prefixes = append(prefixes, cfg.Table.Prefixes...)
	}
	return prefixes
}

// Validate returns everything that is wrong with cfg, joined, or nil. Each error begins with the setting, such as
// "sealed.epoch: ", and says what would be right. That Sealed.Key is nil is not wrong yet, because it may be read
// later; Open needs it.
func (cfg *Config) Validate() error {
	var errs []error
	if cfg.Sealed != nil {
		if err := cfg.Sealed.validate(); err != nil {
			errs = append(errs, fmt.Errorf("sealed.%w", err))
		}
	}
	if cfg.Table != nil {
		if err := cfg.Table.validate(); err != nil {
			errs = append(errs, fmt.Errorf("table.%w", err))
		}
	}
	return errors.Join(append(errs, cfg.overlaps()...)...)
}

// overlaps returns an error for each relay prefix that overlaps one before it.
func (cfg *Config) overlaps() (errs []error) {
	var before []namedPrefix
	for _, p := range cfg.named() {
		for _, q := range before {
			if p.Overlaps(q.Prefix) {
				errs = append(errs, fmt.Errorf("%s: %v overlaps %v (%s); each relay address stands for one destination",
					p.name, p.Prefix, q.Prefix, q.name))
				break
			}
		}
		before = append(before, p)
	}
	return errs
}

// namedPrefix is a relay prefix with the setting that it stands in.
type namedPrefix struct {
	netip.Prefix
	name string
}

func (cfg *Config) named() (list []namedPrefix) {
	if cfg.Sealed != nil {
		list = append(list, namedPrefix{cfg.Sealed.Prefix, "sealed.prefix"})
	}
	if cfg.Table != nil {
		for i, p := range cfg.Table.Prefixes {
			list = append(list, namedPrefix{p, fmt.Sprintf("table.prefixes[%d]", i)})
		}
	}
	return list
}

func (cfg *SealedConfig) validate() error {
	switch p := cfg.Prefix; {
	case !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() != 64:
		return fmt.Errorf("prefix: %v is not an IPv6 /64; want one, such as 2001:db8:cf::/64, because half of an address is the sealed destination", p)
	case cfg.Key != nil && len(cfg.Key) != KeySize:
		return fmt.Errorf("key: has %d octets; want %d", len(cfg.Key), KeySize)
	case cfg.Epoch != 0 && cfg.Epoch < minEpoch:
		return fmt.Errorf("epoch: %v is too short; want %v or more, or 0 for %v", cfg.Epoch, minEpoch, DefaultEpoch)
	case cfg.Epoch%time.Second != 0:
		return fmt.Errorf("epoch: %v is not whole seconds", cfg.Epoch)
	}
	return fieldError("prefix", checkPrefix(cfg.Prefix))
}

func (cfg *TableConfig) validate() error {
	if len(cfg.Prefixes) == 0 {
		return errors.New("prefixes: none; want at least one, such as 10.99.0.0/16")
	}
	for i, p := range cfg.Prefixes {
		if err := checkPrefix(p); err != nil {
			return fieldError(fmt.Sprintf("prefixes[%d]", i), err)
		}
	}
	switch {
	case cfg.Grace < 0 || cfg.Grace > maxGrace:
		return fmt.Errorf("grace: %v is out of range; want up to %v, or 0 for %v", cfg.Grace, maxGrace, defaultGrace)
	case cfg.MaxLeases < 0 || cfg.MaxLeases > maxLeases:
		return fmt.Errorf("max_leases: %d is out of range; want 1 to %d, or 0 for %d", cfg.MaxLeases, maxLeases, defaultLeases)
	}
	return nil
}

// checkPrefix checks what all relay prefixes have in common.
func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("is not a prefix; want one, such as 10.99.0.0/16")
	case p.Addr().Is4In6():
		return fmt.Errorf("%v is an IPv4 prefix in IPv6 form; want it in IPv4 form", p)
	case p != p.Masked():
		return fmt.Errorf("%v has host bits set; want %v", p, p.Masked())
	case p.Addr().IsMulticast():
		return fmt.Errorf("%v is multicast; want a unicast prefix that is routed here", p)
	case p.Addr().Is4() && p.Bits() < minBits4:
		return fmt.Errorf("%v is too large; want a /%d or longer", p, minBits4)
	case p.Addr().Is6() && p.Bits() == 0:
		return fmt.Errorf("%v is everything; want a prefix that is routed here", p)
	}
	return nil
}

// fieldError puts the name of a field before err, which may be nil.
func fieldError(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", field, err)
}

// CheckFile reads a lease file without locking or changing anything. usable is what Open would end with, damaged is why it
// would set the file aside, and start without leases.
func CheckFile(path string) (usable, damaged error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err = os.Stat(filepath.Dir(path))
		return (&fileStore{path: path}).failed(err), nil
	case err != nil:
		return (&fileStore{path: path}).failed(err), nil
	case len(b) == 0:
		return nil, nil
	}
	_, _, _, err = parseLog(b)
	return nil, (&fileStore{path: path}).failed(err)
}
