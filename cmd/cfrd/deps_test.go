package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/cfrd-project/cfrd"

// sourceFile is a Go file of this module that is not a test.
type sourceFile struct {
	folder  string // from the root of the module, such as "relay/addrmap"
	name    string
	imports []string
	comment *ast.CommentGroup // of the package, or nil
}

// sourceFiles parses all of them, for every platform.
func sourceFiles(t *testing.T) (files []sourceFile) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		f := sourceFile{folder: filepath.ToSlash(folder), name: d.Name(), comment: parsed.Doc}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, imported)
		}
		files = append(files, f)
		return nil
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d files, error %v; want the module's", len(files), err)
	}
	return files
}

// rooms are the packages of the module, and the only places that say who may import whom.
var rooms = []struct {
	folder  string
	imports []string // of ours
	why     string
}{
	{"cmd/cfrd", []string{
		"cmd/cfrd/internal/acme", "cmd/cfrd/internal/certs", "cmd/cfrd/internal/check", "cmd/cfrd/internal/config",
		"cmd/cfrd/internal/demo", "resolver", "ddr", "ddr/svcb", "dnr", "dnr/announce", "dnr/serverconf",
		"dnr/survey", "zones", "relay", "relay/addrmap",
	}, "puts everything together"},
	{
		"cmd/cfrd/internal/acme",
		[]string{"cmd/cfrd/internal/certs", "cmd/cfrd/internal/reuseport", "resolver"},
		"gives the resolver the zone of a challenge, and the holder its certificates",
	},
	{"cmd/cfrd/internal/certs", nil, "a leaf: does not know where certificates come from"},
	{"cmd/cfrd/internal/certs/certstest", nil, "for tests"},
	{
		"cmd/cfrd/internal/check",
		[]string{"resolver", "ddr", "ddr/svcb", "dnr", "dnr/survey"},
		"names transports, and reads what resolvers and links say",
	},
	{
		"cmd/cfrd/internal/config",
		[]string{"resolver", "ddr", "dnr/announce", "zones", "relay", "relay/addrmap"},
		"asks the packages for their rules, and builds no service",
	},
	{
		"cmd/cfrd/internal/demo",
		[]string{"cmd/cfrd/internal/check", "cmd/cfrd/internal/reuseport", "resolver", "zones"},
		"gets its node from a function",
	},
	{"cmd/cfrd/internal/reuseport", nil, "a leaf: one socket option"},
	{
		"resolver",
		[]string{"resolver/internal/h2", "resolver/internal/wire", "resolver/steer", "resolver/upstream"},
		"names what it needs of others as interfaces of its own",
	},
	{"resolver/upstream", []string{"resolver/internal/wire"}, "how other resolvers are asked"},
	{"resolver/steer", []string{"resolver/internal/wire"}, "which addresses become the relay's"},
	{"resolver/internal/h2", nil, "HTTP/2 for resolver alone; knows no DNS"},
	{"resolver/internal/wire", nil, "a leaf: octets, without sockets"},
	{"resolver/internal/dnstest", nil, "for tests"},
	{"dnr", []string{"ddr/svcb"}, "options of the same parameters"},
	{"dnr/announce", []string{"dnr", "dnr/internal/link", "ddr/svcb"}, "sends the options"},
	{"dnr/serverconf", []string{"dnr", "ddr/svcb"}, "writes them for other servers"},
	{"dnr/survey", []string{"dnr", "dnr/internal/link", "ddr/svcb"}, "reads what others send"},
	{"dnr/internal/link", []string{"dnr"}, "interfaces, sockets and messages of one link"},
	{"ddr", []string{"ddr/svcb"}, "a zone of such records"},
	{"ddr/svcb", nil, "a leaf: records as octets"},
	{"zones", nil, "local data and rules"},
	{"relay", []string{"relay/addrmap"}, "asks it what an address stands for"},
	{"relay/addrmap", nil, "a leaf: a map of addresses that knows no names"},
	{"e2e", nil, "runs the binary"},
	{"e2e/netns", nil, "for tests"},
	{"e2e/bench", nil, "runs the binary"},
}

// TestImportsAmongOurs keeps the packages a star around cmd/cfrd: each can be read and tested alone.
func TestImportsAmongOurs(t *testing.T) {
	allowed := make(map[string][]string)
	for _, r := range rooms {
		allowed[r.folder] = r.imports
	}
	for _, f := range sourceFiles(t) {
		list, known := allowed[f.folder]
		if !known {
			t.Errorf("%s: say in rooms what package %s may import", f.name, f.folder)
			continue
		}
		for _, imported := range f.imports {
			ours, ok := strings.CutPrefix(imported, module+"/")
			if ok && !slices.Contains(list, ours) {
				t.Errorf("%s/%s imports %s; only %v may be imported there", f.folder, f.name, ours, list)
			}
		}
	}
}

// TestImportsOfOthers keeps dependencies where they belong.
func TestImportsOfOthers(t *testing.T) {
	rules := []struct {
		path    string // of the imported package or everything below it
		allowed []string
		why     string
	}{
		{"github.com/spf13/cobra", []string{"cmd/cfrd"}, "rooms get typed values, not flags"},
		{"github.com/coreos/go-systemd", []string{"cmd/cfrd"}, "the daemon speaks to the service manager, its services do not"},
		{"github.com/spf13/viper", []string{"cmd/cfrd/internal/config"}, "services get typed values, not configuration"},
		{"github.com/caddyserver/certmagic", []string{"cmd/cfrd/internal/acme"}, "services get a *tls.Config"},
		{"github.com/mholt/acmez", []string{"cmd/cfrd/internal/acme"}, "services get a *tls.Config"},
		{"github.com/prometheus", []string{"cmd/cfrd"}, "services count, and have Stats"},
		{
			"github.com/quic-go",
			[]string{"resolver", "cmd/cfrd", "cmd/cfrd/internal/check", "cmd/cfrd/internal/demo", "e2e/bench"},
			"its minor versions break; the relay must not parse QUIC",
		},
		{
			"github.com/miekg/dns",
			[]string{
				"resolver", "resolver/internal/wire", "resolver/internal/dnstest", "resolver/steer", "resolver/upstream", "ddr", "ddr/svcb", "zones",
				"cmd/cfrd", "cmd/cfrd/internal/acme", "cmd/cfrd/internal/check",
				"cmd/cfrd/internal/demo", "e2e/bench",
			},
			"the relay must never see a name",
		},
		{"golang.org/x/net/http2", []string{"resolver/internal/h2"}, "DoH is written once, whatever the version of HTTP"},
		{
			"github.com/gaissmai/bart",
			[]string{"resolver", "relay", "zones"},
			"each has its own set of prefixes, with one meaning",
		},
		{"go.etcd.io/bbolt", []string{"relay/addrmap"}, "leases are the only state on disk"},
		{"github.com/vishvananda/netlink", []string{"relay", "dnr/internal/link"}, "routes of the relay, and the links announced on"},
		{"github.com/google/go-cmp", nil, "for tests"},
		{module + "/resolver/internal/dnstest", nil, "for tests"},
		{module + "/cmd/cfrd/internal/certs/certstest", nil, "for tests"},
		{module + "/e2e/netns", nil, "for tests"},
		{"testing", []string{"cmd/cfrd/internal/certs/certstest", "resolver/internal/dnstest", "e2e/netns"}, "for tests"},
		{"github.com/rs/zerolog/log", nil, "the logger is handed down, never global"},
		{"github.com/go-viper", nil, "comes with viper"},
	}
	for _, f := range sourceFiles(t) {
		for _, imported := range f.imports {
			for _, r := range rules {
				below := imported == r.path || strings.HasPrefix(imported, r.path+"/")
				if below && !slices.Contains(r.allowed, f.folder) {
					t.Errorf("%s/%s imports %s; only %v may: %s", f.folder, f.name, imported, r.allowed, r.why)
				}
			}
		}
	}
}

// TestRelayCannotParse proves that nothing the relay is built from can look into what it carries: not its own
// imports, and not theirs. See draft-scalone-cfr-source-privacy-01, Section 10.
func TestRelayCannotParse(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", module+"/relay").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	forbidden := []string{
		"crypto/tls", "net/http", "crypto/x509",
		"github.com/quic-go", "github.com/miekg", "golang.org/x/net/dns", "golang.org/x/net/http2", "golang.org/x/net/quic",
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		for _, path := range forbidden {
			if dep == path || strings.HasPrefix(dep, path+"/") {
				t.Errorf("relay depends on %s, which parses what a relay must not see", dep)
			}
		}
	}
}

// TestPackageComments wants one package comment in each package, so that it has one subject, and says which.
func TestPackageComments(t *testing.T) {
	commented := make(map[string][]string)
	for _, f := range sourceFiles(t) {
		if f.comment != nil {
			commented[f.folder] = append(commented[f.folder], f.name)
			if text := f.comment.Text(); !strings.HasPrefix(text, "Package ") && !strings.HasPrefix(text, "Command ") {
				t.Errorf("%s/%s: the package comment begins with %.20q; want Package or Command", f.folder, f.name, text)
			}
		} else if _, ok := commented[f.folder]; !ok {
			commented[f.folder] = nil
		}
	}
	for folder, files := range commented {
		if len(files) != 1 {
			t.Errorf("%s: package comments in %v; want exactly one", folder, files)
		}
	}
}
