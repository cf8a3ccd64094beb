package config

import "reflect"

// reloads reports whether a change of the key of a field is applied by a reload. A key that does not say so with the
// tag `reload:"yes"` needs a restart; the only other tag is `reload:"restart"`. Each key has one of them, but for
// sections, which are as their keys.
func reloads(field reflect.StructField) bool { return field.Tag.Get("reload") == "yes" }

// RestartKeys returns the keys that are fixed for the life of a process, in the order of the reference configuration.
// A section stands for its keys if all of them are fixed.
func RestartKeys() []string {
	keys, _ := restartKeys("", reflect.TypeFor[Config]())
	return keys
}

// restartKeys also reports whether every key of the section t is fixed.
func restartKeys(path string, t reflect.Type) (keys []string, all bool) {
	all = true
	for field := range t.Fields() {
		tag := field.Tag.Get("mapstructure")
		if tag == "" {
			continue
		}
		key := joinKey(path, tag)
		below, fixed := []string{key}, !reloads(field)
		if isSection(field.Type) {
			if below, fixed = restartKeys(key, field.Type); fixed {
				below = []string{key}
			}
		} else if !fixed {
			below = nil
		}
		keys, all = append(keys, below...), all && fixed
	}
	return keys, all
}

// NeedsRestart returns a problem for each key in which two configurations differ and which a reload does not apply.
func NeedsRestart(old, changed *Config) (ps Problems) {
	for _, key := range changedKeys("", reflect.ValueOf(old).Elem(), reflect.ValueOf(changed).Elem()) {
		ps.Add(key, "has changed, which needs a restart")
	}
	if (old.TLS.Certificate != "") != (changed.TLS.Certificate != "") || old.TLS.ACME.Used() != changed.TLS.ACME.Used() {
		ps.Add("tls", "was added or removed, which needs a restart")
	}
	return ps
}

// changedKeys returns the keys that need a restart and in which two sections of the same type differ.
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
		case !reloads(field) && !reflect.DeepEqual(value.Interface(), other.Interface()):
			keys = append(keys, key)
		}
	}
	return keys
}
