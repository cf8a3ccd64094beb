package acme

import (
	"net/netip"
	"testing"
)

func TestListenNetwork(t *testing.T) {
	all := addrPorts("0.0.0.0:80", "[::]:80")
	tests := map[string]struct {
		addr netip.AddrPort
		all  []netip.AddrPort
		want string
	}{
		"ipv4":             {netip.MustParseAddrPort("192.0.2.53:80"), nil, "tcp4"},
		"ipv6":             {netip.MustParseAddrPort("[2001:db8::53]:80"), nil, "tcp6"},
		"all":              {all[1], all[1:], "tcp"},
		"all-of-both":      {all[1], all, "tcp6"},
		"all-of-both-ipv4": {all[0], all, "tcp4"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := listenNetwork(test.addr, test.all); got != test.want {
				t.Errorf("got %s; want %s", got, test.want)
			}
		})
	}
}
