package addrmap

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// crashFile names the environment variable that makes this test binary a process that leases addresses until it is
// killed.
const crashFile = "ADDRMAP_CRASH_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		if err := leaseForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func crashConfig(path string) Config {
	return Config{Table: &TableConfig{Path: path, Prefixes: []netip.Prefix{
		netip.MustParsePrefix("10.99.0.0/19"), netip.MustParsePrefix("2001:db8:1::/64"),
	}}}
}

// leaseForever writes a line with a destination and its relay address as soon as Relay has returned.
func leaseForever(path string) error {
	m, err := Open(crashConfig(path))
	if err != nil {
		return err
	}
	errs := make(chan error)
	for range 4 {
		go func() {
			for {
				like := netip.IPv4Unspecified()
				if rand.IntN(2) == 0 {
					like = netip.IPv6Unspecified()
				}
				dst := destination(rand.IntN(5000), like)
				relay, err := m.Relay(dst, dst.Is6(), time.Minute)
				if err != nil {
					errs <- err
					return
				}
				fmt.Fprintln(os.Stdout, dst, relay) // one write, not buffered
			}
		}()
	}
	return <-errs
}

// TestLeasesSurviveKill kills a process in the middle of leasing, several times over the same file, and then looks
// for everything that any of them has reported.
func TestLeasesSurviveKill(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "leases.db")
	leases := make(map[netip.Addr]netip.Addr)
	for range 4 {
		before := len(leases)
		leaseUntilKilled(t, exe, path, 100+rand.IntN(300), leases)
		if len(leases) == before {
			t.Fatal("nothing was leased")
		}
		m, err := Open(crashConfig(path))
		if err != nil {
			t.Fatal(err)
		}
		checkLeases(t, m, leases)
		checkTable(t, m.table4)
		checkTable(t, m.table6)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// leaseUntilKilled runs leaseForever, kills it after it has reported n leases and enters all that it has reported.
func leaseUntilKilled(t *testing.T, exe, path string, n int, leases map[netip.Addr]netip.Addr) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), crashFile+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reported := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		left, right, _ := strings.Cut(lines.Text(), " ")
		dst, relay := netip.MustParseAddr(left), netip.MustParseAddr(right)
		if old, ok := leases[dst]; ok && old != relay {
			t.Errorf("%v: got %v; want %v as before", dst, relay, old)
		}
		leases[dst] = relay
		if reported++; reported == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Fatalf("got %v; want it to be killed", err)
	}
}
