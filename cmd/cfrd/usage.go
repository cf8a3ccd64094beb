package main

import (
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
)

// usageError is a mistake in how a command was called, for which the program exits with code 2.
type usageError struct{ error }

// Unwrap returns what the mistake is.
func (e usageError) Unwrap() error { return e.error }

// usageArgs returns check with its errors, and those of flags that do not go together, as mistakes in how the command was
// called.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		for _, err := range []error{check(cmd, args), cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups()} {
			if err != nil {
				return usageError{err}
			}
		}
		return nil
	}
}

// checkUsage makes every mistake in how root or a command below it is called an error that usageError is. By itself cobra
// shows the help of a command that only groups others, whatever follows its name, and ends with success.
func checkUsage(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		checkUsageBelow(cmd)
	}
	group(root)
}

// checkUsageBelow does that for cmd and the commands below it.
func checkUsageBelow(cmd *cobra.Command) {
	for _, below := range cmd.Commands() {
		checkUsageBelow(below)
	}
	switch {
	case cmd.Name() == "help":
		cmd.Run, cmd.RunE = nil, showHelp
	case cmd.HasSubCommands():
		group(cmd)
	case cmd.Args != nil:
		cmd.Args = usageArgs(cmd.Args)
	}
}

// group has cmd, which only groups others, show its help when it is called alone, and refuse what is none of them.
func group(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknown("command", cmd, args[0])
	}
}

// showHelp is `cfrd help`, for a command or topic.
func showHelp(cmd *cobra.Command, args []string) error {
	target, rest, err := cmd.Root().Find(args)
	switch {
	case err != nil:
		return usageError{err}
	case len(rest) > 0:
		return unknown("help topic", target, rest[0])
	}
	target.InitDefaultHelpFlag()
	return target.Help()
}

// unknown returns the mistake that there is no command or topic of this name below cmd.
func unknown(what string, cmd *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown %s %q for %q", what, name, cmd.CommandPath())
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2 // as cobra does itself
	}
	if likely := cmd.SuggestionsFor(name); len(likely) > 0 {
		text += "; did you mean " + strings.Join(likely, " or ") + "?"
	}
	return usageError{fmt.Errorf("%s; see `%s --help`", text, cmd.CommandPath())}
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
