package main

import (
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/resolver"
)

// However few descriptors there are, everybody has a share, and nobody has those of another.
func TestShareDescriptors(t *testing.T) {
	cfg := &config.Config{Upstreams: make([]resolver.Upstream, 2)}
	cfg.Relay.Table.Store = "leases.db"
	for _, row := range []struct {
		limit int
		mode  config.Mode
		want  descriptors
	}{
		{1024, config.ModeResolver, descriptors{connections: 677, upstreams: 240}},
		{1024, config.ModeAll, descriptors{connections: 225, upstreams: 240, relay: 481}},
		{1024, config.ModeRelay, descriptors{relay: 960}},
		{1 << 20, config.ModeResolver, descriptors{connections: 20000, upstreams: 8192}},
		{1 << 20, config.ModeAll, descriptors{connections: 20000, upstreams: 8192, relay: 1018110}},
	} {
		got := shareDescriptors(row.limit, cfg, row.mode)
		used := resolver.DescriptorsOf(got.connections) + got.upstreams + got.relay
		if left := row.limit - used; left < leastReserve {
			t.Errorf("%d, %v: got %+v, which leaves %d; want %d at least", row.limit, row.mode, got, left, leastReserve)
		}
		if got.limit = 0; got != row.want {
			t.Errorf("%d, %v: got %+v; want %+v", row.limit, row.mode, got, row.want)
		}
	}
}

func TestDescriptorWarning(t *testing.T) {
	cfg := &config.Config{Upstreams: make([]resolver.Upstream, 1)}
	few, many := shareDescriptors(1024, cfg, config.ModeResolver), shareDescriptors(1<<20, cfg, config.ModeResolver)
	if w := few.warning(cfg); !strings.Contains(w, "LimitNOFILE") {
		t.Errorf("with 1024: got %q; want a warning", w)
	}
	if w := many.warning(cfg); w != "" {
		t.Errorf("with 1048576: got %q; want none", w)
	}
	cfg.Limits.Connections = 1000
	if w := few.warning(cfg); w != "" {
		t.Errorf("with 1024, and 1000 configured: got %q; want none", w)
	}
}
