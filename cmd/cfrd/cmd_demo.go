package main

import (
	"context"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/demo"
)

// newDemoCommand returns `cfrd demo`, which makes a customer's journey on loopback.
func newDemoCommand() *cobra.Command {
	ports := demo.DefaultPorts()
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run everything on loopback and make a customer's journey",
		Long: `Run a resolver, a relay, an upstream zone and an origin on loopback, unprivileged and offline, and make a
customer's journey through them, printing what was really observed. Then stay up, to be dug and curled, until
Ctrl-C. --once ends after the journey; the exit code is 1 if any step did not hold.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo.Run(cmd.Context(), cmd.OutOrStdout(), ports, once, newDemoNode)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&once, "once", false, "end after the journey")
	f.Uint16Var(&ports.Do53, "do53-port", ports.Do53, "port of Do53, UDP and TCP")
	f.Uint16Var(&ports.DoT, "dot-port", ports.DoT, "port of DoT, TCP")
	f.Uint16Var(&ports.DoQ, "doq-port", ports.DoQ, "port of DoQ, UDP")
	f.Uint16Var(&ports.DoH, "doh-port", ports.DoH, "port of DoH, TCP and UDP")
	f.Uint16Var(&ports.Admin, "admin-port", ports.Admin, "port of metrics and health")
	f.Uint16Var(&ports.Origin, "origin-port", ports.Origin, "port of the origin and the relay, TCP and UDP")
	return cmd
}

// demoNode is a node of the demo, which logs nothing.
type demoNode struct{ *node }

// newDemoNode makes a node from the configuration file at path, as serve does.
func newDemoNode(path string) (demo.Node, error) {
	cfg, err := config.Read(path, config.ModeAll)
	if err != nil {
		return nil, err
	}
	v, err := loadValues(cfg, config.ModeAll, time.Now())
	if err != nil {
		return nil, err
	}
	n, err := newNode(v, config.ModeAll, zerolog.Nop())
	if err != nil {
		return nil, err
	}
	return demoNode{n}, nil
}

// Run implements demo.Node.
func (n demoNode) Run(ctx context.Context) error { return n.run(ctx) }
