package config

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/viper"
)

// configKey is a key that the configuration may have.
type configKey struct {
	path    string // without list indexes
	leaf    bool   // not a section
	inList  bool   // of a section in a list, which the environment cannot express
	restart bool   // a reload does not apply a change of it; false for sections
}

// configKeys returns every key there is, from the fields of config.
func configKeys() []configKey { return sectionKeys("", reflect.TypeFor[Config](), false) }

// sectionKeys returns the keys of the section t at path, and of the sections in it.
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
		key.restart = key.leaf && !reloads(field)
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

// joinKey returns the path of a key in the section at path, which may be "".
func joinKey(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// addUnknown adds a key that does not exist, with the one that was probably meant.
func (ps *Problems) addUnknown(path string, known []configKey) {
	if nearest := nearestKey(path, known); nearest != "" {
		ps.Add(path, "unknown key: did you mean %s?", nearest)
		return
	}
	ps.Add(path, "unknown key: `cfrd help configuration` lists all keys")
}

// addEmptyUnknown adds unknown keys without a value, which UnmarshalExact never gets to see.
func (ps *Problems) addEmptyUnknown(written []string, known []configKey) {
	slices.Sort(written)
	for _, path := range written {
		below := func(k configKey) bool { return k.path == path || k.leaf && strings.HasPrefix(path, k.path+".") }
		if !slices.ContainsFunc(known, below) && !ps.has(path) && !ps.hasParent(path) {
			ps.addUnknown(path, known)
		}
	}
}

// hasParent reports whether something is known to be wrong with a section that holds path.
func (ps Problems) hasParent(path string) bool {
	return slices.ContainsFunc(ps, func(p Problem) bool {
		return p.Key != "" && strings.HasPrefix(path, p.Key+".")
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

// splitKey is the inverse of joinKey.
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
func markEnvironment(ps Problems) Problems {
	for i, p := range ps {
		key, _, _ := strings.Cut(p.Key, "[") // a variable holds a whole list
		if name := environmentName(key); os.Getenv(name) != "" {
			ps[i].Text = fmt.Sprintf("(set by %s) %s", name, p.Text)
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
