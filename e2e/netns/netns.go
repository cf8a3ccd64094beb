// Package netns runs the tests of a package in a network namespace of their own, in which no other program can have a
// port that they need: a test that wants a port for TCP and UDP, at every address, or twice in a row, takes a fixed one
// below the range from which the kernel picks (32768 and up) instead of one that was free a moment ago.
//
// A package calls Main from its TestMain, and Require in each test that depends on the namespace. Only tests may import
// this package.
package netns

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
)

// marker is set in the environment of the process that runs in the namespace.
const marker = "GO_TEST_NETNS"

// Main runs the tests of m and ends the process. It starts the test binary again in a new network namespace, with the
// same arguments, in which the loopback interface is up and nothing else is. Without the right to make one, the tests run
// where they are, and Require skips.
func Main(m *testing.M) {
	if os.Getenv(marker) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintf(os.Stderr, "prepare the network namespace: %v\n", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if code, ok := rerun(); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// Require skips t loudly if it does not run in a namespace of its own, or fails it if nothing may be skipped, which
// E2E_REQUIRED=1 says.
func Require(t testing.TB) {
	t.Helper()
	switch {
	case os.Getenv(marker) != "":
	case os.Getenv("E2E_REQUIRED") == "1":
		t.Fatal("E2E_REQUIRED=1 and there is no right to make a network namespace")
	default:
		t.Skip("SKIPPED: no right to make a network namespace, and another program may have the ports")
	}
}

// firstPort and lastPort bound what Port returns. They are above the ports of tests that name theirs, and below those that
// the kernel picks.
const (
	firstPort = 20000
	lastPort  = 32000
)

var ports atomic.Uint32

// Port returns a port that this process has not got from Port before, so that nobody has it in the namespace, for any
// protocol, at any address.
func Port(t testing.TB) uint16 {
	t.Helper()
	Require(t)
	return uint16(firstPort + (ports.Add(1)-1)%(lastPort-firstPort))
}
