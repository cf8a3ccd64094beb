package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/viper"
)

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

// decodeError is what UnmarshalExact says about one key.
type decodeError interface {
	error
	Name() string
	Unwrap() error
}

// addDecodeErrors adds what UnmarshalExact found: a tree of errors, the leaves of which know their key.
func (ps *Problems) addDecodeErrors(err error, known []configKey) {
	switch e := err.(type) { //nolint:errorlint // every node of the tree is looked at in turn
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
