package main

import (
	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// newServeCommand returns `cfrd serve`, which is the daemon.
func newServeCommand() *cobra.Command {
	var m config.Mode
	var path string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the resolver, the relay, or both",
		Long: "serve runs the services of the configuration until SIGTERM or SIGINT, then lets queries and flows that\n" +
			"are under way end for a bounded time. A second signal ends it at once. SIGHUP reads the configuration\n" +
			"and everything that it names again. See `cfrd help deploy`.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDaemon(cmd.Context(), path, m, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().Var(&m, "mode", "what to run: all, resolver (DNS only), relay (no DNS at all)")
	cmd.Flags().StringVar(&path, "config", "cfrd.yaml", "configuration `file`")
	return cmd
}
