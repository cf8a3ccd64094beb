// Package config turns the configuration file of cfrd into typed values. Read decodes it, lets CFRD_ variables of the
// environment override it, and reports everything that is wrong with it at once, each with its key.
//
// It opens no other file, keeps no state and builds no service: cmd/cfrd reads the files that a configuration names, and
// makes the services' own configurations of it. The rules for a single setting belong to the package that the setting
// is for, which is asked for them; what several settings must be to each other is checked here. Defaults belong to those
// packages too, so that a key that is not written is the zero value, but for the few in defaultConfig and for
// relay.clients, which Parse sets to clients.
//
// Everything there is to know of a key is its field: the type, which decode.go parses, and the tags mapstructure, its
// name, and reload, which says whether a reload applies a change of it. The commands call Read once each, serve also on
// SIGHUP; a Config is not changed once it has been read, and may be used from any goroutine.
//
// # The way of a key
//
// A key of the configuration goes one way from the file to where it acts. For steer.max_ttl, the highest TTL of an
// answer with relay addresses, the way is:
//
//  1. runDaemon (cmd/cfrd/serve.go) is given the path of the file. A reload begins in node.reload (reload.go) instead,
//     and goes the same way.
//  2. Read and Parse (read.go here) decode the file into Config, where the key is the field Steer.MaxTTL (config.go), and
//     the variable CFRD_STEER_MAX_TTL overrides it (keys.go).
//  3. decodeValue and parseDuration (decode.go) make a time.Duration of the text, or say what would be right. A key that
//     is not written stays 0.
//  4. validator.checkSteer (validate.go) holds it against the epoch of sealed addresses. On a reload, NeedsRestart
//     (reload.go) finds in the field's tag that it may change.
//  5. loadValues (cmd/cfrd/values.go) keeps the configuration together with what its files hold.
//  6. node.applyResolver and resolverSettings (cmd/cfrd/settings.go) hand it to the resolver as
//     resolver.Steering.MaxTTL.
//  7. resolver.Server.Update makes a generation of settings of it (newSteering in resolver/settings.go). Responses that
//     were cached under the generation before are not used any more.
//  8. steer.New (resolver/steer/steer.go) takes 0 for steer.DefaultTTL, and Steerer.cap caps the TTL of each record that
//     is rewritten, before the response leaves.
package config

import (
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/relay/addrmap"
	"github.com/cfrd-project/cfrd/resolver"
	"github.com/cfrd-project/cfrd/zones"
)

// Config is the configuration file as it is written, with its values already of their types. The tags of a field name
// its key, and say whether a reload applies a change of it.
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

	Warnings []string // what is not wrong, but should be looked into; one line each
}

// Listen has the addresses to listen on. Ports are not 0.
type Listen struct {
	Do53  []netip.AddrPort `mapstructure:"do53" reload:"restart"`
	DoT   []netip.AddrPort `mapstructure:"dot" reload:"restart"`
	DoH   []netip.AddrPort `mapstructure:"doh" reload:"restart"`
	DoQ   []netip.AddrPort `mapstructure:"doq" reload:"restart"`
	Admin netip.AddrPort   `mapstructure:"admin" reload:"restart"`
}

// TLS says where the certificate comes from: from two files, whose paths are absolute, or by ACME.
type TLS struct {
	Certificate string `mapstructure:"certificate" reload:"yes"`
	Key         string `mapstructure:"key" reload:"yes"`
	ACME        ACME   `mapstructure:"acme"`
}

// DDR is what is said of the resolver. See RFC 9462.
type DDR struct {
	AdvertiseRelay bool          `mapstructure:"advertise_relay" reload:"yes"`
	RelayKey       int           `mapstructure:"relay_key" reload:"yes"`
	TTL            time.Duration `mapstructure:"ttl" reload:"yes"`
	Addresses      []netip.Addr  `mapstructure:"addresses" reload:"yes"`
	InfoURL        string        `mapstructure:"info_url" reload:"yes"`
	PvD            bool          `mapstructure:"pvd" reload:"yes"`
}

// DNR is who hands the resolver out. See RFC 9463.
type DNR struct {
	Announce []Announce `mapstructure:"announce" reload:"restart"`
}

// Announce is one link on which the resolver is announced.
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

// Steer says which destinations are reached through the relay.
type Steer struct {
	MaxTTL       time.Duration     `mapstructure:"max_ttl" reload:"yes"`
	Hints        resolver.HintMode `mapstructure:"hints" reload:"yes"`
	OnFailure    resolver.FailMode `mapstructure:"on_failure" reload:"yes"`
	AllowSpecial []netip.Prefix    `mapstructure:"allow_special" reload:"yes"`
	Rules        []Rule            `mapstructure:"rules" reload:"yes"`
}

// Rule is one rule of steering, whose conditions must all hold.
type Rule struct {
	Suffixes []string       `mapstructure:"suffixes" reload:"yes"`
	Prefixes []netip.Prefix `mapstructure:"prefixes" reload:"yes"`
	ECH      bool           `mapstructure:"ech" reload:"yes"`
	Action   Action         `mapstructure:"action" reload:"yes"`
}

// Relay is the section of the relay.
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

// Sealed describes the relay addresses that hold their destination, sealed by a key.
type Sealed struct {
	Prefix  netip.Prefix  `mapstructure:"prefix" reload:"restart"`
	KeyFile string        `mapstructure:"key_file" reload:"restart"`
	Epoch   time.Duration `mapstructure:"epoch" reload:"restart"`
}

// Table describes the relay addresses that are leased to destinations.
type Table struct {
	Prefixes  []netip.Prefix `mapstructure:"prefixes" reload:"restart"`
	Store     string         `mapstructure:"store" reload:"restart"`
	Grace     time.Duration  `mapstructure:"grace" reload:"restart"`
	MaxLeases int            `mapstructure:"max_leases" reload:"restart"`
}

// RelayLimits has the fields of relay.Limits, in the same order; 0 means the default there.
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

// Limits has the fields of resolver.Limits, in the same order; 0 means the default there.
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

// Cache is the cache of answers.
type Cache struct {
	Size ByteSize `mapstructure:"size" reload:"restart"`
}

// Admin is what the admin address serves beside metrics and health.
type Admin struct {
	Pprof bool `mapstructure:"pprof" reload:"restart"`
}

// Log is how much is logged, and how.
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

// policy returns r as the package of the policy has it.
func (r Rule) policy() zones.Rule {
	return zones.Rule{Suffixes: r.Suffixes, Prefixes: r.Prefixes, ECH: r.ECH, Pass: r.Action == ActionPass}
}

// Used reports whether anything is written in the section.
func (s Sealed) Used() bool { return s != Sealed{} }

// Used reports whether anything is written in the section.
func (t Table) Used() bool {
	return len(t.Prefixes) > 0 || t.Store != "" || t.Grace != 0 || t.MaxLeases != 0
}
