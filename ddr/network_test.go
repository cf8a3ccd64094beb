package ddr

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

func TestDesignations(t *testing.T) {
	v4, other4 := netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("192.0.2.54")
	v6 := netip.MustParseAddr("2001:db8::53")
	listen := func(p Protocol, addr string) Service {
		return Service{Protocol: p, Addr: netip.MustParseAddrPort(addr)}
	}
	for name, row := range map[string]struct {
		addresses []netip.Addr
		services  []Service
		want      []svcb.Resolver
	}{
		"all-everywhere": {
			[]netip.Addr{v4, v6},
			[]Service{listen(DoH3, "[::]:443"), listen(DoQ, "[::]:853"), listen(DoH, "[::]:443"), listen(DoT, "[::]:853")},
			[]svcb.Resolver{
				{Priority: 1, Addresses: []netip.Addr{v4, v6}, ALPN: []string{"h3", "h2"}, DoHPath: svcb.DefaultDoHPath},
				{Priority: 2, Addresses: []netip.Addr{v4, v6}, ALPN: []string{"doq"}},
				{Priority: 3, Addresses: []netip.Addr{v4, v6}, ALPN: []string{"dot"}},
			},
		},
		"one-listener-for-each-address": {
			[]netip.Addr{v4, v6},
			[]Service{listen(DoT, "[2001:db8::53]:853"), listen(DoT, "192.0.2.53:853")},
			[]svcb.Resolver{{Priority: 1, Addresses: []netip.Addr{v6, v4}, ALPN: []string{"dot"}}},
		},
		"not-everywhere": {
			[]netip.Addr{v4, other4},
			[]Service{listen(DoT, "0.0.0.0:853"), listen(DoQ, "192.0.2.54:853")},
			[]svcb.Resolver{
				{Priority: 1, Addresses: []netip.Addr{v4, other4}, ALPN: []string{"dot"}},
				{Priority: 2, Addresses: []netip.Addr{other4}, ALPN: []string{"doq"}},
			},
		},
		"versions-of-http-apart": {
			[]netip.Addr{v4, other4},
			[]Service{listen(DoH3, "192.0.2.53:443"), listen(DoH, "0.0.0.0:443")},
			[]svcb.Resolver{
				{Priority: 1, Addresses: []netip.Addr{v4}, ALPN: []string{"h3"}, DoHPath: svcb.DefaultDoHPath},
				{Priority: 2, Addresses: []netip.Addr{v4, other4}, ALPN: []string{"h2"}, DoHPath: svcb.DefaultDoHPath},
			},
		},
		"ports": {
			[]netip.Addr{v4},
			[]Service{listen(DoT, "192.0.2.53:853"), listen(DoT, "192.0.2.53:8853")},
			[]svcb.Resolver{
				{Priority: 1, Addresses: []netip.Addr{v4}, ALPN: []string{"dot"}},
				{Priority: 2, Addresses: []netip.Addr{v4}, ALPN: []string{"dot"}, Port: 8853},
			},
		},
		"elsewhere":    {[]netip.Addr{v4}, []Service{listen(DoT, "192.0.2.54:853"), listen(DoQ, "[::1]:853")}, nil},
		"no-addresses": {nil, []Service{listen(DoT, "[::]:853")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			z, err := New(Config{Name: "DNS.example", Addresses: row.addresses, Services: row.services})
			if err != nil {
				t.Fatal(err)
			}
			for i := range row.want {
				row.want[i].Name = "dns.example."
			}
			if diff := cmp.Diff(row.want, z.Designations(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestParams wants the parameters of DNR to be those of the record of DDR.
func TestParams(t *testing.T) {
	for _, r := range []svcb.Resolver{
		{Priority: 1, Name: "dns.example.", ALPN: []string{"h2", "h3"}, Port: 8443, DoHPath: svcb.DefaultDoHPath},
		{Priority: 1, Name: "dns.example.", ALPN: []string{"dot"}},
		{Priority: 1, Name: "dns.example.", ALPN: []string{"dot", "doq"}, Port: 53},
	} {
		record, err := svcb.Parse(rdata(t, record(r, "x.", 1)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(record.Params, r.Params()); diff != "" {
			t.Errorf("%v: -record +parameters:\n%s", r.ALPN, diff)
		}
	}
	if got := (svcb.Resolver{}).Params(); got != nil {
		t.Errorf("got %v of nothing", got)
	}
}
