package dnr

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// TestSayable leaves out what Router Advertisements cannot carry, and says so, without giving up the rest.
func TestSayable(t *testing.T) {
	only4 := svcb.Resolver{Priority: 3, Name: "dns.isp.example.", Addresses: []netip.Addr{server4}, ALPN: []string{"doq"}}
	for name, test := range map[string]struct {
		change    func(*Announcement)
		resolvers int
		servers   int
		err       error
	}{
		"all":           {func(*Announcement) {}, 2, 1, nil},
		"twice":         {func(a *Announcement) { a.Servers = append(a.Servers, a.Servers...) }, 2, 1, nil},
		"loopback":      {func(a *Announcement) { a.Servers = []netip.Addr{netip.IPv6Loopback()} }, 2, 0, nil},
		"ipv4-only":     {func(a *Announcement) { a.Resolvers = append(a.Resolvers, only4) }, 2, 1, ErrNoAddress},
		"priority-zero": {func(a *Announcement) { a.Resolvers[0].Priority = 0 }, 1, 1, ErrPriority},
		"pvd":           {func(a *Announcement) { a.PvD.ID = "dns.isp.example" }, 2, 1, nil},
		"bad-pvd":       {func(a *Announcement) { a.PvD.ID = strings.Repeat("a", 64) }, 2, 1, svcb.ErrTargetName},
		"nothing":       {func(a *Announcement) { *a = Announcement{} }, 0, 0, errNothingToSay},
	} {
		t.Run(name, func(t *testing.T) {
			an := announced()
			test.change(&an)
			got, err := sayable(an, time.Hour)
			if len(got.Resolvers) != test.resolvers || len(got.Servers) != test.servers || !errors.Is(err, test.err) {
				t.Errorf("got %+v, %v; want %d, %d, %v", got, err, test.resolvers, test.servers, test.err)
			}
			if keeps := err == nil && got.PvD != an.PvD; keeps {
				t.Errorf("got %+v; want %+v", got.PvD, an.PvD)
			}
		})
	}
}

// TestContentGone replaces a name by another, and takes it up again before all hosts have heard of that.
func TestContentGone(t *testing.T) {
	var c raContent
	names := func() (list []string) {
		options, err := c.options(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range options {
			if o.kind() == OptionRA {
				in, lifetime, err := DecodeRA(o)
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, in.ADN+" "+lifetime.String())
			}
		}
		return list
	}
	say := func(name string) {
		r := svcb.Resolver{Priority: 1, Name: name, Addresses: []netip.Addr{server6}, ALPN: []string{"dot"}}
		if changed, err := c.update(Announcement{Resolvers: []svcb.Resolver{r}}, time.Hour); !changed || err != nil {
			t.Fatalf("got %t, %v; want news", changed, err)
		}
	}
	say("a.example.")
	say("b.example.")
	if got, want := names(), []string{"a.example. 0s", "b.example. 1h0m0s"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	c.told()
	say("a.example.")
	if got, want := names(), []string{"b.example. 0s", "a.example. 1h0m0s"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	for range maxInitial {
		c.told()
	}
	if got, want := names(), []string{"a.example. 1h0m0s"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestDifferences(t *testing.T) {
	said := announced()
	mine, err := EncodeRA(said.Resolvers[0], time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	foreign := said.Resolvers[0]
	foreign.Name = "rogue.example."
	theirs, err := EncodeRA(foreign, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	withdrawn, err := EncodeRA(foreign, 0)
	if err != nil {
		t.Fatal(err)
	}
	var many []netip.Addr
	for i := range 9 {
		many = append(many, netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 15: byte(i)}))
	}
	for name, test := range map[string]struct {
		options []ndOption
		want    string
	}{
		"same":      {append(rdnss([]netip.Addr{server6}, time.Hour), mine), ""},
		"resolver":  {[]ndOption{theirs}, "another designated resolver, rogue.example."},
		"withdrawn": {[]ndOption{withdrawn}, ""},
		"malformed": {[]ndOption{{OptionRA, 1, 0, 1, 0, 0, 0, 9}}, "hosts discard"},
		"servers":   {rdnss(many, time.Hour), "2001::3, and 5 more"},
		"expired":   {rdnss(many, 0), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(differences(routerAdvertisement{}, said, routerAdvertisement{options: test.options}), "\n")
			if (got != "") != (test.want != "") || !strings.Contains(got, test.want) {
				t.Errorf("got %q; want %q", got, test.want)
			}
		})
	}
}

// TestOthersAreBounded has a link full of routers that contradict us.
func TestOthersAreBounded(t *testing.T) {
	o := others{told: make(map[string]bool)}
	for i := range 1000 {
		o.heard(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(i >> 8), 15: byte(i)}), []string{"M", "O"})
	}
	if len(o.told) != maxTold {
		t.Errorf("got %d remembered; want %d", len(o.told), maxTold)
	}
}
