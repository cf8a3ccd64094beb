package main

import "testing"

func TestDNRCheckUsage(t *testing.T) {
	for name, row := range map[string]struct {
		args []string
		code int
	}{
		"no-interface": {nil, 2},
		"timeout":      {[]string{"--interface", "lo", "--timeout", "0s"}, 2},
		"argument":     {[]string{"--interface", "lo", "x"}, 2},
		"flag":         {[]string{"--no-such-flag"}, 2},
		"no-file":      {[]string{"--interface", "lo", "--ca", "no such file"}, 2},
		// The command was called rightly, but the link is not there.
		"no-such-interface": {[]string{"--interface", "no such one"}, 1},
	} {
		if code, _, stderr := cfrd(t, append([]string{"dnr", "check"}, row.args...)...); code != row.code {
			t.Errorf("%s: got exit code %d, %s; want %d", name, code, stderr, row.code)
		}
	}
}
