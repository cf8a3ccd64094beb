package main

import (
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// watched is a node that only watches the files of its certificate.
type watched struct {
	*node
	dir string
	log *logBuffer
	w   certificateWatch
}

// forResolver is a certificate that the resolver of these tests accepts.
func forResolver() certstest.Template {
	return certstest.Template{Names: []string{"dns.isp.example"}}
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	dir, log := t.TempDir(), &logBuffer{}
	forResolver().Write(t, dir)
	cfg := &config.Config{Name: "dns.isp.example"}
	cfg.TLS.Certificate, cfg.TLS.Key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert, err := certs.Load(cfg.TLS.Certificate, cfg.TLS.Key, cfg.Name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{values: &values{Config: cfg}, certs: certs.NewHolder(cert), log: zerolog.New(log)}
	w := &watched{node: n, dir: dir, log: log}
	w.look()
	return w
}

// look looks as often as it takes to act on a change.
func (w *watched) look() {
	for range 2 {
		w.lookAtCertificate(&w.w, time.Now())
	}
}

// TestWatchRefuses puts one broken certificate after the other in the place of a good one.
func TestWatchRefuses(t *testing.T) {
	tests := map[string]struct {
		breakIt func(t *testing.T, dir string)
		want    string
	}{
		"expired": {
			func(t *testing.T, dir string) {
				certstest.Template{Names: []string{"dns.isp.example"}, NotAfter: time.Now().Add(-time.Minute)}.Write(t, dir)
			},
			"expired on",
		},
		"not-yet-valid": {
			func(t *testing.T, dir string) {
				certstest.Template{Names: []string{"dns.isp.example"}, NotBefore: time.Now().Add(time.Minute)}.Write(t, dir)
			},
			"is not valid before",
		},
		"other-name": {
			func(t *testing.T, dir string) { certstest.Template{Names: []string{"www.isp.example"}}.Write(t, dir) },
			"is not for dns.isp.example",
		},
		"address-only": {
			func(t *testing.T, dir string) {
				certstest.Template{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}.Write(t, dir)
			},
			"but for 192.0.2.53",
		},
		"other-key": {
			func(t *testing.T, dir string) {
				key := mustRead(t, filepath.Join(dir, "key.pem"))
				forResolver().Write(t, dir)
				writeFile(t, filepath.Join(dir, "key.pem"), key)
			},
			"private key does not match public key",
		},
		"half-a-certificate": {
			func(t *testing.T, dir string) {
				path := filepath.Join(dir, "cert.pem")
				text := mustRead(t, path)
				writeFile(t, path, text[:len(text)/2])
			},
			"failed to find any PEM data in certificate input",
		},
		"half-a-key": {
			func(t *testing.T, dir string) {
				path := filepath.Join(dir, "key.pem")
				writeFile(t, path, mustRead(t, path)[:40])
			},
			"failed to find any PEM data in key input",
		},
		"empty": {
			func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "cert.pem"), "") },
			"failed to find any PEM data in certificate input",
		},
		"gone": {
			func(t *testing.T, dir string) {
				if err := os.Remove(filepath.Join(dir, "key.pem")); err != nil {
					t.Fatal(err)
				}
			},
			"key.pem: no such file or directory",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWatched(t)
			before := w.certs.Leaf()
			test.breakIt(t, w.dir)
			w.look()
			w.look()
			if w.certs.Leaf() != before {
				t.Error("got another certificate; want the one before")
			}
			if got := w.certs.Complaint(); !strings.Contains(got, test.want) || strings.Contains(got, "\n") {
				t.Errorf("got reason %q; want a line with %q", got, test.want)
			}
			if lines := w.log.lines(); len(lines) != 1 || !strings.Contains(lines[0], test.want) {
				t.Errorf("got log %q; want one line with %q", lines, test.want)
			}
			if s := w.certs.Stats(); s.Refused != 1 || !s.Failing {
				t.Errorf("got %d refused, failing %t; want 1, true", s.Refused, s.Failing)
			}

			forResolver().Write(t, w.dir)
			w.look()
			if w.certs.Leaf() == before {
				t.Error("after repair: got the certificate from before; want the new one")
			}
			if got := w.certs.Complaint(); got != "" {
				t.Errorf("after repair: got reason %q; want none", got)
			}
		})
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestWatchWaitsForTheSecondFile writes certificate and key one after the other, with a look between them: what does
// not belong together yet is no reason to complain.
func TestWatchWaitsForTheSecondFile(t *testing.T) {
	w := newWatched(t)
	next := t.TempDir()
	leaf := forResolver().Write(t, next)
	for _, file := range []string{"cert.pem", "key.pem"} {
		writeFile(t, filepath.Join(w.dir, file), mustRead(t, filepath.Join(next, file)))
		w.lookAtCertificate(&w.w, time.Now())
	}
	if got := w.certs.Complaint(); got != "" {
		t.Errorf("got refused: %s; want to be waited for", got)
	}
	w.lookAtCertificate(&w.w, time.Now())
	if !w.certs.Leaf().Equal(leaf) {
		t.Error("got the certificate from before; want the new one")
	}
}

// TestWatchFollowsSwaps replaces the files in the ways of other programs.
func TestWatchFollowsSwaps(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]func(t *testing.T, w *watched, next string){
		"rename": func(t *testing.T, w *watched, next string) {
			for _, file := range []string{"cert.pem", "key.pem"} {
				must(t, os.Rename(filepath.Join(next, file), filepath.Join(w.dir, file)))
			}
		},
		// As Kubernetes does: the files are links through a link to a directory, which alone is swapped.
		"symbolic-link-to-a-directory": func(t *testing.T, w *watched, next string) {
			old := t.TempDir()
			for _, file := range []string{"cert.pem", "key.pem"} {
				must(t, os.Rename(filepath.Join(w.dir, file), filepath.Join(old, file)))
				must(t, os.Symlink(filepath.Join("..data", file), filepath.Join(w.dir, file)))
			}
			must(t, os.Symlink(old, filepath.Join(w.dir, "..data")))
			w.look()
			must(t, os.Symlink(next, filepath.Join(w.dir, "..data_tmp")))
			must(t, os.Rename(filepath.Join(w.dir, "..data_tmp"), filepath.Join(w.dir, "..data")))
		},
		"same-size-and-time": func(t *testing.T, w *watched, next string) {
			for _, file := range []string{"cert.pem", "key.pem"} {
				path := filepath.Join(w.dir, file)
				st, err := os.Stat(path)
				must(t, err)
				writeFile(t, path, mustRead(t, filepath.Join(next, file)))
				must(t, os.Chtimes(path, st.ModTime(), st.ModTime()))
			}
		},
	}
	for name, swap := range tests {
		t.Run(name, func(t *testing.T) {
			w, next := newWatched(t), t.TempDir()
			leaf := forResolver().Write(t, next)
			swap(t, w, next)
			w.look()
			if !w.certs.Leaf().Equal(leaf) {
				t.Errorf("got the certificate from before, refused: %q; want the new one", w.certs.Complaint())
			}
			if lines := w.log.lines(); len(lines) != 1 || !strings.Contains(lines[0], "certificate replaced") {
				t.Errorf("got log %q; want one line about the new certificate", lines)
			}
		})
	}
}

func TestWatchNamesUncoveredAddresses(t *testing.T) {
	w := newWatched(t)
	w.values.Listen.Do53 = addrPorts("192.0.2.53:53")
	forResolver().Write(t, w.dir)
	w.look()
	if !w.log.contains("does not carry 192.0.2.53 as IP address") {
		t.Errorf("got log %q; want a warning about 192.0.2.53", w.log.lines())
	}
}

// TestWatchTicks has the clock run.
func TestWatchTicks(t *testing.T) {
	w := newWatched(t)
	synctest.Test(t, func(t *testing.T) {
		// The certificate was made outside of the bubble, where it is another year.
		certstest.Template{Names: []string{"dns.isp.example"}, NotAfter: time.Now().Add(time.Hour)}.Write(t, w.dir)
		go w.watchCertificate(t.Context())
		time.Sleep(2*watchInterval + time.Second)
		synctest.Wait()
		if got := w.certs.Stats().Applied; got != 1 {
			t.Errorf("got %d replacements; want 1", got)
		}
	})
}

// TestReadinessWarns keeps a node with a certificate that cannot be replaced in service, and says so.
func TestReadinessWarns(t *testing.T) {
	l := newLab(t)
	l.serveUpstream(t)
	n, _ := l.start(t)
	eventually(t, "readiness", func() bool { return len(n.notReady()) == 0 })
	n.certs.Refuse(os.ErrPermission)
	status, body := l.get(t, "/readyz")
	if want := "ready\nwarning: the certificate was not replaced: permission denied\n"; status != http.StatusOK || body != want {
		t.Errorf("/readyz: got %d %q; want 200 %q", status, body, want)
	}
	_, metrics := l.get(t, "/metrics")
	for _, want := range []string{
		`cfrd_certificate_updates_total{result="refused"} 1`,
		`cfrd_certificate_updates_total{result="applied"} 0`,
		"cfrd_certificate_update_failing 1",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics: got no %q", want)
		}
	}
}
