package config

import (
	"reflect"
	"slices"
	"strings"
)

// restartKeys are the keys, or sections, that are fixed for the life of the process.
func restartKeys() []string {
	return []string{
		"listen", "relay.ports", "relay.sealed", "relay.table", "relay.routes", "relay.gso", "relay.limits", "limits", "cache",
		"admin", "log", "tls.acme.directory", "tls.acme.email", "tls.acme.ca", "tls.acme.storage", "tls.acme.challenges",
		"dnr.announce",
	}
}

// NeedsRestart returns a problem for each key that differs and cannot change at run time.
func NeedsRestart(old, changed *Config) (ps Problems) {
	for _, key := range changedKeys("", reflect.ValueOf(old).Elem(), reflect.ValueOf(changed).Elem()) {
		if slices.ContainsFunc(restartKeys(), func(r string) bool { return key == r || strings.HasPrefix(key, r+".") }) {
			ps.Add(key, "has changed, which needs a restart")
		}
	}
	if (old.TLS.Certificate != "") != (changed.TLS.Certificate != "") || old.TLS.ACME.Used() != changed.TLS.ACME.Used() {
		ps.Add("tls", "was added or removed, which needs a restart")
	}
	return ps
}

// changedKeys returns the keys in which two sections of the same type differ.
func changedKeys(path string, a, b reflect.Value) (keys []string) {
	for field, value := range a.Fields() {
		tag := field.Tag.Get("mapstructure")
		if tag == "" {
			continue
		}
		other, key := b.FieldByIndex(field.Index), joinKey(path, tag)
		switch {
		case isSection(field.Type):
			keys = append(keys, changedKeys(key, value, other)...)
		case !reflect.DeepEqual(value.Interface(), other.Interface()):
			keys = append(keys, key)
		}
	}
	return keys
}
