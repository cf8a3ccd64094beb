// Package config turns the configuration file of cfrd into typed values: it decodes it, lets variables of the
// environment override it, and reports everything that is wrong with it. It opens no other file and builds no service.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/viper"

	"github.com/cfrd-project/cfrd/resolver"
)

// Config is the configuration file as it is written, with its values already of their types. What the services need
// is made from it by loadValues.
type Config struct {
	Name       string              `mapstructure:"name"`
	Clients    []netip.Prefix      `mapstructure:"clients"`
	Listen     Listen              `mapstructure:"listen"`
	TLS        TLS                 `mapstructure:"tls"`
	Upstreams  []resolver.Upstream `mapstructure:"upstreams"`
	UpstreamCA string              `mapstructure:"upstream_ca"`
	Zones      []string            `mapstructure:"zones"`
	Forward    []string            `mapstructure:"forward"`
	DDR        DDR                 `mapstructure:"ddr"`
	DNR        DNR                 `mapstructure:"dnr"`
	Steer      Steer               `mapstructure:"steer"`
	Relay      Relay               `mapstructure:"relay"`
	Limits     Limits              `mapstructure:"limits"`
	Cache      Cache               `mapstructure:"cache"`
	Admin      Admin               `mapstructure:"admin"`
	Log        Log                 `mapstructure:"log"`

	Warnings []string
}

type Listen struct {
	Do53  []netip.AddrPort `mapstructure:"do53"`
	DoT   []netip.AddrPort `mapstructure:"dot"`
	DoH   []netip.AddrPort `mapstructure:"doh"`
	DoQ   []netip.AddrPort `mapstructure:"doq"`
	Admin netip.AddrPort   `mapstructure:"admin"`
}

type TLS struct {
	Certificate string `mapstructure:"certificate"`
	Key         string `mapstructure:"key"`
	ACME        ACME   `mapstructure:"acme"`
}

type DDR struct {
	AdvertiseRelay bool          `mapstructure:"advertise_relay"`
	RelayKey       int           `mapstructure:"relay_key"`
	TTL            time.Duration `mapstructure:"ttl"`
	Addresses      []netip.Addr  `mapstructure:"addresses"`
	InfoURL        string        `mapstructure:"info_url"`
	PvD            bool          `mapstructure:"pvd"`
}

type DNR struct {
	Announce []Announce `mapstructure:"announce"`
}

type Announce struct {
	Interface   string        `mapstructure:"interface"`
	RA          bool          `mapstructure:"ra"`
	DHCPv6      bool          `mapstructure:"dhcpv6"`
	DHCPv4      bool          `mapstructure:"dhcpv4"`
	MaxInterval time.Duration `mapstructure:"max_interval"`
	Managed     bool          `mapstructure:"managed"`
	Other       bool          `mapstructure:"other"`
	PvD         bool          `mapstructure:"pvd"`
}

type Steer struct {
	MaxTTL       time.Duration     `mapstructure:"max_ttl"`
	Hints        resolver.HintMode `mapstructure:"hints"`
	OnFailure    resolver.FailMode `mapstructure:"on_failure"`
	AllowSpecial []netip.Prefix    `mapstructure:"allow_special"`
	Rules        []Rule            `mapstructure:"rules"`
}

type Rule struct {
	Suffixes []string       `mapstructure:"suffixes"`
	Prefixes []netip.Prefix `mapstructure:"prefixes"`
	ECH      bool           `mapstructure:"ech"`
	Action   Action         `mapstructure:"action"`
}

type Relay struct {
	Ports        []uint16       `mapstructure:"ports"`
	Sealed       Sealed         `mapstructure:"sealed"`
	Table        Table          `mapstructure:"table"`
	Egress       []netip.Prefix `mapstructure:"egress"`
	Clients      []netip.Prefix `mapstructure:"clients"`
	AllowSpecial []netip.Prefix `mapstructure:"allow_special"`
	Routes       bool           `mapstructure:"routes"`
	GSO          bool           `mapstructure:"gso"`
	Limits       RelayLimits    `mapstructure:"limits"`
}

type Sealed struct {
	Prefix  netip.Prefix  `mapstructure:"prefix"`
	KeyFile string        `mapstructure:"key_file"`
	Epoch   time.Duration `mapstructure:"epoch"`
}

type Table struct {
	Prefixes  []netip.Prefix `mapstructure:"prefixes"`
	Store     string         `mapstructure:"store"`
	Grace     time.Duration  `mapstructure:"grace"`
	MaxLeases int            `mapstructure:"max_leases"`
}

type RelayLimits struct {
	TCPFlows          int           `mapstructure:"tcp_flows"`
	UDPFlows          int           `mapstructure:"udp_flows"`
	TCPFlowsPerClient int           `mapstructure:"tcp_flows_per_client"`
	UDPFlowsPerClient int           `mapstructure:"udp_flows_per_client"`
	DialTimeout       time.Duration `mapstructure:"dial_timeout"`
	TCPIdle           time.Duration `mapstructure:"tcp_idle"`
	TCPHalfClosed     time.Duration `mapstructure:"tcp_half_closed"`
	UDPIdle           time.Duration `mapstructure:"udp_idle"`
	DrainTimeout      time.Duration `mapstructure:"drain_timeout"`
}

type Limits struct {
	Connections          int           `mapstructure:"connections"`
	ConnectionsPerClient int           `mapstructure:"connections_per_client"`
	InFlight             int           `mapstructure:"in_flight"`
	InFlightPerClient    int           `mapstructure:"in_flight_per_client"`
	InFlightPerConn      int           `mapstructure:"in_flight_per_connection"`
	IdleTimeout          time.Duration `mapstructure:"idle_timeout"`
	ReadTimeout          time.Duration `mapstructure:"read_timeout"`
	QueryTimeout         time.Duration `mapstructure:"query_timeout"`
	DrainTimeout         time.Duration `mapstructure:"drain_timeout"`
}

type Cache struct {
	Size ByteSize `mapstructure:"size"`
}

type Admin struct {
	Pprof bool `mapstructure:"pprof"`
}

type Log struct {
	Level  zerolog.Level `mapstructure:"level"`
	Format LogFormat     `mapstructure:"format"`
}

// defaultConfig returns what holds for keys that are not written. Zero values are left to the services' own defaults,
// which testdata/cfrd.yaml repeats.
func defaultConfig() *Config {
	return &Config{
		DDR:   DDR{AdvertiseRelay: true, PvD: true},
		Relay: Relay{Routes: true, GSO: true},
		Log:   Log{Level: zerolog.InfoLevel},
	}
}

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	Key  string // its path, such as "steer.rules[1].suffixes"; empty if it is about the file as a whole
	Text string // what is wrong and what would be right
}

// Problems is everything that is wrong with the configuration, as an error of one line each.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Text
		if p.Key != "" {
			lines[i] = p.Key + ": " + p.Text
		}
	}
	return strings.Join(lines, "\n")
}

func (ps *Problems) Add(key, format string, args ...any) {
	*ps = append(*ps, Problem{key, fmt.Sprintf(format, args...)})
}

// AddNamed adds what another package says about a key below section: "sealed.epoch: too short".
func (ps *Problems) AddNamed(section, text string) {
	key, rest, ok := strings.Cut(text, ": ")
	if !ok || strings.ContainsAny(key, " ") {
		ps.Add(section, "%s", text)
		return
	}
	ps.Add(section+"."+key, "%s", rest)
}

// has reports whether something is known to be wrong with key or below it.
func (ps Problems) has(key string) bool {
	for _, p := range ps {
		if rest, ok := strings.CutPrefix(p.Key, key); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// Err returns ps as an error, or nil if there is none.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Read reads and checks the configuration file. The error is of type problems unless the file cannot be read.
func Read(path string, m Mode) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(data, dir, m)
}

// Parse decodes a configuration, lets CFRD_ variables of the environment override it, and reports everything
// that is wrong with it. Relative paths in it are relative to dir.
func Parse(data []byte, dir string, m Mode) (*Config, error) {
	cfg, ps := decodeConfig(data)
	if cfg == nil {
		return nil, ps
	}
	cfg.resolvePaths(dir)
	(&validator{Config: cfg, problems: &ps, mode: m}).validate()
	if err := ps.Err(); err != nil {
		return nil, markEnvironment(ps)
	}
	return cfg, nil
}

// decodeConfig returns nil if data is not even YAML.
func decodeConfig(data []byte) (*Config, Problems) {
	var ps Problems
	v := viper.New()
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		text := strings.TrimPrefix(err.Error(), "While parsing config: ")
		ps.Add("", "not a YAML file of keys and values: %s", strings.Join(strings.Fields(text), " "))
		return nil, ps
	}
	known := configKeys()
	bindEnvironment(v, known)
	cfg := defaultConfig()
	cfg.Warnings = unknownVariables(os.Environ(), known)
	err := v.UnmarshalExact(cfg, viper.DecodeHook(decodeValue))
	ps.addDecodeErrors(err, known)
	ps.addEmptyUnknown(v.AllKeys(), known)
	return cfg, ps
}

// resolvePaths makes every path in the configuration absolute.
func (c *Config) resolvePaths(dir string) {
	paths := []*string{&c.TLS.Certificate, &c.TLS.Key, &c.TLS.ACME.CA, &c.TLS.ACME.Storage, &c.UpstreamCA, &c.Relay.Sealed.KeyFile, &c.Relay.Table.Store}
	for i := range c.Zones {
		paths = append(paths, &c.Zones[i])
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// Steers reports whether answers are to be rewritten.
func (c *Config) Steers() bool { return len(c.Steer.Rules) > 0 }

// Relays reports whether the relay section says anything about addresses.
func (c *Config) Relays() bool { return c.Relay.Sealed.Used() || c.Relay.Table.Used() }

// relayPrefixes returns the prefixes of relay addresses, with their keys.
func (c *Config) relayPrefixes() (ps []keyedPrefix) {
	if p := c.Relay.Sealed.Prefix; p.IsValid() {
		ps = append(ps, keyedPrefix{"relay.sealed.prefix", p})
	}
	return append(ps, keyedPrefixes("relay.table.prefixes", c.Relay.Table.Prefixes)...)
}

// RelayClients returns who may use the relay.
func (c *Config) RelayClients() []netip.Prefix {
	if len(c.Relay.Clients) > 0 {
		return c.Relay.Clients
	}
	return c.Clients
}

// Do53Addresses returns where clients may ask before they have discovered anything.
func (c *Config) Do53Addresses() (addrs []netip.Addr) {
	for _, l := range c.Listen.Do53 {
		if !l.Addr().IsUnspecified() {
			addrs = append(addrs, l.Addr().WithZone(""))
			continue
		}
		addrs = append(addrs, c.DDR.Addresses...)
	}
	return addrs
}

func (s Sealed) Used() bool { return s != Sealed{} }
func (t Table) Used() bool {
	return len(t.Prefixes) > 0 || t.Store != "" || t.Grace != 0 || t.MaxLeases != 0
}

// decodeError is what UnmarshalExact says about one key.
type decodeError interface {
	error
	Name() string
	Unwrap() error
}

// addDecodeErrors adds what UnmarshalExact found: a tree of errors, the leaves of which know their key.
func (ps *Problems) addDecodeErrors(err error, known []configKey) {
	switch e := err.(type) {
	case nil:
	case decodeError:
		if keys, ok := strings.CutPrefix(e.Unwrap().Error(), "has invalid keys: "); ok {
			for key := range strings.SplitSeq(keys, ", ") {
				ps.addUnknown(joinKey(e.Name(), key), known)
			}
			return
		}
		ps.Add(e.Name(), "%s", e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			ps.addDecodeErrors(err, known)
		}
	default:
		if inner := errors.Unwrap(err); inner != nil {
			ps.addDecodeErrors(inner, known)
			return
		}
		ps.Add("", "%s", err)
	}
}
