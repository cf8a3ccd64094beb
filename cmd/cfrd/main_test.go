package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// cfrd runs one command line.
func cfrd(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommandLine(t *testing.T) {
	tests := map[string]struct {
		args           string
		code           int
		stdout, stderr string // in what is printed
	}{
		"version":           {"version", 0, "cfrd ", ""},
		"help":              {"help", 0, "Available Commands", ""},
		"help-topic":        {"help privacy", 0, "What each part may know", ""},
		"version-flag":      {"--version", 0, "cfrd ", ""},
		"unknown-command":   {"sevre", 2, "", "did you mean serve?"},
		"unknown-below":     {"config chek", 2, "", `unknown command "chek" for "cfrd config"; did you mean check?`},
		"unknown-below-dnr": {"dnr foo", 2, "", `unknown command "foo" for "cfrd dnr"`},
		"unknown-below-ddr": {"ddr foo", 2, "", `unknown command "foo" for "cfrd ddr"`},
		"unknown-topic":     {"help nothing", 2, "", `unknown help topic "nothing"`},
		"unknown-topic-dnr": {"help dnr foo", 2, "", `unknown help topic "foo" for "cfrd dnr"`},
		"group-alone":       {"config", 0, "Available Commands", ""},
		"help-command":      {"help config check", 0, "check reads a configuration", ""},
		"too-few-arguments": {"config check", 2, "", "accepts 1 arg(s), received 0"},
		"too-many":          {"version now", 2, "", "unknown command"},
		"nothing":           {"", 0, "Available Commands", ""},
		"unknown-flag":      {"serve --bogus", 2, "", "unknown flag: --bogus; see `cfrd serve --help`"},
		"wrong-mode":        {"serve --mode both", 2, "", "must be all, resolver or relay"},
		"no-configuration":  {"serve --config /nonexistent", 1, "", "read configuration: open /nonexistent"},
		"bad-configuration": {"serve --config internal/config/testdata/bad/name-missing.yaml", 1, "", "\nname: missing"},
		"config-check":      {"config check internal/config/testdata/bad/name-missing.yaml", 1, "name: missing", ""},
		"config-init":       {"config init", 0, "name: dns.isp.example", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := cfrd(t, strings.Fields(test.args)...)
			if code != test.code {
				t.Errorf("got exit code %d; want %d", code, test.code)
			}
			if !strings.Contains(stdout, test.stdout) || test.stdout == "" && stdout != "" {
				t.Errorf("got stdout %q; want %q in it", stdout, test.stdout)
			}
			if !strings.Contains(stderr, test.stderr) || test.stderr == "" && stderr != "" {
				t.Errorf("got stderr %q; want %q in it", stderr, test.stderr)
			}
		})
	}
}

func TestConfigInit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cfrd.yaml")
	if code, _, stderr := cfrd(t, "config", "init", "--with-key", "--output", path); code != 0 {
		t.Fatalf("got exit code %d, %s; want 0", code, stderr)
	}
	info, err := os.Stat(filepath.Join(filepath.Dir(path), "seal.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("seal.key: got %v, %v; want a file of mode 0600", info, err)
	}
	code, _, stderr := cfrd(t, "config", "init", "--output", path)
	if code != 1 || !strings.Contains(stderr, "exists") {
		t.Errorf("second time: got exit code %d, %q; want it refused", code, stderr)
	}
	if code, _, stderr = cfrd(t, "config", "init", "--force", "--output", path); code != 0 {
		t.Errorf("with --force: got exit code %d, %q; want 0", code, stderr)
	}
	if code, _, _ = cfrd(t, "config", "init", "--force", "--with-key", "--output", path); code != 1 {
		t.Errorf("got exit code %d; want 1: a key is never overwritten", code)
	}
	// The only thing that the reference configuration lacks is the certificate.
	code, stdout, _ := cfrd(t, "config", "check", path)
	if lines := strings.Split(strings.TrimSpace(stdout), "\n"); code != 1 || len(lines) != 1 {
		t.Errorf("check: got exit code %d, %q; want only the certificate to be missing", code, stdout)
	}
}

func TestConfigCheckOfLab(t *testing.T) {
	l := newLab(t)
	l.write(t)
	if code, stdout, _ := cfrd(t, "config", "check", l.path()); code != 0 || !strings.HasPrefix(stdout, "descriptors: ") || !strings.HasSuffix(stdout, "\nOK\n") {
		t.Errorf("got exit code %d, %q; want OK", code, stdout)
	}
}

// TestHelpListsRestartKeys wants every key that needs a restart in the help, in lines that fit.
func TestHelpListsRestartKeys(t *testing.T) {
	code, stdout, _ := cfrd(t, "help", "configuration")
	if code != 0 || strings.Contains(stdout, "{{") {
		t.Errorf("got exit code %d, %q; want a text without placeholders", code, stdout)
	}
	words := strings.FieldsFunc(stdout, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
	for _, key := range config.RestartKeys() {
		if !slices.Contains(words, key) {
			t.Errorf("got %q; want %s in it", stdout, key)
		}
	}
	for line := range strings.Lines(stdout) {
		if len(line) > 121 {
			t.Errorf("got a line of %d columns: %s", len(line)-1, line)
		}
	}
}
