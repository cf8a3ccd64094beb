package main

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// TestDemoOnce runs the demo at its own ports, which nobody else has in the namespace of these tests.
func TestDemoOnce(t *testing.T) {
	netns.Require(t)
	code, stdout, stderr := cfrd(t, "demo", "--once")
	if code != 0 {
		t.Errorf("got exit code %d\n%s%s", code, stderr, stdout)
	}
	for step := range 7 {
		if want := fmt.Sprintf("\n%d. ", step+1); !strings.Contains(stdout, want) {
			t.Errorf("got\n%s\nwant step %d in it", stdout, step+1)
		}
	}
}

// TestDemoPortInUse names the port that is taken, whichever it is, and leaves every other one free.
func TestDemoPortInUse(t *testing.T) {
	netns.Require(t)
	for flag, addr := range map[string]string{
		"--do53-port":   "127.0.0.1:5300",
		"--dot-port":    "127.0.0.1:8853",
		"--doh-port":    "127.0.0.1:8443",
		"--admin-port":  "127.0.0.1:9153",
		"--origin-port": "127.70.0.1:4443",
	} {
		t.Run(flag, func(t *testing.T) {
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			code, _, stderr := cfrd(t, "demo", "--once")
			if code != 1 || !strings.Contains(stderr, addr) || !strings.Contains(stderr, "address already in use") {
				t.Errorf("got exit code %d, %q; want 1 and an error about %s", code, stderr, addr)
			}
			ln.Close()
		})
	}
	if code, _, stderr := cfrd(t, "demo", "--once"); code != 0 {
		t.Errorf("afterwards: got exit code %d, %s; want 0: nothing is left bound", code, stderr)
	}
}
