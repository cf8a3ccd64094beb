package announce

import "github.com/cfrd-project/cfrd/dnr/internal/link"

func thisSystem() system {
	return system{
		look: link.Look, watch: link.Watch, openND: link.OpenND, openDHCPv6: link.OpenDHCPv6, openDHCPv4: link.OpenDHCPv4, random: jitter,
	}
}
