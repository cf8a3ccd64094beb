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
