package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/serverconf"
	"github.com/cfrd-project/cfrd/resolver"
)

// dnrSource says which resolver is to be handed out: that of a configuration, or one that flags describe.
type dnrSource struct {
	config     string      // file, unless name is given
	mode       config.Mode // in which serve runs with it
	name       string      // authentication domain name, or ""
	addresses  []string    // of name
	transports []string    // of name: dot, doh or doq, each with or without a port
	dohPath    string      // URI template of doh
}

// dnrPrintOptions are the flags of `cfrd dnr print`.
type dnrPrintOptions struct {
	dnrSource
	servers  []string      // to print for; none means all
	options  []string      // to print; none means all
	lifetime time.Duration // of the option in Router Advertisements
}

// newDNRPrintCommand returns `cfrd dnr print`, which prints the configuration of DHCP and Router Advertisement
// servers.
func newDNRPrintCommand() *cobra.Command {
	o := dnrPrintOptions{}
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print what your DHCP or Router Advertisement server needs, ready to paste",
		Long: "print makes the configuration that lets a server hand out the encrypted transports, in the form that every\n" +
			"client accepts: from cfrd.yaml or another --config, or from --name, --address and --transports. What a\n" +
			"server cannot do is said in a comment, with what to do instead. With one --for and one --option, the text\n" +
			"is a valid file for the server's own checker. See `cfrd help dnr`.\n\n" +
			"Servers: " + strings.Join(serverNames(), ", ") + ".",
		Example: "  cfrd dnr print --for dnsmasq\n" +
			"  cfrd dnr print --for kea --option dhcpv4 > dnr.json && kea-dhcp4 -t dnr.json\n" +
			"  cfrd dnr print --name dns.isp.example --address 192.0.2.53,2001:db8::53 --transports dot,doh",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return printDNR(cmd.OutOrStdout(), o) },
	}
	f := cmd.Flags()
	o.dnrSource.bind(cmd)
	f.StringSliceVar(&o.servers, "for", nil, "`servers` to print for; by default all")
	f.StringSliceVar(&o.options, "option", nil, "`options` to print: dhcpv4, dhcpv6, ra; by default all")
	f.DurationVar(&o.lifetime, "lifetime", 30*time.Minute,
		"of the option in Router Advertisements: three times their interval or more")
	return cmd
}

// bind makes the flags of s.
func (s *dnrSource) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.config, "config", "cfrd.yaml", "configuration `file`")
	f.Var(&s.mode, "mode", "the mode in which serve runs with it: all, resolver")
	f.StringVar(&s.name, "name", "", "authentication domain name, instead of a configuration")
	f.StringSliceVar(&s.addresses, "address", nil, "`addresses` of the name, in order of preference")
	f.StringSliceVar(&s.transports, "transports", []string{"doh", "doq", "dot"},
		"`list` of dot, doh, doq, in order of preference, each with :PORT if it is not the default one")
	f.StringVar(&s.dohPath, "dohpath", svcb.DefaultDoHPath, "URI `template` of DoH")
	cmd.MarkFlagsMutuallyExclusive("config", "name")
	cmd.MarkFlagsRequiredTogether("name", "address")
}

// serverNames returns the values that --for takes.
func serverNames() (names []string) {
	for _, s := range serverconf.Servers() {
		names = append(names, s.Name)
	}
	return names
}

// printDNR writes what each selected server needs to w.
func printDNR(w io.Writer, o dnrPrintOptions) error {
	servers, forms, err := o.selected()
	if err != nil {
		return usageError{err}
	}
	resolvers, err := o.designations()
	if err != nil {
		return err
	}
	plan, err := serverconf.NewPlan(resolvers, o.lifetime)
	if err != nil {
		return err
	}
	texts := make([]string, len(servers))
	for i, s := range servers {
		texts[i] = s.Text(plan, forms...)
	}
	_, err = io.WriteString(w, strings.Join(texts, "\n"))
	return err
}

// selected returns what --for and --option mean.
func (o dnrPrintOptions) selected() (servers []serverconf.Server, forms []dnr.Form, err error) {
	for _, s := range serverconf.Servers() {
		if len(o.servers) == 0 || slices.Contains(o.servers, s.Name) {
			servers = append(servers, s)
		}
	}
	for _, name := range o.servers {
		if !slices.Contains(serverNames(), name) {
			return nil, nil, fmt.Errorf("--for: %q is none of %s", name, strings.Join(serverNames(), ", "))
		}
	}
	for _, name := range o.options {
		i := slices.IndexFunc(allForms(), func(f dnr.Form) bool { return f.String() == name })
		if i < 0 {
			return nil, nil, fmt.Errorf("--option: %q is none of dhcpv4, dhcpv6, ra", name)
		}
		forms = append(forms, allForms()[i])
	}
	return servers, forms, nil
}

// allForms returns the values that --option takes.
func allForms() []dnr.Form { return []dnr.Form{dnr.DHCPv4, dnr.DHCPv6, dnr.RA} }

// designations returns what is to be handed out, which is never empty.
func (s dnrSource) designations() ([]svcb.Resolver, error) {
	cfg, err := s.describe()
	if err != nil {
		return nil, err
	}
	zone, err := ddr.New(cfg)
	if err != nil {
		return nil, err
	}
	list := zone.Designations()
	if len(list) == 0 {
		return nil, errors.New("there is nothing to hand out: no encrypted transport listens at an address of the name; " +
			"see listen and ddr.addresses")
	}
	return list, nil
}

// describe returns the resolver as ddr knows it, without certificate, as DNR does not depend on the one of the moment.
func (s dnrSource) describe() (ddr.Config, error) {
	if s.name != "" {
		return s.describeFlags()
	}
	cfg, err := config.Read(s.config, s.mode)
	if err != nil {
		return ddr.Config{}, fmt.Errorf("configuration %s:\n%w", s.config, err)
	}
	l := cfg.Listen
	listen := resolver.Listen{Do53: l.Do53, DoT: l.DoT, DoH: l.DoH, DoQ: l.DoQ}
	return ddr.Config{Name: cfg.Name, Addresses: cfg.Addresses(), Services: services(listen)}, nil
}

// describeFlags returns the resolver that --name, --address, --transports and --dohpath describe.
func (s dnrSource) describeFlags() (ddr.Config, error) {
	cfg := ddr.Config{Name: s.name}
	for _, text := range s.addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return cfg, usageError{fmt.Errorf("--address: %q is not an address", text)}
		}
		cfg.Addresses = append(cfg.Addresses, addr)
	}
	for _, text := range s.transports {
		list, err := s.services(text)
		if err != nil {
			return cfg, usageError{err}
		}
		cfg.Services = append(cfg.Services, list...)
	}
	return cfg, nil
}

// services returns what a word such as doh:8443 means, at every address.
func (s dnrSource) services(text string) ([]ddr.Service, error) {
	name, portText, given := strings.Cut(text, ":")
	protocols := map[string][]ddr.Protocol{"dot": {ddr.DoT}, "doq": {ddr.DoQ}, "doh": {ddr.DoH3, ddr.DoH}}[name]
	port := map[string]uint16{"dot": 853, "doq": 853, "doh": 443}[name]
	if given {
		n, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("--transports: %q has no port after the colon", text)
		}
		port = uint16(n)
	}
	if protocols == nil {
		return nil, fmt.Errorf("--transports: %q is none of dot, doh, doq", text)
	}
	var list []ddr.Service
	for _, p := range protocols {
		at := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
		list = append(list, ddr.Service{Protocol: p, Addr: at, DoHPath: s.dohPath})
	}
	return list, nil
}
