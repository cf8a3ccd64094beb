package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/check"
	"github.com/cfrd-project/cfrd/resolver"
)

// newCheckCommand returns `cfrd check`, which asks a running resolver what a client would.
func newCheckCommand() *cobra.Command {
	var name, ca, steered string
	var asJSON bool
	o := check.Options{}
	cmd := &cobra.Command{
		Use:   "check ADDRESS[:PORT]",
		Short: "Ask a running resolver what a client would: discovery, certificates, transports, steering, relay",
		Long: "check asks any resolver what a client asks that discovers encrypted DNS by RFC 9462, and says what the\n" +
			"client would stumble over. It exits with code 1 if there is such a thing, and with 2 if it was called\n" +
			"wrongly.",
		Example: "  cfrd check 192.0.2.53 --name dns.isp.example\n" +
			"  cfrd check 127.0.0.1:5300 --ca ca.pem --steered steered.demo.test --relay-port 4443",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := parseCheckOptions(&o, args[0], name, steered, ca); err != nil {
				return usageError{err}
			}
			r := check.Resolver(cmd.Context(), o)
			write := r.WriteTable
			if asJSON {
				write = r.WriteJSON
			}
			return errors.Join(write(cmd.OutOrStdout()), r.Err())
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "authentication domain name that the resolver should have")
	f.StringVar(&ca, "ca", "", "PEM file with certificate authorities to trust besides the system's")
	f.StringVar(&steered, "steered", "", "name that should be reached through the relay")
	f.DurationVar(&o.MaxTTL, "max-ttl", resolver.DefaultSteerTTL, "highest TTL that a steered address may have")
	f.Uint16Var(&o.RelayPort, "relay-port", 443, "port of the steered name at the relay")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Second, "for each exchange")
	f.BoolVar(&asJSON, "json", false, "print JSON instead of a table")
	return cmd
}

// parseCheckOptions turns the argument and the flags of `cfrd check` into typed values in o, whose numbers cobra has
// parsed already.
func parseCheckOptions(o *check.Options, addr, name, steered, ca string) (err error) {
	if o.Addr, err = parseResolver(addr); err != nil {
		return err
	}
	if o.Name, err = parseName("--name", name); err != nil {
		return err
	}
	if o.Steered, err = parseName("--steered", steered); err != nil {
		return err
	}
	if o.Timeout <= 0 || o.MaxTTL <= 0 || o.RelayPort == 0 {
		return errors.New("--timeout, --max-ttl and --relay-port must be greater than 0")
	}
	o.Roots, err = parseRoots(ca)
	return err
}

// parseResolver takes the address of one resolver with or without a port, which is 53 by default. IPv6 addresses need
// brackets only with a port.
func parseResolver(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
		if err != nil {
			return ap, fmt.Errorf("%q is not an address: want 192.0.2.53, 192.0.2.53:53, 2001:db8::53 or [2001:db8::53]:53", s)
		}
		ap = netip.AddrPortFrom(addr, 53)
	}
	if ap.Port() == 0 || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast() {
		return ap, fmt.Errorf("%s is not the address of one resolver", s)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// parseName returns the value of a flag as a canonical domain name, or "" if the flag was not given.
func parseName(flag, s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if _, ok := dns.IsDomainName(s); !ok {
		return "", fmt.Errorf("%s: %q is not a domain name", flag, s)
	}
	return dns.CanonicalName(s), nil
}
