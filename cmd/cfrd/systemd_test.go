package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// notifySocket is the service manager's end of NOTIFY_SOCKET.
type notifySocket struct{ conn *net.UnixConn }

func listenNotify(t *testing.T) notifySocket {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return notifySocket{conn}
}

func (s notifySocket) next(t *testing.T) string {
	t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	n, err := s.conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// want reads the next message, which must be as given.
func (s notifySocket) want(t *testing.T, message string) {
	t.Helper()
	if got := s.next(t); got != message {
		t.Errorf("service manager: got %q; want %q", got, message)
	}
}

// TestNotifyReloads reloads a running node twice, the second time with a configuration that is refused.
func TestNotifyReloads(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	manager := listenNotify(t)
	ctx, cancel := context.WithCancel(t.Context())
	hup, done := make(chan os.Signal), make(chan struct{})
	go func() { defer close(done); n.reloadOn(ctx, hup, l.path()) }()
	reload := func(status string) {
		t.Helper()
		hup <- syscall.SIGHUP
		got := strings.Split(manager.next(t), "\n")
		if len(got) != 3 || got[0] != "RELOADING=1" || !strings.HasPrefix(got[1], "MONOTONIC_USEC=") {
			t.Errorf("service manager: got %q; want that it reloads, and the time", got)
		}
		manager.want(t, "READY=1\nSTATUS="+status)
	}
	reload("serving")
	writeFile(t, l.path(), "nonsense: true")
	reload("serving; the last reload was refused, see the log")
	cancel()
	<-done
}

// TestNotifyWithoutManager must do nothing, also where the manager is gone.
func TestNotifyWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	notifyReady("serving")
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	notifyReady("serving")
}

func TestWatchdogInterval(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for name, row := range map[string]struct {
		usec, pid string
		want      time.Duration
		ok        bool
	}{
		"none":            {"", "", 0, true},
		"ours":            {"30000000", own, 30 * time.Second, true},
		"of-anybody":      {"30000000", "", 30 * time.Second, true},
		"of-another":      {"30000000", "1", 0, true},
		"not-a-number":    {"30s", own, 0, false},
		"zero":            {"0", own, 0, false},
		"pid-of-no-digit": {"30000000", "x", 0, false},
	} {
		t.Setenv("WATCHDOG_USEC", row.usec)
		t.Setenv("WATCHDOG_PID", row.pid)
		if got, err := watchdogInterval(); got != row.want || (err == nil) != row.ok {
			t.Errorf("%s: got %v, %v; want %v, success %t", name, got, err, row.want, row.ok)
		}
	}
}

// TestWatchdog has the clock run: there are two messages in an interval, none while something is stuck, and none after
// the end.
func TestWatchdog(t *testing.T) {
	manager := listenNotify(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		stuck := make(chan struct{})
		asked := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			feedWatchdog(ctx, 10*time.Second, func() {
				if asked++; asked == 4 {
					<-stuck
				}
			})
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if asked != 4 {
			t.Errorf("got %d questions whether it is alive; want 4, of which the last is not answered", asked)
		}
		close(stuck)
		synctest.Wait()
		cancel()
		<-done
	})
	for range 4 {
		manager.want(t, "WATCHDOG=1")
	}
	manager.wantNone(t)
}

// wantNone wants that no message waits.
func (s notifySocket) wantNone(t *testing.T) {
	t.Helper()
	if err := s.conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	if n, err := s.conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("service manager: got %q, %v; want no message", buf[:n], err)
	}
}

// TestDaemonFeedsTheWatchdog has a manager that wants to hear from the daemon, also in its drain.
func TestDaemonFeedsTheWatchdog(t *testing.T) {
	manager := listenNotify(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	l := newLab(t)
	l.write(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- runDaemon(ctx, l.path(), config.ModeAll, io.Discard) }()
	seen := make(map[string]int)
	for seen["WATCHDOG=1"] < 3 || seen["READY=1\nSTATUS=serving"] == 0 {
		seen[manager.next(t)]++
	}
	cancel()
	for seen["STOPPING=1\nSTATUS=draining"] == 0 {
		seen[manager.next(t)]++
	}
	if err := <-done; err != nil {
		t.Errorf("got error %v; want none", err)
	}
}
