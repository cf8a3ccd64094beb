package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// privateCAOptions are the flags of a command that makes a private authority.
type privateCAOptions struct {
	wanted bool
	name   string   // of the resolver
	addrs  []string // of the resolver, as they were written
}

// addFlags adds the flags to cmd.
func (o *privateCAOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.wanted, "dev-ca", false, "also make a private CA and a certificate, in the directory that follows")
	f.StringVar(&o.name, "name", "dns.isp.example", "with --dev-ca: the resolver's `name`")
	f.StringSliceVar(&o.addrs, "address", []string{"10.0.0.53", "2001:db8::53"}, "with --dev-ca: its `addresses`")
}

// args is the cobra.PositionalArgs of the command: a directory is an argument with --dev-ca only.
func (o *privateCAOptions) args(cmd *cobra.Command, args []string) error {
	if o.wanted {
		return cobra.MaximumNArgs(1)(cmd, args)
	}
	return cobra.NoArgs(cmd, args)
}

// write makes the authority, if it is wanted, in the directory of args or else in dir.
func (o *privateCAOptions) write(dir string, args []string, stderr io.Writer) error {
	if !o.wanted {
		return nil
	}
	if len(args) > 0 {
		dir = args[0]
	}
	var addrs []netip.Addr
	for _, s := range o.addrs {
		a, err := config.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("--address: %w", err)
		}
		addrs = append(addrs, a)
	}
	ca, err := writePrivateCA(dir, o.name, addrs, time.Now())
	if err != nil {
		return err
	}
	explainPrivateCA(stderr, dir, ca)
	return nil
}

// writePrivateCA makes an authority with one certificate and writes their files to dir, in which none of them may exist.
func writePrivateCA(dir, name string, addrs []netip.Addr, now time.Time) (certs.PrivateCA, error) {
	ca := certs.NewPrivateCA(name, addrs, now)
	if !config.IsHostname(ca.Name) {
		return ca, fmt.Errorf("a certificate needs a host name such as dns.isp.example, not %q", name)
	}
	files, err := ca.Files(now)
	if err != nil {
		return ca, err
	}
	for file := range files {
		if _, err := os.Lstat(filepath.Join(dir, file)); !errors.Is(err, fs.ErrNotExist) {
			return ca, fmt.Errorf("%s exists and is left as it is", filepath.Join(dir, file))
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return ca, err
	}
	var errs []error
	for file, text := range files {
		errs = append(errs, writeNew(filepath.Join(dir, file), text, privateCAMode(file), false))
	}
	return ca, errors.Join(errs...)
}

// privateCAMode returns who may read a file: everybody what clients trust and what the server shows, nobody else a key.
func privateCAMode(file string) fs.FileMode {
	if file == certs.FileCACert || file == certs.FileCert {
		return 0o644
	}
	return 0o600
}

// explainPrivateCA says which files were written to dir, and how clients come to trust them.
func explainPrivateCA(w io.Writer, dir string, ca certs.PrivateCA) {
	subjects := []string{ca.Name}
	for _, a := range ca.Addrs {
		subjects = append(subjects, a.String())
	}
	path := func(file string) string { return filepath.Join(dir, file) }
	fmt.Fprintf(w, `Made a private authority, which can sign for these only, and its certificate for
%[1]s, valid until %[2]s:

  tls: {certificate: %[3]s, key: %[4]s}

Clients accept it once they trust %[5]s:

  Debian, Ubuntu  cp %[5]s /usr/local/share/ca-certificates/cfrd.crt && update-ca-certificates
  Fedora          trust anchor --store %[5]s
  macOS           security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain %[5]s
  Windows         certutil -addstore -f Root %[5]s
  Chromium        certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n cfrd -i %[5]s
  to try it       cfrd check --ca %[5]s ADDRESS; kdig +tls-ca=%[5]s; curl --cacert %[5]s

%[6]s is needed only to sign again; keep it from the resolver, or destroy it.
`, strings.Join(subjects, ", "), ca.Until.Format(time.DateOnly),
		path(certs.FileCert), path(certs.FileKey), path(certs.FileCACert), path(certs.FileCAKey))
}
