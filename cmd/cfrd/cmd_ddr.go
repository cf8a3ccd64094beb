package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// newDDRCommand returns `cfrd ddr`, which groups the commands for the operator's own zone.
func newDDRCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ddr",
		Short: "Publish the resolver in your own zone",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newDDRPrintCommand())
	return cmd
}

// newDDRPrintCommand returns `cfrd ddr print`, which prints the records for that zone.
func newDDRPrintCommand() *cobra.Command {
	var path string
	var generic bool
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the records for the zone that holds the resolver's name",
		Long: "print writes lines for the zone file that holds the resolver's name: its addresses, the SVCB records at\n" +
			"_dns.NAME by which clients that know the name discover the encrypted transports (RFC 9461, RFC 9462), the\n" +
			"HTTPS record beside them, and RESINFO (RFC 9606). cfrd answers its own clients with the same records, so\n" +
			"that its own zones need none of them. Servers that do not know SVCB and HTTPS need --generic, the form of\n" +
			"RFC 3597, which every server takes.",
		Example: "  cfrd ddr print --config /etc/cfrd/cfrd.yaml\n  cfrd ddr print --generic > dns.isp.example.inc",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Read(path, config.ModeAll)
			if err != nil {
				return fmt.Errorf("configuration %s:\n%w", path, err)
			}
			return printZone(cmd.OutOrStdout(), cfg, generic)
		},
	}
	cmd.Flags().StringVar(&path, "config", "cfrd.yaml", "configuration `file`")
	cmd.Flags().BoolVar(&generic, "generic", false, "write new record types in the form of RFC 3597")
	return cmd
}

// printZone writes the lines. It needs no certificate, because a zone file outlives it.
func printZone(w io.Writer, cfg *config.Config, generic bool) error {
	v := &values{Config: cfg}
	if !v.Encrypted() {
		return fmt.Errorf("nothing to publish: none of listen.dot, listen.doh and listen.doq is set")
	}
	if len(v.Addresses()) == 0 {
		return fmt.Errorf("ddr.addresses: missing: the addresses of %s, which wildcards in listen do not tell", v.Name)
	}
	zone, err := ddr.New(v.discovery(v.listen(), nil, v.Relays()))
	if err != nil {
		return err
	}
	rrs, err := zone.Records()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "; Discovery of %s, printed by cfrd ddr print. Print it again when listen, ddr or relay changes.\n"+
		"; Leave out what the zone has already, such as the addresses.\n", v.Name)
	tw := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	for _, rr := range rrs {
		line, err := zoneLine(rr, generic)
		if err != nil {
			return err
		}
		fmt.Fprintln(tw, line)
	}
	return tw.Flush()
}

// zoneLine returns rr as a line of a zone file, with tabs between the columns. Keys and types that
// were registered after SVCB itself are written as numbers, because servers know their names only years later. See RFC 9460, Section 2.1, and
// RFC 3597, Section 5.
func zoneLine(rr dns.RR, generic bool) (string, error) {
	rfc3597 := new(dns.RFC3597)
	if err := rfc3597.ToRFC3597(rr); err != nil {
		return "", err
	}
	h := rr.Header()
	head := fmt.Sprintf("%s\t%d\tIN\t", h.Name, h.Ttl)
	unknown := fmt.Sprintf("TYPE%d\t\\# %d %s", h.Rrtype, len(rfc3597.Rdata)/2, rfc3597.Rdata)
	switch rr := rr.(type) {
	case *dns.A:
		return head + "A\t" + rr.A.String(), nil
	case *dns.AAAA:
		return head + "AAAA\t" + rr.AAAA.String(), nil
	case *dns.RESINFO:
		return head + unknown + ` ; RESINFO "` + strings.Join(rr.Txt, `" "`) + `"`, nil
	}
	rdata, err := hex.DecodeString(rfc3597.Rdata)
	if err != nil {
		return "", err
	}
	r, err := svcb.Parse(rdata)
	if err != nil {
		return "", err
	}
	if generic {
		return head + unknown + " ; " + dns.TypeToString[h.Rrtype] + " " + presentation(r), nil
	}
	return head + dns.TypeToString[h.Rrtype] + "\t" + presentation(r), nil
}

// presentation returns the data of an SVCB or HTTPS record as every server writes it that knows RFC 9460.
func presentation(r svcb.Record) string {
	fields := []string{fmt.Sprint(r.Priority), r.Target}
	for _, p := range r.Params {
		switch p.Key {
		case svcb.KeyMandatory:
			var names []string
			for _, key := range r.Mandatory() {
				names = append(names, svcParamKey(key))
			}
			fields = append(fields, "mandatory="+strings.Join(names, ","))
		case svcb.KeyALPN:
			fields = append(fields, `alpn="`+strings.Join(r.ALPN(), ",")+`"`)
		case svcb.KeyPort:
			fields = append(fields, fmt.Sprintf("port=%d", r.Port()))
		default:
			fields = append(fields, svcParam(p))
		}
	}
	return strings.Join(fields, " ")
}

// svcParamKey returns the name of a key of RFC 9460 itself, and the number of a later one.
func svcParamKey(key uint16) string {
	if key <= svcb.KeyIPv6Hint {
		return svcb.KeyName(key)
	}
	return fmt.Sprintf("key%d", key)
}

// svcParam writes a parameter with its value in wire form. See RFC 9460, Section 2.1.
func svcParam(p svcb.Param) string {
	if len(p.Value) == 0 {
		return svcParamKey(p.Key)
	}
	var b strings.Builder
	for _, c := range p.Value {
		switch {
		case c == '"' || c == '\\':
			b.Write([]byte{'\\', c})
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, "\\%03d", c)
		default:
			b.WriteByte(c)
		}
	}
	return svcParamKey(p.Key) + `="` + b.String() + `"`
}
