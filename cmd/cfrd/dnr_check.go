package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/survey"
)

// dnrCheckOptions are the flags of `cfrd dnr check`.
type dnrCheckOptions struct {
	device     string
	ca         string
	timeout    time.Duration // of listening, and of each exchange
	listenOnly bool
	asJSON     bool
}

func newDNRCheckCommand() *cobra.Command {
	o := dnrCheckOptions{}
	cmd := &cobra.Command{
		Use:   "check --interface IF",
		Short: "Ask a network what resolvers it hands out, and try them as its clients would",
		Long: "check asks every router and DHCP server of a link, takes their options apart, says what is wrong with them\n" +
			"and what known clients make of them, and then does what clients must: it connects to every transport and\n" +
			"compares certificates, name and addresses (RFC 9463), and what the resolver itself says (RFC 9462). It takes\n" +
			"no lease and changes nothing on this host, whose interface needs no address. It needs CAP_NET_RAW.\n\n" +
			"It exits with code 1 if a client would stumble over something, and with 2 if it was called wrongly.",
		Example: "  cfrd dnr check --interface eth0\n" +
			"  cfrd dnr check --interface eth0 --ca ca.pem --json\n" +
			"  cfrd dnr check --interface eth0 --listen-only --timeout 1m",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return runDNRCheck(cmd.Context(), cmd.OutOrStdout(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.device, "interface", "", "network `interface` on the link to be checked")
	f.StringVar(&o.ca, "ca", "", "PEM `file` with certificate authorities to trust besides the system's")
	f.DurationVar(&o.timeout, "timeout", survey.DefaultWindow, "for listening, and for each exchange after that")
	f.BoolVar(&o.listenOnly, "listen-only", false, "do not connect to the resolvers")
	f.BoolVar(&o.asJSON, "json", false, "print JSON instead of a table")
	return cmd
}

func runDNRCheck(ctx context.Context, w io.Writer, o dnrCheckOptions) error {
	c := dnrChecker{checker: checker{
		checkOptions{timeout: o.timeout},
		&report{Resolver: o.device, OK: true},
	}}
	switch {
	case o.device == "":
		return usageError{errors.New("--interface is missing: on which link?")}
	case o.timeout <= 0:
		return usageError{errors.New("--timeout must be greater than 0")}
	case o.ca != "":
		var err error
		if c.roots, err = readRoots(o.ca); err != nil {
			return usageError{err}
		}
	}
	result, err := survey.Run(ctx, survey.Config{Interface: o.device, Window: o.timeout})
	if err != nil {
		return err
	}
	c.link = result.Link
	c.judge(result)
	if !o.listenOnly {
		c.try(ctx, result)
	}
	write := c.writeTable
	if o.asJSON {
		write = func(w io.Writer) error { return writeJSON(w, c.document(result)) }
	}
	return errors.Join(write(w), c.err())
}

// dnrChecker makes the steps of one run.
type dnrChecker struct {
	checker
	link survey.Link
}

// dnrDocument is what `cfrd dnr check --json` prints. Its field names are stable.
type dnrDocument struct {
	Interface    string      `json:"interface"`
	OK           bool        `json:"ok"`
	FirstFailure string      `json:"first_failure,omitempty"` // the name of a step
	Steps        []step      `json:"steps"`
	Servers      []dnrServer `json:"servers"`
}

// dnrServer is one message of one server.
type dnrServer struct {
	By        string            `json:"by"` // dhcpv4, dhcpv6 or ra
	Server    netip.Addr        `json:"server"`
	ID        string            `json:"id,omitempty"`
	Message   string            `json:"message"`
	Copies    int               `json:"copies"`
	Resolvers []netip.Addr      `json:"resolvers,omitempty"` // for use without encryption
	Findings  []dnr.Finding     `json:"findings,omitempty"`
	Instances []dnrInstance     `json:"instances,omitempty"`
	Clients   []survey.Reaction `json:"clients,omitempty"`
}

// dnrInstance is one designated resolver, as far as it could be read.
type dnrInstance struct {
	Priority  uint16        `json:"priority"`
	ADN       string        `json:"adn,omitempty"`
	Addresses []netip.Addr  `json:"addresses,omitempty"`
	ALPN      []string      `json:"alpn,omitempty"`
	Port      uint16        `json:"port,omitempty"` // 0 means the default ones
	DoHPath   string        `json:"dohpath,omitempty"`
	Lifetime  *uint32       `json:"lifetime,omitempty"` // seconds; only in Router Advertisements
	Findings  []dnr.Finding `json:"findings,omitempty"`
}

func (c dnrChecker) document(s survey.Result) dnrDocument {
	d := dnrDocument{
		Interface: c.link.Interface, OK: c.OK, FirstFailure: c.FirstFailure, Steps: c.Steps, Servers: []dnrServer{},
	}
	for _, h := range s.Messages {
		server := dnrServer{
			By: h.By.String(), Server: h.Server, ID: h.ID, Message: h.Kind, Copies: h.Copies, Resolvers: h.Resolvers,
			Findings: h.Findings,
		}
		for _, in := range h.Instances {
			server.Instances = append(server.Instances, instanceOf(h.By, in))
		}
		if len(h.Instances) > 0 {
			server.Clients = survey.Clients(h)
		}
		d.Servers = append(d.Servers, server)
	}
	return d
}

func instanceOf(form dnr.Form, in dnr.Inspection) dnrInstance {
	r := svcb.Record{Params: in.Params}
	i := dnrInstance{
		Priority: in.Priority, ADN: in.ADN, Addresses: in.Addresses, ALPN: r.ALPN(), Port: r.Port(), DoHPath: r.DoHPath(),
		Findings: in.Findings,
	}
	if form == dnr.RA {
		seconds := uint32(in.Lifetime / time.Second)
		i.Lifetime = &seconds
	}
	return i
}

// source names a message in steps: how and from whom it came.
func source(h survey.Message) string { return fmt.Sprintf("%s %s", h.By, h.Server) }
