package relay

import (
	"net/netip"
	"testing"
)

func TestSpecialPurpose(t *testing.T) {
	for _, table := range [][]netip.Prefix{special4[:], special6[:]} {
		for i, p := range table {
			if p != p.Masked() {
				t.Errorf("%v is not masked", p)
			}
			if i > 0 && (table[i-1].Addr().Compare(p.Addr()) >= 0 || table[i-1].Overlaps(p)) {
				t.Errorf("%v is out of order", p)
			}
		}
	}
	tests := []struct {
		addr string
		want bool
	}{
		{"0.0.0.0", true},
		{"9.255.255.255", false},
		{"10.1.2.3", true},
		{"11.0.0.0", false},
		{"100.63.255.255", false},
		{"100.64.0.0", true},
		{"100.128.0.0", false},
		{"127.0.0.1", true},
		{"169.254.169.254", true},
		{"172.32.0.0", false},
		{"192.0.0.170", true},
		{"192.0.1.1", false},
		{"198.19.255.255", true},
		{"223.255.255.255", false},
		{"224.0.0.1", true},
		{"255.255.255.255", true},
		{"::", true},
		{"::1", true},
		{"::192.0.2.1", true},
		{"::ffff:8.8.8.8", true},
		{"::ffff:0:808:808", true},
		{"64:ff9b::a00:1", true},
		{"64:ff9b:1::1", true},
		{"2001:0:1::1", true},
		{"2001:1ff:ffff::1", true},
		{"2001:200::1", false},
		{"2001:db8::1", true},
		{"2002:a00:1::1", true},
		{"2003::1", false},
		{"2606:4700::1111", false},
		{"3ffe::1", false},
		{"3fff::1", true},
		{"fd00::1", true},
		{"fe80::1", true},
		{"ff02::1", true},
	}
	for _, tt := range tests {
		if got := SpecialPurpose(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("%s: got %v; want %v", tt.addr, got, tt.want)
		}
	}
}

// TestEmbeddedAddresses: an allowed prefix for translation or tunnels is no way to what is not allowed itself.
func TestEmbeddedAddresses(t *testing.T) {
	allow := []netip.Prefix{
		netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0:0/96"), netip.MustParsePrefix("64:ff9b::/96"),
		netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2002::/16"),
		netip.MustParsePrefix("10.9.0.0/16"),
	}
	d, err := NewDestinations(Settings{AllowSpecial: allow, Egress: []netip.Prefix{netip.MustParsePrefix("8.8.4.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	none, err := NewDestinations(Settings{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		addr string
		want bool
	}{
		{"::1", true},
		{"::8.8.8.8", true},
		{"::10.0.0.1", false},
		{"::ffff:8.8.8.8", false}, // not allowed as what it is, nor as 8.8.8.8: its own form is never dialled
		{"::ffff:10.9.0.1", true},
		{"::ffff:10.0.0.1", false},
		{"::ffff:0:8.8.8.8", true},
		{"::ffff:0:127.0.0.1", false},
		{"64:ff9b::8.8.8.8", true},
		{"64:ff9b::10.0.0.1", false},
		{"64:ff9b::10.9.0.1", true},
		{"64:ff9b::8.8.4.4", false},
		{"64:ff9b:1::192.168.0.1", false},
		{"2001:0:808:808::f7f7:f7f7", true},  // 8.8.8.8
		{"2001:0:808:808::f5ff:fffe", false}, // 10.0.0.1
		{"2002:808:808::1", true},
		{"2002:a00:1::1", false},
		{"2002:a09:1::1", true},
	} {
		addr := netip.MustParseAddr(tt.addr)
		if got := d.Permits(addr); got != tt.want {
			t.Errorf("%s: got %v; want %v", tt.addr, got, tt.want)
		}
		if none.Permits(addr) {
			t.Errorf("%s: permitted although nothing special is allowed", tt.addr)
		}
	}
}
