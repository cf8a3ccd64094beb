package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLeaseFileTrouble starts cfrd with a lease file that cannot be used: DNS is served, steer.on_failure decides about
// new destinations, and log, /readyz and metric say so until it is over, which cfrd finds out by itself.
func TestLeaseFileTrouble(t *testing.T) {
	need(t, "dig")
	for mode, want := range map[string]string{"pass": "198.51.100.2", "fail": "Not Ready"} {
		for name, trouble := range map[string]func(t *testing.T, path string) (end func()){"full-disk": fillDisk, "locked": lockFile} {
			t.Run(name+"-"+mode, func(t *testing.T) {
				l := newLab(t)
				ca := l.newAuthority()
				l.blackHole()
				path := filepath.Join(t.TempDir(), "leases", "leases.db")
				if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				end := trouble(t, path)
				d := l.startCfrd(strings.NewReplacer("store: leases.db", "store: "+path, "on_failure: pass", "on_failure: "+mode).
					Replace(l.config(ca, settings{})))
				d.wantReady("lease file")
				d.waitWarning("the lease file cannot be written")
				if got := l.customer.must("dig", "@"+resolver4, "warm2.cdn.example", "A"); !strings.Contains(got, want) {
					t.Errorf("without a lease file: got\n%s\nwant %q in it", got, want)
				}
				if got := d.metric("cfrd_relay_lease_file_failing"); got != "1" {
					t.Errorf("metric: got %q; want 1", got)
				}
				end()
				d.waitWarning("the lease file is written again")
				d.wantReady()
				poll(t, 15*time.Second, "steering", func() error {
					if got := answers(l.customer.must("dig", "@"+resolver4, "warm3.cdn.example", "A"), "A"); len(got) != 1 || !strings.HasPrefix(got[0], "10.99.") {
						return errors.New("got " + strings.Join(got, " "))
					}
					return nil
				})
				if n := strings.Count(d.output.String(), "the lease file cannot be written"); n != 1 {
					t.Errorf("got %d log lines; want one for the whole time", n)
				}
			})
		}
	}
}

// fillDisk has path on a file system without any room.
func fillDisk(t *testing.T, path string) (end func()) {
	t.Helper()
	dir := filepath.Dir(path)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount tmpfs on %s: %v", dir, err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill %s: got %v; want no space left", dir, err)
	}
	return func() {
		if err := os.Remove(filler); err != nil {
			t.Error(err)
		}
	}
}

// lockFile has another process, which is this one, hold path.
func lockFile(t *testing.T, path string) (end func()) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return func() { f.Close() }
}

// TestLeaseFileDamaged starts cfrd with a lease file that is none: it says so, keeps it, and goes on.
func TestLeaseFileDamaged(t *testing.T) {
	need(t, "dig")
	l := newLab(t)
	ca := l.newAuthority()
	l.blackHole()
	text := strings.Repeat("no lease file\n", 100)
	path := l.write("leases.db", text)
	config := l.config(ca, settings{})
	if got, err := l.provider.try(cfrd(t), "config", "check", l.write("cfrd.yaml", config)); err != nil || !strings.Contains(got, "warning: relay.table.store: ") {
		t.Errorf("config check: got %q, %v; want a warning about relay.table.store", got, err)
	}
	d := l.startCfrd(config)
	d.waitWarning("the lease file is damaged")
	d.wantReady()
	mustBeIn(t, relayPool4, []string{l.relayAddr("warm2.cdn.example", "A")})
	if got, err := os.ReadFile(path + ".damaged"); err != nil || string(got) != text {
		t.Errorf("the damaged file: got %d octets, %v; want the %d that it had", len(got), err, len(text))
	}
}
