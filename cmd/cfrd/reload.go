package main

import (
	"bytes"
	"context"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cfrd-project/cfrd/ddr"
)

// reloadOn re-reads the configuration at path each time that a signal arrives, until ctx is done. One that is
// refused is reported, and the one before stays.
func (n *node) reloadOn(ctx context.Context, signals <-chan os.Signal, path string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		notify(notifyReloading())
		if err := n.reload(path); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				n.log.Error().Str("config", path).Msg(line)
			}
			n.refused.Add(1)
			n.log.Error().Str("config", path).Msg("reload refused; everything stays as it was")
		} else {
			n.applied.Add(1)
			n.log.Info().Str("config", path).Msg("reloaded")
		}
		notify(notifyReady)
	}
}

// reload reads everything again and applies it, or applies nothing: what runs is always what one version of the
// files says, never half of it.
func (n *node) reload(path string) error {
	cfg, err := readConfig(path, n.mode)
	if err != nil {
		return err
	}
	if err := needsRestart(n.current().config, cfg).err(); err != nil {
		return err
	}
	v, err := loadValues(cfg, n.mode, time.Now())
	if err != nil {
		return err
	}
	if !bytes.Equal(v.sealKey, n.current().sealKey) {
		return problems{{"relay.sealed.key_file", "holds another key, which needs a restart"}}
	}
	logWarnings(n.log, v.warnings)
	if err := n.apply(v); err != nil {
		return err
	}
	n.logUndiscovered(v)
	return nil
}

// current returns the values under which the node runs.
func (n *node) current() *values {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.values
}

// apply switches to v. The certificate comes last, because nothing can refuse it any more.
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
		n.acme.update(v.identity())
	case n.certs != nil:
		n.certs.replace(v.certificate)
	}
	n.values = v
	return nil
}

func (n *node) applyResolver(v *values) error {
	if n.dns == nil {
		return nil
	}
	// Of what this node really runs.
	discovery, err := ddr.New(v.discovery(n.dns.Addrs(), n.certs, n.relays()))
	if err != nil {
		return err
	}
	if err := n.dns.Update(n.settings(v, discovery)); err != nil {
		return err
	}
	n.discovery.Store(discovery)
	return nil
}

// restartKeys are the keys, or sections, that are fixed for the life of the process.
func restartKeys() []string {
	return []string{
		"listen", "relay.ports", "relay.sealed", "relay.table", "relay.routes", "relay.gso", "relay.limits", "limits", "cache",
		"admin", "log", "tls.acme.directory", "tls.acme.email", "tls.acme.ca", "tls.acme.storage", "tls.acme.challenges",
		"dnr.announce",
	}
}

// needsRestart returns a problem for each key that differs and cannot change at run time.
func needsRestart(old, changed *config) (ps problems) {
	for _, key := range changedKeys("", reflect.ValueOf(old).Elem(), reflect.ValueOf(changed).Elem()) {
		if slices.ContainsFunc(restartKeys(), func(r string) bool { return key == r || strings.HasPrefix(key, r+".") }) {
			ps.add(key, "has changed, which needs a restart")
		}
	}
	if (old.TLS.Certificate != "") != (changed.TLS.Certificate != "") || old.TLS.ACME.used() != changed.TLS.ACME.used() {
		ps.add("tls", "was added or removed, which needs a restart")
	}
	return ps
}

// changedKeys returns the keys in which two sections of the same type differ.
func changedKeys(path string, a, b reflect.Value) (keys []string) {
	for field, value := range a.Fields() {
		tag := field.Tag.Get("mapstructure")
		if tag == "" {
			continue
		}
		other, key := b.FieldByIndex(field.Index), joinKey(path, tag)
		switch {
		case isSection(field.Type):
			keys = append(keys, changedKeys(key, value, other)...)
		case !reflect.DeepEqual(value.Interface(), other.Interface()):
			keys = append(keys, key)
		}
	}
	return keys
}
