package main

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

// config is the configuration file as it is written, with its values already of their types. What the services need
// is made from it by loadValues.
type config struct {
	Name       string              `mapstructure:"name"`
	Clients    []netip.Prefix      `mapstructure:"clients"`
	Listen     listenConfig        `mapstructure:"listen"`
	TLS        tlsConfig           `mapstructure:"tls"`
	Upstreams  []resolver.Upstream `mapstructure:"upstreams"`
	UpstreamCA string              `mapstructure:"upstream_ca"`
	Zones      []string            `mapstructure:"zones"`
	Forward    []string            `mapstructure:"forward"`
	DDR        ddrConfig           `mapstructure:"ddr"`
	DNR        dnrConfig           `mapstructure:"dnr"`
	Steer      steerConfig         `mapstructure:"steer"`
	Relay      relayConfig         `mapstructure:"relay"`
	Limits     limitsConfig        `mapstructure:"limits"`
	Cache      cacheConfig         `mapstructure:"cache"`
	Admin      adminConfig         `mapstructure:"admin"`
	Log        logConfig           `mapstructure:"log"`

	warnings []string
}

type listenConfig struct {
	Do53  []netip.AddrPort `mapstructure:"do53"`
	DoT   []netip.AddrPort `mapstructure:"dot"`
	DoH   []netip.AddrPort `mapstructure:"doh"`
	DoQ   []netip.AddrPort `mapstructure:"doq"`
	Admin netip.AddrPort   `mapstructure:"admin"`
}

type tlsConfig struct {
	Certificate string     `mapstructure:"certificate"`
	Key         string     `mapstructure:"key"`
	ACME        acmeConfig `mapstructure:"acme"`
}

type ddrConfig struct {
	AdvertiseRelay bool          `mapstructure:"advertise_relay"`
	RelayKey       int           `mapstructure:"relay_key"`
	TTL            time.Duration `mapstructure:"ttl"`
	Addresses      []netip.Addr  `mapstructure:"addresses"`
	InfoURL        string        `mapstructure:"info_url"`
	PvD            bool          `mapstructure:"pvd"`
}

type dnrConfig struct {
	Announce []announceConfig `mapstructure:"announce"`
}

type announceConfig struct {
	Interface   string        `mapstructure:"interface"`
	RA          bool          `mapstructure:"ra"`
	DHCPv6      bool          `mapstructure:"dhcpv6"`
	DHCPv4      bool          `mapstructure:"dhcpv4"`
	MaxInterval time.Duration `mapstructure:"max_interval"`
	Managed     bool          `mapstructure:"managed"`
	Other       bool          `mapstructure:"other"`
	PvD         bool          `mapstructure:"pvd"`
}

type steerConfig struct {
	MaxTTL       time.Duration     `mapstructure:"max_ttl"`
	Hints        resolver.HintMode `mapstructure:"hints"`
	OnFailure    resolver.FailMode `mapstructure:"on_failure"`
	AllowSpecial []netip.Prefix    `mapstructure:"allow_special"`
	Rules        []ruleConfig      `mapstructure:"rules"`
}

type ruleConfig struct {
	Suffixes []string       `mapstructure:"suffixes"`
	Prefixes []netip.Prefix `mapstructure:"prefixes"`
	ECH      bool           `mapstructure:"ech"`
	Action   ruleAction     `mapstructure:"action"`
}

type relayConfig struct {
	Ports        []uint16          `mapstructure:"ports"`
	Sealed       sealedConfig      `mapstructure:"sealed"`
	Table        tableConfig       `mapstructure:"table"`
	Egress       []netip.Prefix    `mapstructure:"egress"`
	Clients      []netip.Prefix    `mapstructure:"clients"`
	AllowSpecial []netip.Prefix    `mapstructure:"allow_special"`
	Routes       bool              `mapstructure:"routes"`
	GSO          bool              `mapstructure:"gso"`
	Limits       relayLimitsConfig `mapstructure:"limits"`
}

type sealedConfig struct {
	Prefix  netip.Prefix  `mapstructure:"prefix"`
	KeyFile string        `mapstructure:"key_file"`
	Epoch   time.Duration `mapstructure:"epoch"`
}

type tableConfig struct {
	Prefixes  []netip.Prefix `mapstructure:"prefixes"`
	Store     string         `mapstructure:"store"`
	Grace     time.Duration  `mapstructure:"grace"`
	MaxLeases int            `mapstructure:"max_leases"`
}

type relayLimitsConfig struct {
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

type limitsConfig struct {
	Connections          int           `mapstructure:"connections"`
	ConnectionsPerClient int           `mapstructure:"connections_per_client"`
	InFlight             int           `mapstructure:"in_flight"`
	InFlightPerClient    int           `mapstructure:"in_flight_per_client"`
	InFlightPerConn      int           `mapstructure:"in_flight_per_connection"`
	IdleTimeout          time.Duration `mapstructure:"idle_timeout"`
	ReadTimeout          time.Duration `mapstructure:"read_timeout"`
	QueryTimeout         time.Duration `mapstructure:"query_timeout"`
	DrainTimeout         time.Duration `mapstructure:"drain_timeout"`

	HTTP2 resolver.HTTP2Server `mapstructure:"http2"`
}

type cacheConfig struct {
	Size byteSize `mapstructure:"size"`
}

type adminConfig struct {
	Pprof bool `mapstructure:"pprof"`
}

type logConfig struct {
	Level  zerolog.Level `mapstructure:"level"`
	Format logFormat     `mapstructure:"format"`
}

// defaultConfig returns what holds for keys that are not written. Zero values are left to the services' own defaults,
// which testdata/cfrd.yaml repeats.
func defaultConfig() *config {
	return &config{
		DDR:   ddrConfig{AdvertiseRelay: true, PvD: true},
		Relay: relayConfig{Routes: true, GSO: true},
		Log:   logConfig{Level: zerolog.InfoLevel},
	}
}

// problem is one thing that is wrong with the configuration.
type problem struct {
	key  string // its path, such as "steer.rules[1].suffixes"; empty if it is about the file as a whole
	text string // what is wrong and what would be right
}

// problems is everything that is wrong with the configuration, as an error of one line each.
type problems []problem

func (ps problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.text
		if p.key != "" {
			lines[i] = p.key + ": " + p.text
		}
	}
	return strings.Join(lines, "\n")
}

func (ps *problems) add(key, format string, args ...any) {
	*ps = append(*ps, problem{key, fmt.Sprintf(format, args...)})
}

// has reports whether something is known to be wrong with key or below it.
func (ps problems) has(key string) bool {
	for _, p := range ps {
		if rest, ok := strings.CutPrefix(p.key, key); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// err returns ps as an error, or nil if there is none.
func (ps problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// readConfig reads and checks the configuration file. The error is of type problems unless the file cannot be read.
func readConfig(path string, m mode) (*config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return parseConfig(data, dir, m)
}

// parseConfig decodes a configuration, lets CFRD_ variables of the environment override it, and reports everything
// that is wrong with it. Relative paths in it are relative to dir.
func parseConfig(data []byte, dir string, m mode) (*config, error) {
	cfg, ps := decodeConfig(data)
	if cfg == nil {
		return nil, ps
	}
	cfg.resolvePaths(dir)
	(&validator{config: cfg, problems: &ps, mode: m}).validate()
	if err := ps.err(); err != nil {
		return nil, markEnvironment(ps)
	}
	return cfg, nil
}

// decodeConfig returns nil if data is not even YAML.
func decodeConfig(data []byte) (*config, problems) {
	var ps problems
	v := viper.New()
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		text := strings.TrimPrefix(err.Error(), "While parsing config: ")
		ps.add("", "not a YAML file of keys and values: %s", strings.Join(strings.Fields(text), " "))
		return nil, ps
	}
	known := configKeys()
	bindEnvironment(v, known)
	cfg := defaultConfig()
	cfg.warnings = unknownVariables(os.Environ(), known)
	err := v.UnmarshalExact(cfg, viper.DecodeHook(decodeValue))
	ps.addDecodeErrors(err, known)
	ps.addEmptyUnknown(v.AllKeys(), known)
	return cfg, ps
}

// resolvePaths makes every path in the configuration absolute.
func (c *config) resolvePaths(dir string) {
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

// steers reports whether answers are to be rewritten.
func (c *config) steers() bool { return len(c.Steer.Rules) > 0 }

// relays reports whether the relay section says anything about addresses.
func (c *config) relays() bool { return c.Relay.Sealed.used() || c.Relay.Table.used() }

// relayPrefixes returns the prefixes of relay addresses, with their keys.
func (c *config) relayPrefixes() (ps []keyedPrefix) {
	if p := c.Relay.Sealed.Prefix; p.IsValid() {
		ps = append(ps, keyedPrefix{"relay.sealed.prefix", p})
	}
	return append(ps, keyedPrefixes("relay.table.prefixes", c.Relay.Table.Prefixes)...)
}

// relayClients returns who may use the relay.
func (c *config) relayClients() []netip.Prefix {
	if len(c.Relay.Clients) > 0 {
		return c.Relay.Clients
	}
	return c.Clients
}

func (s sealedConfig) used() bool { return s != sealedConfig{} }
func (t tableConfig) used() bool {
	return len(t.Prefixes) > 0 || t.Store != "" || t.Grace != 0 || t.MaxLeases != 0
}

// decodeError is what UnmarshalExact says about one key.
type decodeError interface {
	error
	Name() string
	Unwrap() error
}

// addDecodeErrors adds what UnmarshalExact found: a tree of errors, the leaves of which know their key.
func (ps *problems) addDecodeErrors(err error, known []configKey) {
	switch e := err.(type) {
	case nil:
	case decodeError:
		if keys, ok := strings.CutPrefix(e.Unwrap().Error(), "has invalid keys: "); ok {
			for key := range strings.SplitSeq(keys, ", ") {
				ps.addUnknown(joinKey(e.Name(), key), known)
			}
			return
		}
		ps.add(e.Name(), "%s", e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			ps.addDecodeErrors(err, known)
		}
	default:
		if inner := errors.Unwrap(err); inner != nil {
			ps.addDecodeErrors(inner, known)
			return
		}
		ps.add("", "%s", err)
	}
}
