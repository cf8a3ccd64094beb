package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
)

func TestReloadKeepsOldOnError(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, l *lab)
		want   string // in the error
	}{
		"unknown-key": {
			func(_ *testing.T, l *lab) { l.config["upstream"] = "[]" },
			"upstream: unknown key",
		},
		"needs-restart": {
			func(_ *testing.T, l *lab) {
				l.config["cache"], l.config["clients"] = "{size: 1MiB}", "[127.0.0.0/9]"
			},
			"cache.size: has changed, which needs a restart",
		},
		"missing-certificate": {
			func(_ *testing.T, l *lab) { l.config["tls"] = "{certificate: none.pem, key: key.pem}" },
			"tls.certificate: ",
		},
		"other-name": {
			func(_ *testing.T, l *lab) { l.config["name"] = "other.example" },
			"tls.certificate: ",
		},
		"broken-zone": {
			func(t *testing.T, l *lab) { writeFile(t, filepath.Join(l.dir, "isp.zone"), "not a zone") },
			"zones[0]: ",
		},
		"tls-removed": {
			func(_ *testing.T, l *lab) {
				delete(l.config, "tls")
				l.config["listen"] = `{do53: ["` + l.addr.String() + `:8053"], admin: "` + l.addr.String() + `:9153"}`
			},
			"tls: was added or removed, which needs a restart",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			n, _ := l.start(t)
			before := n.current()
			test.change(t, l)
			l.write(t)
			err := n.reload(l.path())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want one with %q", err, test.want)
			}
			if n.current() != before {
				t.Error("got other values; want those from before")
			}
		})
	}
}

func TestReloadApplies(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	before := n.certs.Leaf()
	certstest.Template{Names: []string{"dns.isp.example", "dns.other.example"}}.Write(t, l.dir)
	l.config["clients"] = "[127.0.0.0/9]"
	l.config["name"] = "dns.other.example"
	l.write(t)
	if err := n.reload(l.path()); err != nil {
		t.Fatal(err)
	}
	if got := n.current().Clients; len(got) != 1 || got[0].Bits() != 9 {
		t.Errorf("clients: got %v; want 127.0.0.0/9", got)
	}
	if n.certs.Leaf() == before {
		t.Error("got the certificate from before; want the new one")
	}
}

// TestReloadOnSignal follows the signal to the log and the counters.
func TestReloadOnSignal(t *testing.T) {
	l := newLab(t)
	n, log := l.start(t)
	hup := make(chan os.Signal, 1)
	go n.reloadOn(t.Context(), hup, l.path())
	hup <- syscall.SIGHUP
	eventually(t, "an applied reload", func() bool { return n.applied.Load() == 1 })

	l.config["clients"] = "[]"
	l.write(t)
	hup <- syscall.SIGHUP
	eventually(t, "a refused reload", func() bool { return n.refused.Load() == 1 })
	eventually(t, "its reason", func() bool { return log.contains("everything stays as it was") })
	if !log.contains("clients: missing") {
		t.Errorf("got log %q; want the reason in it", log.lines())
	}
}
