package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"time"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// reloadOn reloads the configuration at path each time that a signal arrives, until ctx is done. It logs and counts the
// outcome, and tells the service manager when it begins and ends. It is the only goroutine that reloads.
func (n *node) reloadOn(ctx context.Context, signals <-chan os.Signal, path string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		notifyReloading()
		status := "serving"
		if err := n.reload(path); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				n.log.Error().Str("config", path).Msg(line)
			}
			n.refused.Add(1)
			n.log.Error().Str("config", path).Msg("reload refused; everything stays as it was")
			status = "serving; the last reload was refused, see the log"
		} else {
			n.applied.Add(1)
			n.log.Info().Str("config", path).Msg("reloaded")
		}
		notifyReady(status)
	}
}

// reload reads the configuration and every file that it names again and applies all of it, or returns an error and
// applies nothing: what runs is always what one version of the files says.
func (n *node) reload(path string) error {
	cfg, err := config.Read(path, n.mode)
	if err != nil {
		return err
	}
	if err := config.NeedsRestart(n.current().Config, cfg).Err(); err != nil {
		return err
	}
	v, err := loadValues(cfg, n.mode, time.Now())
	if err != nil {
		return err
	}
	if !bytes.Equal(v.sealKey, n.current().sealKey) {
		return config.Problems{{Key: "relay.sealed.key_file", Text: "holds another key, which needs a restart"}}
	}
	logWarnings(n.log, v.Warnings)
	if err := n.apply(v); err != nil {
		return err
	}
	n.logUndiscovered(v)
	return nil
}

// current returns the values under which the node runs. They are never changed, only replaced.
func (n *node) current() *values {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.values
}

// apply switches the relay, the resolver and the certificate to v, in this order. The relay goes back to the values
// before if the resolver refuses v; the certificate comes last, because nothing can refuse it any more.
func (n *node) apply(v *values) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.relay != nil {
		if err := n.relay.Update(v.relaySettings()); err != nil {
			return named("relay", err)
		}
	}
	if err := n.applyResolver(v); err != nil {
		if n.relay != nil {
			// These were accepted before.
			_ = n.relay.Update(n.values.relaySettings())
		}
		return named("resolver", err)
	}
	switch {
	case n.acme != nil:
		n.acme.Update(v.identity())
	case n.certs != nil:
		n.certs.Replace(v.certificate)
	}
	n.values = v
	return nil
}
