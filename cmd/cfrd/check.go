package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/resolver"
)

// usageError is a mistake in how a command was called, for which the program exits with code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// checkOptions are the flags of `cfrd check` as typed values.
type checkOptions struct {
	addr      netip.AddrPort // of Do53
	name      string         // authentication domain name that is expected, canonical; empty accepts any
	roots     *x509.CertPool // nil means the system's
	steered   string         // a name whose addresses should be those of the relay, canonical, or empty
	maxTTL    time.Duration  // of steered addresses
	relayPort uint16
	timeout   time.Duration // of each exchange
	bind      bindFunc      // see dnsClient
}

func newCheckCommand() *cobra.Command {
	var name, ca, steered string
	var asJSON bool
	o := checkOptions{}
	cmd := &cobra.Command{
		Use:   "check ADDRESS[:PORT]",
		Short: "Ask a running resolver what a client would: discovery, certificates, transports, steering, relay",
		Long: "check asks any resolver what a client asks that discovers encrypted DNS by RFC 9462, and says what the\n" +
			"client would stumble over. It exits with code 1 if there is such a thing, and with 2 if it was called\n" +
			"wrongly.",
		Example: "  cfrd check 192.0.2.53 --name dns.isp.example\n" +
			"  cfrd check 127.0.0.1:5300 --ca ca.pem --steered steered.demo.test --relay-port 4443",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(1)(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(args[0], name, steered, ca); err != nil {
				return usageError{err}
			}
			cmd.SilenceUsage = true
			r := runCheck(cmd.Context(), o)
			write := r.writeTable
			if asJSON {
				write = r.writeJSON
			}
			return errors.Join(write(cmd.OutOrStdout()), r.err())
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "authentication domain name that the resolver should have")
	f.StringVar(&ca, "ca", "", "PEM file with certificate authorities to trust besides the system's")
	f.StringVar(&steered, "steered", "", "name that should be reached through the relay")
	f.DurationVar(&o.maxTTL, "max-ttl", resolver.DefaultSteerTTL, "highest TTL that a steered address may have")
	f.Uint16Var(&o.relayPort, "relay-port", 443, "port of the steered name at the relay")
	f.DurationVar(&o.timeout, "timeout", 5*time.Second, "for each exchange")
	f.BoolVar(&asJSON, "json", false, "print JSON instead of a table")
	return cmd
}

// parse turns arguments into values.
func (o *checkOptions) parse(addr, name, steered, ca string) (err error) {
	if o.addr, err = parseResolver(addr); err != nil {
		return err
	}
	if o.name, err = parseName("--name", name); err != nil {
		return err
	}
	if o.steered, err = parseName("--steered", steered); err != nil {
		return err
	}
	if o.timeout <= 0 || o.maxTTL <= 0 || o.relayPort == 0 {
		return errors.New("--timeout, --max-ttl and --relay-port must be greater than 0")
	}
	if ca != "" {
		o.roots, err = readRoots(ca)
	}
	return err
}

// parseResolver takes an address with or without a port; IPv6 addresses need brackets only with one.
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

func parseName(flag, s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if _, ok := dns.IsDomainName(s); !ok {
		return "", fmt.Errorf("%s: %q is not a domain name", flag, s)
	}
	return dns.CanonicalName(s), nil
}

func readRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca: %s holds no certificate in PEM form", file)
	}
	return roots, nil
}

// checker makes the steps of one run.
type checker struct {
	checkOptions
	*report
}

// runCheck goes through everything that a client does, in its order. A step that fails does not end the run: what can
// still be tried is tried.
func runCheck(ctx context.Context, o checkOptions) *report {
	c := checker{o, &report{Resolver: o.addr.String(), OK: true, Designations: []designation{}}}
	reply, ok := c.do53(ctx)
	if !ok {
		c.skip("ddr", discoveryName, "nothing more can be tried without Do53")
		return c.report
	}
	records := c.designated(reply)
	c.hygiene(ctx)
	name := c.knownName(records)
	c.byName(ctx, name)
	c.transports(ctx, records)
	c.resinfo(ctx, name, records)
	c.https(ctx, name, records)
	c.steering(ctx)
	return c.report
}
