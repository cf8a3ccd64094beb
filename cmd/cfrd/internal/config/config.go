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

	"github.com/cfrd-project/cfrd/relay/addrmap"
	"github.com/cfrd-project/cfrd/resolver"
	"github.com/cfrd-project/cfrd/zones"
)

// Config is the configuration file as it is written, with its values already of their types. What the services need
// is made from it by loadValues.
type Config struct {
	Name       string              `mapstructure:"name" reload:"yes"`
	Clients    []netip.Prefix      `mapstructure:"clients" reload:"yes"`
	Listen     Listen              `mapstructure:"listen"`
	TLS        TLS                 `mapstructure:"tls"`
	Upstreams  []resolver.Upstream `mapstructure:"upstreams" reload:"yes"`
	UpstreamCA string              `mapstructure:"upstream_ca" reload:"yes"`
	Zones      []string            `mapstructure:"zones" reload:"yes"`
	Forward    []string            `mapstructure:"forward" reload:"yes"`
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
	Do53  []netip.AddrPort `mapstructure:"do53" reload:"restart"`
	DoT   []netip.AddrPort `mapstructure:"dot" reload:"restart"`
	DoH   []netip.AddrPort `mapstructure:"doh" reload:"restart"`
	DoQ   []netip.AddrPort `mapstructure:"doq" reload:"restart"`
	Admin netip.AddrPort   `mapstructure:"admin" reload:"restart"`
}

type TLS struct {
	Certificate string `mapstructure:"certificate" reload:"yes"`
	Key         string `mapstructure:"key" reload:"yes"`
	ACME        ACME   `mapstructure:"acme"`
}

type DDR struct {
	AdvertiseRelay bool          `mapstructure:"advertise_relay" reload:"yes"`
	RelayKey       int           `mapstructure:"relay_key" reload:"yes"`
	TTL            time.Duration `mapstructure:"ttl" reload:"yes"`
	Addresses      []netip.Addr  `mapstructure:"addresses" reload:"yes"`
	InfoURL        string        `mapstructure:"info_url" reload:"yes"`
	PvD            bool          `mapstructure:"pvd" reload:"yes"`
}

type DNR struct {
	Announce []Announce `mapstructure:"announce" reload:"restart"`
}

type Announce struct {
	Interface   string        `mapstructure:"interface" reload:"restart"`
	RA          bool          `mapstructure:"ra" reload:"restart"`
	DHCPv6      bool          `mapstructure:"dhcpv6" reload:"restart"`
	DHCPv4      bool          `mapstructure:"dhcpv4" reload:"restart"`
	MaxInterval time.Duration `mapstructure:"max_interval" reload:"restart"`
	Managed     bool          `mapstructure:"managed" reload:"restart"`
	Other       bool          `mapstructure:"other" reload:"restart"`
	PvD         bool          `mapstructure:"pvd" reload:"restart"`
}

type Steer struct {
	MaxTTL       time.Duration     `mapstructure:"max_ttl" reload:"yes"`
	Hints        resolver.HintMode `mapstructure:"hints" reload:"yes"`
	OnFailure    resolver.FailMode `mapstructure:"on_failure" reload:"yes"`
	AllowSpecial []netip.Prefix    `mapstructure:"allow_special" reload:"yes"`
	Rules        []Rule            `mapstructure:"rules" reload:"yes"`
}

type Rule struct {
	Suffixes []string       `mapstructure:"suffixes" reload:"yes"`
	Prefixes []netip.Prefix `mapstructure:"prefixes" reload:"yes"`
	ECH      bool           `mapstructure:"ech" reload:"yes"`
	Action   Action         `mapstructure:"action" reload:"yes"`
}

type Relay struct {
	Ports        []uint16       `mapstructure:"ports" reload:"restart"`
	Sealed       Sealed         `mapstructure:"sealed"`
	Table        Table          `mapstructure:"table"`
	Egress       []netip.Prefix `mapstructure:"egress" reload:"yes"`
	Clients      []netip.Prefix `mapstructure:"clients" reload:"yes"` // once parsed, never empty beside a relay
	AllowSpecial []netip.Prefix `mapstructure:"allow_special" reload:"yes"`
	Routes       bool           `mapstructure:"routes" reload:"restart"`
	GSO          bool           `mapstructure:"gso" reload:"restart"`
	Limits       RelayLimits    `mapstructure:"limits"`
}

type Sealed struct {
	Prefix  netip.Prefix  `mapstructure:"prefix" reload:"restart"`
	KeyFile string        `mapstructure:"key_file" reload:"restart"`
	Epoch   time.Duration `mapstructure:"epoch" reload:"restart"`
}

type Table struct {
	Prefixes  []netip.Prefix `mapstructure:"prefixes" reload:"restart"`
	Store     string         `mapstructure:"store" reload:"restart"`
	Grace     time.Duration  `mapstructure:"grace" reload:"restart"`
	MaxLeases int            `mapstructure:"max_leases" reload:"restart"`
}

type RelayLimits struct {
	TCPFlows          int           `mapstructure:"tcp_flows" reload:"restart"`
	UDPFlows          int           `mapstructure:"udp_flows" reload:"restart"`
	TCPFlowsPerClient int           `mapstructure:"tcp_flows_per_client" reload:"restart"`
	UDPFlowsPerClient int           `mapstructure:"udp_flows_per_client" reload:"restart"`
	DialTimeout       time.Duration `mapstructure:"dial_timeout" reload:"restart"`
	TCPIdle           time.Duration `mapstructure:"tcp_idle" reload:"restart"`
	TCPHalfClosed     time.Duration `mapstructure:"tcp_half_closed" reload:"restart"`
	UDPIdle           time.Duration `mapstructure:"udp_idle" reload:"restart"`
	DrainTimeout      time.Duration `mapstructure:"drain_timeout" reload:"restart"`
}

type Limits struct {
	Connections          int           `mapstructure:"connections" reload:"restart"`
	ConnectionsPerClient int           `mapstructure:"connections_per_client" reload:"restart"`
	InFlight             int           `mapstructure:"in_flight" reload:"restart"`
	InFlightPerClient    int           `mapstructure:"in_flight_per_client" reload:"restart"`
	InFlightPerConn      int           `mapstructure:"in_flight_per_connection" reload:"restart"`
	IdleTimeout          time.Duration `mapstructure:"idle_timeout" reload:"restart"`
	ReadTimeout          time.Duration `mapstructure:"read_timeout" reload:"restart"`
	QueryTimeout         time.Duration `mapstructure:"query_timeout" reload:"restart"`
	DrainTimeout         time.Duration `mapstructure:"drain_timeout" reload:"restart"`

	HTTP2 resolver.HTTP2Server `mapstructure:"http2" reload:"restart"`
}

type Cache struct {
	Size ByteSize `mapstructure:"size" reload:"restart"`
}

type Admin struct {
	Pprof bool `mapstructure:"pprof" reload:"restart"`
}

type Log struct {
	Level  zerolog.Level `mapstructure:"level" reload:"restart"`
	Format LogFormat     `mapstructure:"format" reload:"restart"`
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
	cfg.Relay.Clients = cfg.relayClients()
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

// relayClients returns who may use the relay: those that relay.clients lists, by default those of clients. Parse writes
// it to Relay.Clients, so that no package that takes the list needs a meaning of its own for an empty one.
func (c *Config) relayClients() []netip.Prefix {
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

// AddressMap returns what relay addresses are made of. key is what relay.sealed.key_file holds.
func (c *Config) AddressMap(key []byte) addrmap.Config {
	var cfg addrmap.Config
	if s := c.Relay.Sealed; s.Used() {
		cfg.Sealed = &addrmap.SealedConfig{Prefix: s.Prefix, Key: key, Epoch: s.Epoch}
	}
	if t := c.Relay.Table; t.Used() {
		cfg.Table = &addrmap.TableConfig{Prefixes: t.Prefixes, Path: t.Store, Grace: t.Grace, MaxLeases: t.MaxLeases}
	}
	return cfg
}

// PolicyRules returns the rules of steering in the form in which they are compiled.
func (c *Config) PolicyRules() []zones.Rule {
	rules := make([]zones.Rule, len(c.Steer.Rules))
	for i, r := range c.Steer.Rules {
		rules[i] = r.policy()
	}
	return rules
}

func (r Rule) policy() zones.Rule {
	return zones.Rule{Suffixes: r.Suffixes, Prefixes: r.Prefixes, ECH: r.ECH, Pass: r.Action == ActionPass}
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
