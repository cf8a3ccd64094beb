package main

import "github.com/cfrd-project/cfrd/dnr/announce"

// announceFamilies returns what announcers count, by the interfaces that the configuration names.
func announceFamilies(announcers []announcer) []family {
	perLink := func(value func(announce.Stats) uint64) func(*snapshot, emitter) {
		return func(s *snapshot, emit emitter) {
			for i, stats := range s.announce {
				emit(float64(value(stats)), announcers[i].link)
			}
		}
	}
	return []family{
		counter("announce_solicitations_total", "Valid Router Solicitations.",
			perLink(func(s announce.Stats) uint64 { return s.Solicitations }), "interface"),
		counter("announce_advertisements_total", "Router Advertisements sent.",
			perLink(func(s announce.Stats) uint64 { return s.Advertisements }), "interface"),
		counter("announce_dhcpv6_replies_total", "Replies to DHCPv6 Information-requests.",
			perLink(func(s announce.Stats) uint64 { return s.DHCPv6 }), "interface"),
		counter("announce_dhcpv4_replies_total", "Replies to DHCPINFORM.",
			perLink(func(s announce.Stats) uint64 { return s.DHCPv4 }), "interface"),
		counter("announce_invalid_total", "Messages that were malformed or from beyond the link.",
			perLink(func(s announce.Stats) uint64 { return s.Invalid }), "interface"),
		counter("announce_limited_total", "DHCP requests without an answer because there were too many.",
			perLink(func(s announce.Stats) uint64 { return s.Limited }), "interface"),
		gauge("announce_parts", "How many of Router Advertisements, DHCPv6 and DHCPv4 work at the moment.",
			perLink(func(s announce.Stats) uint64 { return uint64(s.Announcing) }), "interface"),
	}
}
