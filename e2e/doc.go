// Package e2e tests the built cfrd as a black box, in network namespaces, against clients and servers that we did not
// write: dig, kdig, curl, Chromium, Unbound, NSD, nginx, OpenSSL, Pebble; BIND, dnsmasq, ISC dhcpd, Kea, radvd, systemd. It
// imports nothing of ours.
//
// The lab has three networks. Whatever leaves the customer unsteered is routed, not translated, so that a leak of
// the customer's address would arrive at the origins and be seen there.
//
//	  customer                        provider                             internet
//	┌─────────────────┐         ┌──────────────────────────┐        ┌──────────────────────────┐
//	│ 10.0.0.2        │  access │ 10.0.0.1   gateway       │  core  │ 198.51.100.2  origins    │
//	│ 10.0.0.66 (*)   ├─────────┤ 10.0.0.53  cfrd          ├────────┤ 198.51.100.53 Unbound    │
//	│ 2001:db8:1::2   │         │ 2001:db8:1::53           │        │ 198.51.100.54 NSD        │
//	│                 │         │ 198.51.100.1 gateway     │        │ 2001:db8:2::2 origins    │
//	└─────────────────┘         └──────────────────────────┘        └──────────────────────────┘
//	                             relay addresses  10.99.0.0/16, 2001:db8:cf::/64, 2001:db8:cf1::/64
//	                             egress addresses 192.0.2.64/28, 2001:db8:e::/64
//
//	(*) on the customer's network, but not among cfrd's clients
//
// The attack run (-run Attack) adds a fourth host with attackers, see newAttackLab: clients with many addresses, who do
// what is expensive or wrong, while a bystander on the customer's host asks and must not notice.
//
// It needs the right to make network namespaces: root, or a user namespace (e2e/test.sh makes one). Without it every
// test skips, or fails if E2E_REQUIRED=1.
package e2e
