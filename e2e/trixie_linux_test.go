package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// trixieTree is where e2e/trixie.sh unpacks programs of Debian trixie.
const trixieTree = ".cache/trixie"

// machine is a second root of a host, in which programs of Debian trixie run. Everything but /usr is its own, and its
// processes share it. No init runs there.
type machine struct {
	ns    namespace
	root  string
	enter string // script that runs its arguments in the root
}

// trixieUsers are the users that programs become, by the names that they ask for.
var trixieUsers = []struct {
	name string
	id   int
}{{"root", 0}, {"systemd-network", 990}, {"systemd-resolve", 991}, {"nobody", 65534}}

// newMachine makes a root for programs on ns.
func (l *lab) newMachine(ns namespace) *machine {
	l.t.Helper()
	need(l.t, "chroot", "mount")
	tree, err := filepath.Abs(trixieTree)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tree, ".complete")); err != nil {
		skip(l.t, "Debian trixie's programs are not there; e2e/trixie.sh fetches them")
	}
	m := &machine{ns: ns, root: filepath.Join(l.dir, "root-"+ns.name)}
	for _, d := range []string{"usr", "etc/ssl/certs", "etc/systemd/network", "var/lib", "var/log", "run", "tmp", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(m.root, d), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+d, filepath.Join(m.root, d)); err != nil {
			l.t.Fatal(err)
		}
	}
	m.write("etc/machine-id", "00112233445566778899aabbccddeeff\n")
	m.addUsers()
	// The host's /sys is read-only so that networkd, as in a container, does not wait for a udev to name the links.
	m.enter = l.write("enter-"+ns.name, "set -e\nroot="+m.root+"\n"+`mount --bind `+tree+`/usr $root/usr
mount --rbind /dev $root/dev
mount --rbind /proc $root/proc
mount --bind /sys $root/sys
mount -o remount,bind,ro $root/sys
exec env -i container=other SYSTEMD_LOG_LEVEL=debug KEA_PIDFILE_DIR=/run KEA_LOCKFILE_DIR=/run "$(command -v chroot)" $root "$@"
`)
	return m
}

// addUsers writes the user database, and gives systemd's daemons the folders that systemd would. In a user namespace
// with one user, all are that one.
func (m *machine) addUsers() {
	var passwd, group bytes.Buffer
	for _, u := range trixieUsers {
		id := u.id
		if oneUser() && u.name != "nobody" {
			id = 0
		}
		n := strconv.Itoa(id)
		passwd.WriteString(u.name + ":x:" + n + ":" + n + "::/:/usr/sbin/nologin\n")
		group.WriteString(u.name + ":x:" + n + ":\n")
		switch u.name {
		case "systemd-network":
			m.own(id, "run/systemd/netif", "run/systemd/netif/links", "run/systemd/netif/leases", "run/systemd/netif/lldp", "var/lib/systemd/network")
		case "systemd-resolve":
			m.own(id, "run/systemd/resolve")
		}
	}
	m.write("etc/passwd", passwd.String())
	m.write("etc/group", group.String())
}

// own makes folders that belong to a user.
func (m *machine) own(uid int, dirs ...string) {
	m.ns.t.Helper()
	for _, d := range dirs {
		path := filepath.Join(m.root, d)
		if err := os.MkdirAll(path, 0o755); err != nil {
			m.ns.t.Fatal(err)
		}
		if err := os.Chown(path, uid, uid); err != nil {
			m.ns.t.Fatal(err)
		}
	}
}

// oneUser reports whether the user namespace has only root.
func oneUser() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(b))
	return err == nil && len(f) == 3 && f[2] == "1"
}

// start runs a program of the machine until t ends.
func (m *machine) start(program string, args ...string) *process {
	m.ns.t.Helper()
	p := m.ns.start("sh", append([]string{m.enter, program}, args...)...)
	p.name = filepath.Base(program)
	return p
}

// try runs a program of the machine for at most 30 s and returns its standard output.
func (m *machine) try(program string, args ...string) (string, error) {
	m.ns.t.Helper()
	return m.ns.try("sh", append([]string{m.enter, program}, args...)...)
}

// write puts a file into the machine.
func (m *machine) write(name, content string) {
	m.ns.t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.ns.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		m.ns.t.Fatal(err)
	}
}

// read returns what all files that match the pattern hold.
func (m *machine) read(pattern string) string {
	m.ns.t.Helper()
	names, err := filepath.Glob(filepath.Join(m.root, pattern))
	if err != nil {
		m.ns.t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil { // a state file may be replaced meanwhile
			all.Write(b)
		}
	}
	return all.String()
}

// TestTrixie holds the cached programs to the versions that the other tests are about.
func TestTrixie(t *testing.T) {
	l := newLab(t)
	m := l.newMachine(l.provider)
	for program, want := range map[string]string{
		"/usr/sbin/kea-dhcp4": "2.6.",
		"/usr/bin/networkctl": "systemd 257",
		"/usr/bin/resolvectl": "systemd 257",
	} {
		arg := "--version"
		if strings.Contains(program, "kea") {
			arg = "-v"
		}
		if out, err := m.try(program, arg); err != nil || !strings.HasPrefix(out, want) {
			t.Errorf("%s: got %q, %v; want %s", program, out, err, want)
		}
	}
}
