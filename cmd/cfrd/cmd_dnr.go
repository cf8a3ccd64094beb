package main

import "github.com/spf13/cobra"

// newDNRCommand returns `cfrd dnr`, which groups the commands for DHCP and Router Advertisements.
func newDNRCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dnr",
		Short: "Hand the resolver out by DHCP and Router Advertisements (RFC 9463)",
		Long:  helpText("dnr"),
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newDNRPrintCommand(), newDNRAnnounceCommand(), newDNRCheckCommand())
	return cmd
}
