package main

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
)

// usageError is a mistake in how a command was called, for which the program exits with code 2.
type usageError struct{ error }

// Unwrap returns what the mistake is.
func (e usageError) Unwrap() error { return e.error }

// checkArgs makes what the commands below cmd say of their arguments mistakes in how they were called.
func checkArgs(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.Args != nil {
			c.Args = usageArgs(c.Args)
		}
		checkArgs(c)
	}
}

// checkGroup returns an error if args name a command that only groups others, and something else behind it. cobra would
// print help and report success.
func checkGroup(root *cobra.Command, args []string) error {
	group, rest, err := root.Find(args)
	if err != nil || group == root || group.Runnable() {
		return nil // what is wrong, if anything, ExecuteContext says
	}
	i := slices.IndexFunc(rest, func(arg string) bool { return !strings.HasPrefix(arg, "-") })
	if i < 0 {
		return nil
	}
	return usageError{fmt.Errorf("unknown command %q for %q; see `%s --help`", rest[i], group.CommandPath(), group.CommandPath())}
}

// usageArgs returns check with its errors as mistakes in how the command was called.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
		}
		return nil
	}
}

// parseRoots returns the authorities that --ca names and the system's, or nil, which means only the latter, if the flag
// was not given.
func parseRoots(ca string) (*x509.CertPool, error) {
	if ca == "" {
		return nil, nil
	}
	roots, err := certs.LoadRoots(ca)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	return roots, nil
}
