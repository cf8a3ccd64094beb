package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/check"
	"github.com/cfrd-project/cfrd/dnr/survey"
)

// newDNRCheckCommand returns `cfrd dnr check`, which asks a link what resolvers it hands out and tries them.
func newDNRCheckCommand() *cobra.Command {
	var ca string
	var asJSON bool
	o := check.NetworkOptions{}
	cmd := &cobra.Command{
		Use:   "check --interface IF",
		Short: "Ask a network what resolvers it hands out, and try them as its clients would",
		Long: "check asks every router and DHCP server of a link, takes their options apart, says what is wrong with them\n" +
			"and what known clients make of them, and then does what clients must: it connects to every transport and\n" +
			"compares certificates, name and addresses (RFC 9463), and what the resolver itself says (RFC 9462). It takes\n" +
			"no lease and changes nothing on this host, whose interface needs no address. It needs CAP_NET_RAW.\n\n" +
			"It exits with code 1 if a client would stumble over something, and with 2 if it was called wrongly.",
		Example: "  cfrd dnr check --interface eth0\n" +
			"  cfrd dnr check --interface eth0 --ca ca.pem --json\n" +
			"  cfrd dnr check --interface eth0 --listen-only --timeout 1m",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := parseNetworkOptions(&o, ca); err != nil {
				return usageError{err}
			}
			r, err := check.Network(cmd.Context(), o)
			if err != nil {
				return err
			}
			write := r.WriteTable
			if asJSON {
				write = r.WriteJSON
			}
			return errors.Join(write(cmd.OutOrStdout()), r.Err())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Interface, "interface", "", "network `interface` on the link to be checked")
	f.StringVar(&ca, "ca", "", "PEM `file` with certificate authorities to trust besides the system's")
	f.DurationVar(&o.Timeout, "timeout", survey.DefaultWindow, "for listening, and for each exchange after that")
	f.BoolVar(&o.ListenOnly, "listen-only", false, "do not connect to the resolvers")
	f.BoolVar(&asJSON, "json", false, "print JSON instead of a table")
	return cmd
}

// parseNetworkOptions checks the flags of `cfrd dnr check` that cobra has parsed into o, and reads the file of --ca.
func parseNetworkOptions(o *check.NetworkOptions, ca string) (err error) {
	switch {
	case o.Interface == "":
		return errors.New("--interface is missing: on which link?")
	case o.Timeout <= 0:
		return errors.New("--timeout must be greater than 0")
	}
	o.Roots, err = parseRoots(ca)
	return err
}
