package announce

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// TestEncodable leaves out what Router Advertisements cannot carry, returns why, and keeps the rest.
func TestEncodable(t *testing.T) {
	only4 := svcb.Resolver{Priority: 3, Name: "dns.isp.example.", Addresses: []netip.Addr{server4}, ALPN: []string{"doq"}}
	for name, test := range map[string]struct {
		change    func(*Content)
		resolvers int
		servers   int
		err       error
	}{
		"all":           {func(*Content) {}, 2, 1, nil},
		"twice":         {func(a *Content) { a.Servers = append(a.Servers, a.Servers...) }, 2, 1, nil},
		"loopback":      {func(a *Content) { a.Servers = []netip.Addr{netip.IPv6Loopback()} }, 2, 0, nil},
		"ipv4-only":     {func(a *Content) { a.Resolvers = append(a.Resolvers, only4) }, 2, 1, dnr.ErrNoAddress},
		"priority-zero": {func(a *Content) { a.Resolvers[0].Priority = 0 }, 1, 1, dnr.ErrPriority},
		"pvd":           {func(a *Content) { a.PvD.ID = "dns.isp.example" }, 2, 1, nil},
		"bad-pvd":       {func(a *Content) { a.PvD.ID = strings.Repeat("a", 64) }, 2, 1, svcb.ErrTargetName},
		"nothing":       {func(a *Content) { *a = Content{} }, 0, 0, errNoIPv6Resolver},
	} {
		t.Run(name, func(t *testing.T) {
			an := announced()
			test.change(&an)
			got, err := encodable(an, time.Hour)
			if len(got.Resolvers) != test.resolvers || len(got.Servers) != test.servers || !errors.Is(err, test.err) {
				t.Errorf("got %+v, %v; want %d, %d, %v", got, err, test.resolvers, test.servers, test.err)
			}
			if keeps := err == nil && got.PvD != an.PvD; keeps {
				t.Errorf("got %+v; want %+v", got.PvD, an.PvD)
			}
		})
	}
}

// TestContentWithdrawn replaces a name by another, and takes it up again before that has been sent as often as it must be.
func TestContentWithdrawn(t *testing.T) {
	var c raContent
	names := func() (list []string) {
		options, err := c.options(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range options {
			if o.Kind() == dnr.OptionRA {
				in, lifetime, err := dnr.DecodeRA(o)
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
		if changed, err := c.update(Content{Resolvers: []svcb.Resolver{r}}, time.Hour); !changed || err != nil {
			t.Fatalf("got %t, %v; want news", changed, err)
		}
	}
	say("a.example.")
	say("b.example.")
	if got, want := names(), []string{"a.example. 0s", "b.example. 1h0m0s"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	c.sent()
	say("a.example.")
	if got, want := names(), []string{"b.example. 0s", "a.example. 1h0m0s"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	for range maxInitial {
		c.sent()
	}
	if got, want := names(), []string{"a.example. 1h0m0s"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestDifferences(t *testing.T) {
	said := announced()
	mine, err := dnr.EncodeRA(said.Resolvers[0], time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	foreign := said.Resolvers[0]
	foreign.Name = "rogue.example."
	theirs, err := dnr.EncodeRA(foreign, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	withdrawn, err := dnr.EncodeRA(foreign, 0)
	if err != nil {
		t.Fatal(err)
	}
	var many []netip.Addr
	for i := range 9 {
		many = append(many, netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 15: byte(i)}))
	}
	for name, test := range map[string]struct {
		options []link.NDOption
		want    string
	}{
		"same":      {append(link.RDNSS([]netip.Addr{server6}, time.Hour), mine), ""},
		"resolver":  {[]link.NDOption{theirs}, "another designated resolver, rogue.example."},
		"withdrawn": {[]link.NDOption{withdrawn}, ""},
		"malformed": {[]link.NDOption{{dnr.OptionRA, 1, 0, 1, 0, 0, 0, 9}}, "hosts discard"},
		"servers":   {link.RDNSS(many, time.Hour), "2001::3, and 5 more"},
		"expired":   {link.RDNSS(many, 0), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(differences(link.RouterAdvertisement{}, said, link.RouterAdvertisement{Options: test.options}), "\n")
			if (got != "") != (test.want != "") || !strings.Contains(got, test.want) {
				t.Errorf("got %q; want %q", got, test.want)
			}
		})
	}
}

// TestOthersAreBounded has a link full of routers that contradict us.
func TestOthersAreBounded(t *testing.T) {
	o := otherRouters{logged: make(map[string]bool)}
	for i := range 1000 {
		o.logOnce(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(i >> 8), 15: byte(i)}), []string{"M", "O"})
	}
	if len(o.logged) != maxDifferences {
		t.Errorf("got %d remembered; want %d", len(o.logged), maxDifferences)
	}
}
