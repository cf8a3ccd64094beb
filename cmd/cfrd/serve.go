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
	"golang.org/x/sync/errgroup"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

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

	watchdog, err := watchdogInterval()
	if err != nil {
		return err
	}
	n, err := newNode(v, m, log)
	if err != nil {
		return err
	}
	n.logUndiscovered(v)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	// The watchdog is fed until the drain has ended.
	fed, stop := context.WithCancel(context.WithoutCancel(ctx))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { feedWatchdog(fed, watchdog, n.alive); return nil })
	g.Go(func() error { defer stop(); return n.run(ctx) })
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
	notifyReady("serving")
	<-ctx.Done()
	notifyStopping()
	n.log.Info().Msg("draining; a second signal ends at once")
}

// logWarnings logs each warning as a line.
func logWarnings(log zerolog.Logger, warnings []string) {
	for _, w := range warnings {
		log.Warn().Msg(w)
	}
}
