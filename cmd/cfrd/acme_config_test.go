package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

func TestListenNetwork(t *testing.T) {
	all := addrPorts("0.0.0.0:80", "[::]:80")
	tests := map[string]struct {
		addr netip.AddrPort
		all  []netip.AddrPort
		want string
	}{
		"ipv4":             {netip.MustParseAddrPort("192.0.2.53:80"), nil, "tcp4"},
		"ipv6":             {netip.MustParseAddrPort("[2001:db8::53]:80"), nil, "tcp6"},
		"all":              {all[1], all[1:], "tcp"},
		"all-of-both":      {all[1], all, "tcp6"},
		"all-of-both-ipv4": {all[0], all, "tcp4"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := listenNetwork(test.addr, test.all); got != test.want {
				t.Errorf("got %s; want %s", got, test.want)
			}
		})
	}
}

func TestCheckWritable(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), "")
	tests := map[string]struct{ path, want string }{
		"there":        {dir, ""},
		"to-be-made":   {filepath.Join(dir, "a", "b"), ""},
		"a-file":       {filepath.Join(dir, "file"), "file is not a directory"},
		"below-a-file": {filepath.Join(dir, "file", "a"), "file is not a directory"},
		"proc":         {"/proc/self", "permission denied|no such file|not permitted|operation not supported|no such process"},
		"below-proc":   {"/proc/cfrd", "permission denied|no such file|not permitted|operation not supported"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := checkWritable(test.path)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got error %v; want none", err)
			case test.want != "" && (err == nil || !slices.ContainsFunc(strings.Split(test.want, "|"), func(s string) bool {
				return strings.Contains(err.Error(), s)
			})):
				t.Errorf("got error %v; want %q", err, test.want)
			}
		})
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("got %v, error %v; want nothing left behind", entries, err)
	}
}

// TestLoadACMEErrors has configurations that name files which are not as they should be.
func TestLoadACMEErrors(t *testing.T) {
	tests := map[string]struct{ more, file, want string }{
		"store-is-a-file": {"", "acme", "tls.acme.storage: "},
		"no-ca":           {", ca: none.pem", "", "tls.acme.ca: open "},
		"ca-is-no-pem":    {", ca: isp.zone", "", "tls.acme.ca: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.withACME(test.more)
			if test.file != "" {
				writeFile(t, filepath.Join(l.dir, test.file), "")
			}
			l.write(t)
			_, err := checkConfig(l.path(), config.ModeAll)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want one with %q", err, test.want)
			}
		})
	}
}
