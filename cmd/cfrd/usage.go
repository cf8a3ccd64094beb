package main

import (
	"crypto/x509"
	"fmt"

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
