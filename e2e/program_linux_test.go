package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestCheck runs `cfrd check` on the customer's host, against a resolver that is well and against broken ones.
func TestCheck(t *testing.T) {
	l := newLab(t)
	d, ca := l.serveAll(settings{})
	check := func(addr string, more ...string) (string, error) {
		return l.customer.try(cfrd(t), append([]string{"check", addr, "--name", adn, "--ca", ca.file}, more...)...)
	}
	for _, addr := range []string{resolver4, resolver6} {
		if out, err := check(addr, "--steered", "www.cdn.example"); err != nil {
			t.Errorf("%s: %v\n%s", addr, err, out)
		}
	}
	t.Run("json", func(t *testing.T) {
		out, err := check(resolver4, "--json")
		if err != nil || !json.Valid([]byte(out)) {
			t.Errorf("got %v and\n%s\nwant JSON", err, out)
		}
	})
	t.Run("untrusted", func(t *testing.T) {
		out, err := l.customer.try(cfrd(t), "check", resolver4, "--name", adn)
		var ee *exec.ExitError
		if !errors.As(err, &ee) || ee.ExitCode() != 1 || !strings.Contains(out, "certificate") {
			t.Errorf("got %v and\n%s\nwant exit code 1 and a word about the certificate", err, out)
		}
	})
	t.Run("usage", func(t *testing.T) {
		var ee *exec.ExitError
		if _, err := l.customer.try(cfrd(t), "check", "not-an-address"); !errors.As(err, &ee) || ee.ExitCode() != 2 {
			t.Errorf("got %v; want exit code 2", err)
		}
	})
	t.Run("narrow-certificate", func(t *testing.T) {
		ca.issue("narrow", adn, resolver4)
		l.write("cfrd.yaml", strings.NewReplacer("cfrd.pem", "narrow.pem", "cfrd.key", "narrow.key").Replace(l.read("cfrd.yaml")))
		d.reload()
		if out, err := check(resolver4); err != nil {
			t.Errorf("at the address in the certificate: %v\n%s", err, out)
		}
		if out, err := check(resolver6); err == nil {
			t.Errorf("at the address that the certificate lacks: got success and\n%s\nwant a failure", out)
		}
	})
}

// TestDemoIsWhatREADMEShows runs the demo without any right but a loopback interface. Its output must be what README.md
// shows, but for the numbers that are drawn at random.
func TestDemoIsWhatREADMEShows(t *testing.T) {
	l := newLab(t)
	out, err := l.customer.try(cfrd(t), "demo", "--once")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok1 := strings.Cut(string(readme), "<!-- demo-output -->\n```\n")
	shown, _, ok2 := strings.Cut(rest, "```\n<!-- /demo-output -->")
	if !ok1 || !ok2 {
		t.Fatal("README.md has no demo-output block")
	}
	want, got := withoutRandom(shown), withoutRandom(out)
	if got != want {
		t.Errorf("the demo says:\n%s\nREADME.md shows:\n%s", got, want)
	}
}

// withoutRandom replaces what differs from run to run: relay and egress addresses, ephemeral ports, keys; and with
// them the width of columns.
func withoutRandom(s string) string {
	s = regexp.MustCompile(`127\.(80|90)\.\d+\.\d+`).ReplaceAllString(s, "127.$1.x.x")
	s = regexp.MustCompile(`(127\.(?:60\.0\.2|90\.x\.x)):\d+`).ReplaceAllString(s, "$1:port")
	s = regexp.MustCompile(`ech=\S+`).ReplaceAllString(s, "ech=key")
	return strings.TrimSpace(regexp.MustCompile(`[ ]+`).ReplaceAllString(s, " "))
}

// TestDemoUnprivileged runs the demo as a user without any right.
func TestDemoUnprivileged(t *testing.T) {
	need(t, "setpriv")
	l := newLab(t)
	home := filepath.Join(l.dir, "home")
	if err := os.Mkdir(home, 0o777); err != nil {
		t.Fatal(err)
	}
	rights := []string{"--bounding-set=-all", "--inh-caps=-all"}
	if os.Chown(home, 65534, 65534) == nil { // in a user namespace there is no other user to be
		rights = append(rights, "--reuid", "65534", "--regid", "65534", "--clear-groups")
	}
	out, err := l.customer.try("setpriv", append(rights, "env", "TMPDIR="+home, cfrd(t), "demo", "--once")...)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDemoStays runs the demo until Ctrl-C and pastes what it prints.
func TestDemoStays(t *testing.T) {
	need(t, "dig", "kdig", "curl")
	l := newLab(t)
	demo := l.customer.start(cfrd(t), "demo")
	poll(t, 20*time.Second, "the demo invites", func() error {
		if !strings.Contains(demo.output.String(), "To paste into another terminal") {
			return errors.New("not yet")
		}
		return nil
	})
	_, list, _ := strings.Cut(demo.output.String(), "To paste into another terminal")
	commands := regexp.MustCompile(`(?m)^   ((?:dig|kdig|curl) .*)$`).FindAllStringSubmatch(list, -1)
	if len(commands) < 6 {
		t.Errorf("got %d commands to paste; want more:\n%s", len(commands), list)
	}
	for _, c := range commands {
		out, err := l.customer.try("bash", "-o", "pipefail", "-c", c[1])
		if err != nil || strings.TrimSpace(out) == "" {
			t.Errorf("%s: %v\n%s", c[1], err, out)
		}
	}
	demo.signal(os.Interrupt)
	if err := demo.wait(10 * time.Second); err != nil {
		t.Errorf("after Ctrl-C: %v; want a clean end", err)
	}
}

// TestConfigCommands starts from `cfrd config init`, as an operator does.
func TestConfigCommands(t *testing.T) {
	l := newLab(t)
	file := filepath.Join(l.dir, "new.yaml")
	l.provider.must(cfrd(t), "config", "init", "--output", file)
	if _, err := l.provider.try(cfrd(t), "config", "init", "--output", file); err == nil {
		t.Error("a second init overwrote the file")
	}
	ca := l.newAuthority()
	l.write("good.yaml", l.config(ca, settings{}))
	if out, err := l.provider.try(cfrd(t), "config", "check", filepath.Join(l.dir, "good.yaml")); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	bad := strings.NewReplacer("max_ttl: 60s", "max_ttl: soon", "hints: rewrite", "hints: keep", "ports: [443, 80, 4443]", "prots: [443]").
		Replace(l.read("good.yaml"))
	l.write("bad.yaml", bad)
	out, err := l.provider.try(cfrd(t), "config", "check", filepath.Join(l.dir, "bad.yaml"))
	if err == nil {
		t.Errorf("got success and\n%s\nwant errors", out)
	}
	all := out + fmt.Sprint(err)
	for _, key := range []string{"steer.max_ttl", "steer.hints", "relay.prots"} {
		if !strings.Contains(all, key) {
			t.Errorf("got\n%s\nwant %s in it: every error, not just the first", all, key)
		}
	}
}
