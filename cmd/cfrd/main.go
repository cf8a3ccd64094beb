// Command cfrd is an access provider's encrypted DNS front end with a co-located opaque relay: a resolver that is
// discovered (RFC 9462), speaks every encrypted transport (RFC 7858, RFC 8484, RFC 9250), and steers the addresses
// of selected destinations through the relay of draft-scalone-cfr-source-privacy-01.
//
// This package is the only place that knows every other one. Each command is in a file cmd_NAME.go, with one function
// that makes it: a command turns flags into typed values and calls a function. The daemon is the rest, and it is one
// subject in more than twenty files: serve.go (the life of the process), values.go (from the configuration and the
// files that it names to the configurations of the services), node.go (every service, bound and run), reload.go,
// certificate.go and acme.go (where the certificate comes from), discovery.go, announce.go and pvd.go (what clients are
// told about the resolver), admin.go and metrics.go (what the operator is), and systemd.go. The rooms below internal
// are config (file to typed values), certs and acme (the certificate), check (what a client would ask) and demo.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// main runs the command line until it ends or a signal comes, and exits with its code.
func main() {
	// quic-go would write its warning about small receive buffers to the global log. `cfrd help deploy` has it instead.
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal drains. From then on signals have their default effect, so that the second one ends at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintf(stderr, "cfrd: %v\n", err)
		}
		return exitCode(err)
	}
	return 0
}

// exitCode returns 2 for a mistake on the command line, and 1 for every other error.
func exitCode(err error) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

// errReported ends a command that has printed itself what is wrong, with exit code 1.
var errReported = errors.New("reported")

// newRootCommand returns `cfrd` with all its commands and help topics.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "cfrd",
		Short: "Encrypted DNS for a provider's customers, with a relay that hides their addresses",
		Long: "cfrd is the resolver that an access provider's network hands out. Customers get encrypted DNS without\n" +
			"configuring anything, and reach the destinations that the operator selects through a relay that hides\n" +
			"their addresses from them. The relay forwards bytes; it never reads or changes TLS or QUIC.",
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
	})
	root.AddCommand(
		newDemoCommand(),
		newServeCommand(),
		newCheckCommand(),
		newDNRCommand(),
		newConfigCommand(),
		newDDRCommand(),
		newVersionCommand(),
	)
	root.AddCommand(newHelpTopics()...)
	return root
}
