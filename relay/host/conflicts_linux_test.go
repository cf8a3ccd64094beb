package host

import (
	"slices"
	"testing"
)

// TestConflicts names what a prefix would cut off, in both families and in any table of routes.
func TestConflicts(t *testing.T) {
	uplink(t, "198.51.100.1/24", "2001:db8:1::1/64")
	ip(t, "route add default via 198.51.100.254")
	ip(t, "-6 route add default via 2001:db8:1::fe")
	ip(t, "route add 203.0.113.0/24 table 77 nexthop via 198.51.100.130 nexthop via 198.51.100.131")
	t.Cleanup(func() { tryIP(t, "route flush table 77") })
	tests := []struct {
		prefix string
		want   []string
	}{
		{"198.51.100.64/28", nil},
		{"2001:db8:1:1::/64", nil},
		{"127.80.0.0/16", nil},
		{"127.0.0.0/8", nil},
		{"198.51.100.0/28", []string{"198.51.100.1, an address of this host's interface uplink"}},
		{"198.51.100.240/28", []string{"198.51.100.254, the gateway of a route of this host"}},
		{"198.51.100.128/28", []string{
			"198.51.100.130, the gateway of a route of this host", "198.51.100.131, the gateway of a route of this host",
		}},
		{"2001:db8:1::/64", []string{
			"2001:db8:1::1, an address of this host's interface uplink", "2001:db8:1::fe, the gateway of a route of this host",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.prefix, func(t *testing.T) {
			list, err := Conflicts(prefixes(tt.prefix))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range list {
				if c.Prefix.String() != tt.prefix {
					t.Errorf("got prefix %v; want %s", c.Prefix, tt.prefix)
				}
				got = append(got, c.What)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q; want %q", got, tt.want)
			}
		})
	}
}

// TestConflictsOfOurs: routes of a relay that runs, or has left some, are none.
func TestConflictsOfOurs(t *testing.T) {
	uplink(t)
	cfg := testConfig()
	for _, step := range []func(*Claim) error{(*Claim).Release, func(*Claim) error { return nil }} {
		c := claim(t, cfg)
		if err := step(c); err != nil {
			t.Fatal(err)
		}
		if list, err := Conflicts(append(cfg.Relay, cfg.Egress...)); len(list) != 0 || err != nil {
			t.Errorf("got %v, %v; want none", list, err)
		}
	}
}
