package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/dnr/announce"
)

// dnrAnnounceOptions are the flags of `cfrd dnr announce`.
type dnrAnnounceOptions struct {
	dnrSource
	config.Announce
	do53 bool
}

// newDNRAnnounceCommand returns `cfrd dnr announce`, which announces a resolver until it gets a signal.
func newDNRAnnounceCommand() *cobra.Command {
	o := dnrAnnounceOptions{}
	cmd := &cobra.Command{
		Use:   "announce --interface IF",
		Short: "Announce a resolver to the hosts of a link, where the router cannot",
		Long: "announce sends Router Advertisements that name the encrypted transports and never make this host a\n" +
			"router, and answers DHCP requests that ask for no address: DHCPv6 Information-requests, and DHCPINFORM\n" +
			"where --dhcpv4 is given. It runs until it gets a signal, and then takes everything back. serve does the\n" +
			"same beside the resolver, if the configuration has dnr.announce, and follows what runs and the\n" +
			"certificate. Needs CAP_NET_RAW and CAP_NET_BIND_SERVICE. See `cfrd help dnr`.",
		Example: "  cfrd dnr announce --interface lan0\n" +
			"  cfrd dnr announce --interface lan0 --ra --name dns.isp.example --address 2001:db8::53 --transports dot,doh",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return announceDNR(cmd.Context(), o, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	o.dnrSource.bind(cmd)
	f.StringVar(&o.Interface, "interface", "", "network `interface` of the link; need not exist yet")
	f.BoolVar(&o.RA, "ra", false, "send Router Advertisements")
	f.BoolVar(&o.DHCPv6, "dhcpv6", false, "answer DHCPv6; --ra and --dhcpv6 are the default")
	f.BoolVar(&o.DHCPv4, "dhcpv4", false, "answer DHCPv4, if no DHCP server runs on this host")
	f.DurationVar(&o.MaxInterval, "max-interval", 10*time.Minute, "longest time between Router Advertisements")
	f.BoolVar(&o.Managed, "managed", false, "the M flag, as the link's routers have it")
	f.BoolVar(&o.Other, "other", false, "the O flag, as the link's routers have it")
	f.BoolVar(&o.PvD, "pvd", false, "name a provisioning domain (RFC 8801) in Router Advertisements")
	f.BoolVar(&o.do53, "do53", true, "with --name: its addresses also answer without encryption, at port 53")
	return cmd
}

// announceDNR announces until ctx is done.
func announceDNR(ctx context.Context, o dnrAnnounceOptions, stderr io.Writer) error {
	if !o.RA && !o.DHCPv6 && !o.DHCPv4 {
		o.RA, o.DHCPv6 = true, true
	}
	cfg := o.Announce.Config()
	ps := config.ProblemsOf(cfg.Validate())
	for i := range ps {
		if ps[i].Key != "" {
			ps[i].Key = "--" + strings.ReplaceAll(ps[i].Key, "_", "-")
		}
	}
	if err := ps.Err(); err != nil {
		return usageError{err}
	}
	described, do53, err := o.resolver()
	if err != nil {
		return err
	}
	cfg.Source = func(link announce.Link) announce.Content { return describeTo(link, described, do53, o.PvD) }
	cfg.Log = newLogger(config.Log{Level: zerolog.InfoLevel}, stderr)
	a, err := announce.New(cfg)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// resolver returns what is to be announced, and where it answers without encryption.
func (o dnrAnnounceOptions) resolver() (described ddr.Config, do53 []netip.AddrPort, err error) {
	if described, err = o.describe(); err != nil {
		return described, nil, err
	}
	if _, err = ddr.New(described); err != nil {
		return described, nil, err
	}
	switch {
	case o.name == "":
		cfg, err := config.Read(o.dnrSource.config, o.mode)
		if err != nil {
			return described, nil, fmt.Errorf("configuration %s:\n%w", o.dnrSource.config, err)
		}
		do53 = cfg.Listen.Do53
	case o.do53:
		do53 = []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), 53)}
	}
	return described, do53, nil
}
