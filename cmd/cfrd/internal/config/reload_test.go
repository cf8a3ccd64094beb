package config

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReloadTags wants each key to say whether a reload applies it: a section by its keys, and the keys of a list of
// sections as the list does, which changes as a whole.
func TestReloadTags(t *testing.T) {
	var check func(path string, section reflect.Type, list string)
	check = func(path string, section reflect.Type, list string) {
		for field := range section.Fields() {
			tag, reload := field.Tag.Get("mapstructure"), field.Tag.Get("reload")
			key := joinKey(path, tag)
			switch {
			case tag == "":
				if field.IsExported() && key != "" && field.Name != "Warnings" {
					t.Errorf("%s.%s has no key", section, field.Name)
				}
			case isSection(field.Type):
				if reload != "" {
					t.Errorf("%s is a section, whose keys say how they are reloaded; got reload:%q", key, reload)
				}
				check(key, field.Type, "")
			case reload != "yes" && reload != "restart":
				t.Errorf(`%s: got reload:%q; want "yes" or "restart"`, key, reload)
			case list != "" && reload != list:
				t.Errorf("%s: got reload:%q; want %q, as its list has", key, reload, list)
			case field.Type.Kind() == reflect.Slice && isSection(field.Type.Elem()):
				check(key, field.Type.Elem(), reload)
			}
		}
	}
	check("", reflect.TypeFor[Config](), "")
}

// TestUntaggedKeyNeedsRestart has a key for which nobody has decided.
func TestUntaggedKeyNeedsRestart(t *testing.T) {
	type section struct {
		New int `mapstructure:"new"`
		Old int `mapstructure:"old" reload:"yes"`
	}
	got := changedKeys("s", reflect.ValueOf(section{1, 1}), reflect.ValueOf(section{2, 2}))
	if want := []string{"s.new"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

// TestReferenceMarks holds the marks [restart] of the reference configuration against the tags. Keys within lists of
// sections are left out, because they are as their list is.
func TestReferenceMarks(t *testing.T) {
	known, want := make(map[string]bool), make(map[string]bool)
	for _, key := range configKeys() {
		known[key.path] = true
		if key.leaf && !key.inList {
			want[key.path] = key.restart
		}
	}
	got := referenceMarks(known)
	maps.DeleteFunc(got, func(key string, _ bool) bool { _, ok := want[key]; return !ok })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys that need a restart (-tags +marks of testdata/cfrd.yaml):\n%s", diff)
	}
}

var (
	// keyLine is a line with a key, which may be commented out: its indentation, its key, and the rest.
	keyLine = regexp.MustCompile(`^((?: |#:? |- )*)([a-z0-9_]+):(?: |$)(.*)$`)
	// flowKey is the first key of a section in braces.
	flowKey = regexp.MustCompile(`^\s*\{([a-z0-9_]+): `)
	// exceptMark is the mark of a section that does not hold for two of its keys.
	exceptMark = regexp.MustCompile(`\[restart, but for ([a-z_]+) and ([a-z_]+)\]`)
)

// markReader collects the marks of the reference configuration.
type markReader struct {
	marks, excepted map[string]bool
	sections        []markedSection // around the current line
}

type markedSection struct {
	indent int
	key    string
}

// referenceMarks returns every known key of the reference configuration, and whether it is marked: on its line, in the
// comment above it, or by a section that holds it.
func referenceMarks(known map[string]bool) map[string]bool {
	r := markReader{marks: make(map[string]bool), excepted: make(map[string]bool)}
	above := ""
	for text := range strings.Lines(string(referenceConfig)) {
		m := keyLine.FindStringSubmatch(strings.TrimRight(text, "\n"))
		if m != nil && known[joinKey(r.section(indentation(m[1])), m[2])] {
			r.add(m, above)
			above = ""
			continue
		}
		if above += text; text == "\n" {
			above = ""
		}
	}
	return r.marks
}

// indentation returns how deep a key stands, without what comments it out.
func indentation(s string) int {
	return len(strings.NewReplacer("#: ", "", "# ", "", "- ", "  ").Replace(s))
}

// section returns the section of a line with that indentation, and leaves those that ended before it.
func (r *markReader) section(indent int) string {
	for len(r.sections) > 0 && r.sections[len(r.sections)-1].indent >= indent {
		r.sections = r.sections[:len(r.sections)-1]
	}
	if len(r.sections) == 0 {
		return ""
	}
	return r.sections[len(r.sections)-1].key
}

// add adds the key of a line, and the one in braces behind it.
func (r *markReader) add(m []string, above string) {
	section := r.section(indentation(m[1]))
	key, text := joinKey(section, m[2]), above+m[3]
	r.marks[key] = (strings.Contains(text, "[restart") || r.marks[section]) && !r.excepted[key]
	if e := exceptMark.FindStringSubmatch(text); e != nil {
		r.excepted[key+"."+e[1]], r.excepted[key+"."+e[2]] = true, true
	}
	if in := flowKey.FindStringSubmatch(m[3]); in != nil {
		r.marks[key+"."+in[1]] = r.marks[key]
	}
	r.sections = append(r.sections, markedSection{indentation(m[1]), key})
}

// TestNeedsRestart changes one key after the other.
func TestNeedsRestart(t *testing.T) {
	tests := map[string]struct{ old, new, want string }{
		"nothing":          {"clients:", "clients:", ""},
		"clients":          {"clients: [10.0.0.0/8,", "clients: [10.0.0.0/9,", ""},
		"rule":             {"[bank.example], action: pass", "[bank.example], action: steer", ""},
		"listener":         {`dot: ["10.0.0.53:853",`, `dot: ["10.0.0.53:854",`, "listen.dot"},
		"max-ttl":          {"  # max_ttl: 1m", "  max_ttl: 2m", ""},
		"relay-ports":      {"ports: [443, 80]", "ports: [443]", "relay.ports"},
		"egress":           {"egress: [192.0.2.64/28", "egress: [192.0.2.64/29", ""},
		"sealed-prefix":    {"2001:db8:cf::/64", "2001:db8:ce::/64", "relay.sealed.prefix"},
		"key-of-a-section": {"# cache:\n#   size: 64MiB", "cache:\n  size: 1MiB", "cache.size"},
		"list-of-sections": {"# dnr:\n", "dnr: {announce: [{interface: lan0, ra: true}]}\n", "dnr.announce"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			old := parse(t, string(referenceConfig))
			text := strings.Replace(string(referenceConfig), test.old, test.new, 1)
			var got string
			if ps := NeedsRestart(old, parse(t, text)); len(ps) > 0 {
				got = ps[0].Key
			}
			if got != test.want {
				t.Errorf("got a problem with %q; want %q", got, test.want)
			}
		})
	}
}

func TestRestartKeys(t *testing.T) {
	got := RestartKeys()
	for _, key := range []string{"listen", "dnr", "relay.ports", "relay.limits", "limits", "tls.acme.storage"} {
		if !slices.Contains(got, key) {
			t.Errorf("got %q; want %s among them", got, key)
		}
	}
	for _, key := range []string{"clients", "steer.max_ttl", "relay", "relay.egress", "tls.acme", "tls.acme.profile"} {
		if slices.Contains(got, key) {
			t.Errorf("got %q; want %s not among them", got, key)
		}
	}
}
