package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

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

// runDaemon is the life of the daemon.
func runDaemon(ctx context.Context, path string, m config.Mode, stderr io.Writer) error {
	cfg, err := config.Read(path, m)
	if err != nil {
		return fmt.Errorf("configuration %s:\n%w", path, err)
	}
	log := newLogger(cfg.Log, stderr)

	v, err := loadValues(cfg, m, time.Now())
	if err != nil {
		return fmt.Errorf("configuration %s:\n%w", path, err)
	}
	logWarnings(log, v.Warnings)

	n, err := newNode(v, m, log)
	if err != nil {
		return err
	}
	n.logUndiscovered(v)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.run(ctx) })
	g.Go(func() error { n.reloadOn(ctx, hup, path); return nil })
	g.Go(func() error { n.announce(ctx); return nil })
	return g.Wait()
}

// announce tells the log and the service manager that everything is bound, and when it ends.
func (n *node) announce(ctx context.Context) {
	line := n.log.Info().Str("version", version()).Stringer("mode", n.mode)
	if n.dns != nil {
		l := n.dns.Addrs()
		line = line.Any("do53", l.Do53).Any("dot", l.DoT).Any("doh", l.DoH).Any("doq", l.DoQ)
	}
	if n.relay != nil {
		line = line.Any("relay", n.addrs.Prefixes()).Any("relay_ports", n.current().Relay.Ports)
	}
	line.Msg("serving")
	notify(notifyReady)
	<-ctx.Done()
	notify(notifyStopping)
	n.log.Info().Msg("draining; a second signal ends at once")
}

func logWarnings(log zerolog.Logger, warnings []string) {
	for _, w := range warnings {
		log.Warn().Msg(w)
	}
}
