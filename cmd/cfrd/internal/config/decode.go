package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/resolver"
)

type (
	// ByteSize is an amount of memory in octets, written as "64MiB" or as a bare number.
	ByteSize int64
	// Action is what a steering rule does with what it matches.
	Action uint8
	// LogFormat is how log lines are written.
	LogFormat uint8
)

// What a rule does: the zero value steers.
const (
	ActionSteer Action = iota
	ActionPass
)

// Formats of log lines.
const (
	FormatAuto LogFormat = iota // console on a terminal, else JSON
	FormatJSON
	FormatConsole
)

// decodeValue is the hook through which every value of the configuration passes on its way to its Go type. What it
// refuses says what would be right; the key is added by the caller.
func decodeValue(from, to reflect.Value) (any, error) {
	switch to.Interface().(type) {
	case netip.Prefix:
		return parseAs(from, parsePrefix)
	case netip.Addr:
		return parseAs(from, ParseAddr)
	case netip.AddrPort:
		return parseAs(from, parseAddrPort)
	case resolver.Upstream:
		return parseAs(from, parseUpstream)
	case time.Duration:
		return parseAs(from, parseDuration)
	case ByteSize:
		return parseAs(from, parseSize)
	case uint16:
		return parseAs(from, parsePort)
	case int:
		return parseAs(from, parseCount)
	case bool:
		return parseAs(from, parseBool)
	case resolver.HintMode:
		return parseAs(from, oneOf(map[string]resolver.HintMode{
			"rewrite": resolver.HintsRewrite, "strip": resolver.HintsStrip,
		}))
	case resolver.FailMode:
		return parseAs(from, oneOf(map[string]resolver.FailMode{
			"pass": resolver.FailPass, "fail": resolver.FailServfail,
		}))
	case resolver.HTTP2Server:
		return parseAs(from, oneOf(map[string]resolver.HTTP2Server{
			"own": resolver.HTTP2Own, "library": resolver.HTTP2Library,
		}))
	case Challenge:
		return parseAs(from, parseChallenge)
	case Action:
		return parseAs(from, oneOf(map[string]Action{"steer": ActionSteer, "pass": ActionPass}))
	case LogFormat:
		return parseAs(from, oneOf(map[string]LogFormat{
			"auto": FormatAuto, "json": FormatJSON, "console": FormatConsole,
		}))
	case zerolog.Level:
		return parseAs(from, oneOf(map[string]zerolog.Level{
			"debug": zerolog.DebugLevel, "info": zerolog.InfoLevel, "warn": zerolog.WarnLevel, "error": zerolog.ErrorLevel,
		}))
	case string:
		if from.Kind() != reflect.String {
			return nil, fmt.Errorf("must be text, not %v: put it in quotes", from)
		}
		return from.String(), nil
	}
	return decodeShape(from, to)
}

// decodeShape checks lists and sections, whose parts come to decodeValue one by one.
func decodeShape(from, to reflect.Value) (any, error) {
	switch {
	case to.Kind() == reflect.Slice:
		return decodeList(from, to.Type().Elem())
	case isSection(to.Type()):
		return decodeSection(from, to.Type())
	}
	return from.Interface(), nil
}

// decodeList takes a list, a single value, or, as environment variables need it, values with commas between them.
func decodeList(from reflect.Value, elem reflect.Type) (any, error) {
	switch {
	case from.Kind() == reflect.Slice:
		return from.Interface(), nil
	case isSection(elem) || from.Kind() == reflect.Map:
		return nil, fmt.Errorf("must be a list, such as %s", listExample(elem))
	case from.Kind() != reflect.String:
		return []any{from.Interface()}, nil
	}
	list := []string{}
	for item := range strings.SplitSeq(from.String(), ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list, nil
}

// listExample shows what a list of elem looks like.
func listExample(elem reflect.Type) string {
	if isSection(elem) {
		return "[{" + elem.Field(0).Tag.Get("mapstructure") + ": [...]}, ...]"
	}
	return "[..., ...]"
}

// decodeSection makes all keys strings, because keys of YAML may be anything.
func decodeSection(from reflect.Value, t reflect.Type) (any, error) {
	if from.Kind() != reflect.Map {
		return nil, fmt.Errorf("must be a section with keys such as %s, not %v", t.Field(0).Tag.Get("mapstructure"), from)
	}
	section := make(map[string]any, from.Len())
	for key, value := range from.Seq2() {
		section[fmt.Sprint(key.Interface())] = value.Interface()
	}
	return section, nil
}

// parseAs lets parse read a scalar as it was written.
func parseAs[T any](from reflect.Value, parse func(string) (T, error)) (any, error) {
	switch from.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64:
		return parse(strings.TrimSpace(fmt.Sprint(from.Interface())))
	}
	return nil, errors.New("must be a single value, not a list or section")
}

// parsePrefix takes prefixes without host bits; those of IPv4 only in IPv4 form, because they would match nothing else.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return p, fmt.Errorf("must be a prefix: did you mean %s/%d?", a, a.BitLen())
		}
		return p, fmt.Errorf("must be a prefix such as 192.0.2.0/24 or 2001:db8::/32, not %q", s)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("must be written as an IPv4 prefix, not %q", s)
	case p != p.Masked():
		return p, fmt.Errorf("has host bits set: did you mean %s or %s/%d?", p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	return p, nil
}

// ParseAddr returns the address in s, which has no zone and is no IPv4 address in IPv6 form. The error says what would be
// right.
func ParseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() || a.Zone() != "" {
		return a, fmt.Errorf("must be an address such as 192.0.2.53 or 2001:db8::53, not %q", s)
	}
	return a, nil
}

// parseAddrPort takes an address to listen on, which may have a zone.
func parseAddrPort(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		return ap, fmt.Errorf(`must be an address and a port, such as "192.0.2.53:53" or "[2001:db8::53]:53", not %q`, s)
	case ap.Addr().Is4In6():
		return ap, fmt.Errorf("must be written as an IPv4 address and a port, not %q", s)
	case ap.Port() == 0:
		return ap, fmt.Errorf("port 0 is out of range: ports are 1 to 65535")
	}
	return ap, nil
}

// parsePort takes 1 to 65535.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("must be a port, 1 to 65535, not %q", s)
	}
	return uint16(n), nil
}

// parseCount takes 1 and above: 0 would be the default.
func parseCount(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("must be a whole number from 1 to %d, not %q", math.MaxInt32, s)
	}
	return int(n), nil
}

// parseBool takes the two words of YAML 1.2 only: yes and no mean other things to other readers.
func parseBool(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, fmt.Errorf("must be true or false, not %q", s)
	}
	return s == "true", nil
}

// parseDuration takes durations above 0, which would be the default.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("must be a duration with a unit, such as 500ms, 60s, 5m or 24h, not %q", s)
	}
	return d, nil
}

// parseSize takes octets, or KiB, MiB or GiB.
func parseSize(s string) (ByteSize, error) {
	number, shift := s, 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if rest, ok := strings.CutSuffix(s, unit); ok {
			number, shift = strings.TrimSpace(rest), 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("must be a size such as 64MiB or 1GiB, not %q", s)
	}
	return ByteSize(n << shift), nil
}

// oneOf returns a parser of the words that are the keys of values.
func oneOf[T any](values map[string]T) func(string) (T, error) {
	return func(s string) (T, error) {
		v, ok := values[s]
		if !ok {
			words := make([]string, 0, len(values))
			for word := range values {
				words = append(words, word)
			}
			slices.Sort(words)
			return v, fmt.Errorf("must be one of %s, not %q", strings.Join(words, ", "), s)
		}
		return v, nil
	}
}
