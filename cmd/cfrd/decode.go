package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/viper"

	"github.com/cfrd-project/cfrd/resolver"
)

type (
	// byteSize is an amount of memory in octets, written as "64MiB" or as a bare number.
	byteSize int64
	// ruleAction is what a steering rule does with what it matches.
	ruleAction uint8
	// logFormat is how log lines are written.
	logFormat uint8
)

const (
	actionSteer ruleAction = iota
	actionPass
)

const (
	formatAuto logFormat = iota // console on a terminal, else JSON
	formatJSON
	formatConsole
)

// decodeValue is the hook through which every value of the configuration passes on its way to its Go type. What it
// refuses says what would be right; the key is added by the caller.
func decodeValue(from, to reflect.Value) (any, error) {
	switch to.Interface().(type) {
	case netip.Prefix:
		return parseAs(from, parsePrefix)
	case netip.Addr:
		return parseAs(from, parseAddr)
	case netip.AddrPort:
		return parseAs(from, parseAddrPort)
	case resolver.Upstream:
		return parseAs(from, parseUpstream)
	case time.Duration:
		return parseAs(from, parseDuration)
	case byteSize:
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
	case ruleAction:
		return parseAs(from, oneOf(map[string]ruleAction{"steer": actionSteer, "pass": actionPass}))
	case logFormat:
		return parseAs(from, oneOf(map[string]logFormat{
			"auto": formatAuto, "json": formatJSON, "console": formatConsole,
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

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() || a.Zone() != "" {
		return a, fmt.Errorf("must be an address such as 192.0.2.53 or 2001:db8::53, not %q", s)
	}
	return a, nil
}

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

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("must be a port, 1 to 65535, not %q", s)
	}
	return uint16(n), nil
}

func parseCount(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("must be a whole number from 1 to %d, not %q", math.MaxInt32, s)
	}
	return int(n), nil
}

func parseBool(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, fmt.Errorf("must be true or false, not %q", s)
	}
	return s == "true", nil
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("must be a duration with a unit, such as 500ms, 60s, 5m or 24h, not %q", s)
	}
	return d, nil
}

func parseSize(s string) (byteSize, error) {
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
	return byteSize(n << shift), nil
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

// configKey is a key that the configuration may have.
type configKey struct {
	path   string // without list indexes
	leaf   bool   // not a section
	inList bool   // of a section in a list, which the environment cannot express
}

// configKeys returns every key there is, from the fields of config.
func configKeys() []configKey { return sectionKeys("", reflect.TypeFor[config](), false) }

func sectionKeys(path string, t reflect.Type, inList bool) (keys []configKey) {
	for field := range t.Fields() {
		tag := field.Tag.Get("mapstructure")
		if tag == "" {
			continue
		}
		ft, list := field.Type, false
		if ft.Kind() == reflect.Slice && isSection(ft.Elem()) {
			ft, list = ft.Elem(), true
		}
		key := configKey{path: joinKey(path, tag), leaf: !isSection(ft), inList: inList}
		keys = append(keys, key)
		if !key.leaf {
			keys = append(keys, sectionKeys(key.path, ft, list)...)
		}
	}
	return keys
}

// isSection reports whether t is one of the structs of config.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.NumField() > 0 && t.Field(0).Tag.Get("mapstructure") != ""
}

func joinKey(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// addUnknown adds a key that does not exist, with the one that was probably meant.
func (ps *problems) addUnknown(path string, known []configKey) {
	if nearest := nearestKey(path, known); nearest != "" {
		ps.add(path, "unknown key: did you mean %s?", nearest)
		return
	}
	ps.add(path, "unknown key: `cfrd help configuration` lists all keys")
}

// addEmptyUnknown adds unknown keys without a value, which UnmarshalExact never gets to see.
func (ps *problems) addEmptyUnknown(written []string, known []configKey) {
	slices.Sort(written)
	for _, path := range written {
		below := func(k configKey) bool { return k.path == path || k.leaf && strings.HasPrefix(path, k.path+".") }
		if !slices.ContainsFunc(known, below) && !ps.has(path) && !ps.hasParent(path) {
			ps.addUnknown(path, known)
		}
	}
}

// hasParent reports whether something is known to be wrong with a section that holds path.
func (ps problems) hasParent(path string) bool {
	return slices.ContainsFunc(ps, func(p problem) bool {
		return p.key != "" && strings.HasPrefix(path, p.key+".")
	})
}

// nearestKey returns the key of the same section that path is most like, else one of the same name elsewhere.
func nearestKey(path string, known []configKey) string {
	plain := regexp.MustCompile(`\[\d+\]`).ReplaceAllString(path, "")
	section, name := splitKey(plain)
	best, bestDistance := "", 1+len(name)/3
	for _, k := range known {
		s, n := splitKey(k.path)
		if d := editDistance(name, n); s == section && d <= bestDistance {
			best, bestDistance = k.path, d-1
		}
	}
	if best != "" {
		return best
	}
	for _, k := range known {
		if _, n := splitKey(k.path); n == name {
			return k.path
		}
	}
	return ""
}

func splitKey(path string) (section, name string) {
	i := strings.LastIndexByte(path, '.')
	return path[:max(i, 0)], path[i+1:]
}

// editDistance returns the Levenshtein distance between two short words.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// environmentName returns the variable that overrides a key: listen.admin is CFRD_LISTEN_ADMIN.
func environmentName(path string) string {
	return "CFRD_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// bindEnvironment lets variables override every key but lists of sections, also those that the file does not have.
func bindEnvironment(v *viper.Viper, known []configKey) {
	for _, k := range known {
		if k.leaf && !k.inList {
			// The only error of BindEnv is a call without a key.
			_ = v.BindEnv(k.path, environmentName(k.path))
		}
	}
}

// markEnvironment says which of the wrong values are not from the file.
func markEnvironment(ps problems) problems {
	for i, p := range ps {
		if name := environmentName(p.key); os.Getenv(name) != "" {
			ps[i].text = fmt.Sprintf("(set by %s) %s", name, p.text)
		}
	}
	return ps
}

// unknownVariables returns a warning for each CFRD_ variable that overrides nothing. It is not an error, because
// service managers and container platforms make variables of their own from a service's name.
func unknownVariables(environ []string, known []configKey) (warnings []string) {
	names := make(map[string]bool)
	for _, k := range known {
		names[environmentName(k.path)] = k.leaf && !k.inList
	}
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "CFRD_") && !names[name] {
			warnings = append(warnings, name+" in the environment overrides no key: see `cfrd help configuration`")
		}
	}
	return warnings
}
