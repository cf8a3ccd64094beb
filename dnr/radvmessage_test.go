package dnr

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/ipv6"
)

func TestAdvertisementBytes(t *testing.T) {
	ra := routerAdvertisement{other: true, lifetime: 0, hopLimit: 64, reachable: 1, retransmit: 2}
	ra.options = append(ra.options, sourceLinkLayer(net.HardwareAddr{2, 0, 0, 0, 0, 1}))
	ra.options = append(ra.options, rdnss([]netip.Addr{netip.MustParseAddr("2001:db8::53")}, 30*time.Minute)...)
	pvd, err := PvD{ID: "dns.example", Sequence: 0x0102, Info: true}.option()
	if err != nil {
		t.Fatal(err)
	}
	ra.options = append(ra.options, pvd)
	want := "86000000" + "4040" + "0000" + "00000001" + "00000002" +
		"0101020000000001" +
		"1903000000000708" + "20010db8000000000000000000000053" +
		// Type 21, 24 octets, flag H, the sequence number, the name and its padding.
		"1503" + "8000" + "0102" + "03646e73076578616d706c6500" + "0000000000"
	if got := hex.EncodeToString(ra.append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if ipv6.ICMPTypeRouterAdvertisement != typeRouterAdvertisement || ipv6.ICMPTypeRouterSolicitation != typeRouterSolicitation {
		t.Error("types differ from those of golang.org/x/net")
	}
}

func TestSourceLinkLayerOfOtherLinks(t *testing.T) {
	if o := sourceLinkLayer(make(net.HardwareAddr, 20)); o != nil {
		t.Errorf("got %x for InfiniBand; want none", o)
	}
}

func TestPvDNames(t *testing.T) {
	for _, id := range []string{strings.Repeat("a", 64) + ".example", "a..example"} {
		if o, err := (PvD{ID: id}).option(); err == nil {
			t.Errorf("%q: got %x; want an error", id, o)
		}
	}
}

// TestSplit wants each Router Advertisement to fit into the MTU, and to have what all of them need.
func TestSplit(t *testing.T) {
	common := []ndOption{sourceLinkLayer(net.HardwareAddr{2, 0, 0, 0, 0, 1})}
	big := ndOption(append([]byte{OptionRA, 75}, make([]byte, 598)...))
	for _, test := range []struct {
		name     string
		options  int
		mtu      int
		messages int
	}{
		{"none", 0, 1500, 0},
		{"one", 1, 1500, 1},
		{"two", 2, 1500, 1},
		{"three", 3, 1500, 2},
		{"five", 5, 1500, 3},
		{"jumbo", 5, 9000, 1},
		{"mtu-too-small", 2, 576, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			ras := split(routerAdvertisement{other: true}, common, slicesRepeat(big, test.options), test.mtu)
			if len(ras) != test.messages {
				t.Fatalf("got %d; want %d", len(ras), test.messages)
			}
			n := 0
			for _, ra := range ras {
				if got := len(ra.append(nil)) + 40; got > max(test.mtu, 1280) || !ra.other {
					t.Errorf("got %d octets; want at most %d", got, test.mtu)
				}
				if !bytes.Equal(ra.options[0], common[0]) {
					t.Error("got one without our link-layer address")
				}
				n += len(ra.options) - 1
			}
			if n != test.options {
				t.Errorf("got %d options; want %d", n, test.options)
			}
		})
	}
}

func slicesRepeat(o ndOption, n int) (list []ndOption) {
	for range n {
		list = append(list, o)
	}
	return list
}

func TestRDNSSOfMany(t *testing.T) {
	var servers []netip.Addr
	for i := range 200 {
		servers = append(servers, netip.AddrFrom16([16]byte{0: 0x20, 15: byte(i)}))
	}
	var got []netip.Addr
	for _, o := range rdnss(servers, time.Hour) {
		got = append(got, parseRDNSS(o)...)
	}
	if diff := cmp.Diff(servers, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzRouterAdvertisement reads Router Advertisements as they may come from anybody on the link.
func FuzzRouterAdvertisement(f *testing.F) {
	an := announced()
	var c raContent
	if _, err := c.update(an, time.Hour); err != nil {
		f.Fatal(err)
	}
	options, err := c.options(time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(routerAdvertisement{options: options}.append(nil))          // what we send
	f.Add([]byte{134, 0, 0, 0, 64, 0xc0, 7, 8, 15: 0})                // without options
	f.Add([]byte{134, 0, 0, 0, 64, 0xc0, 7, 8, 15: 0, 16: 25, 17: 0}) // an option of no length
	f.Add([]byte{134, 0, 0, 0, 64, 0xc0, 7, 8, 15: 0, 16: 144, 17: 255, 23: 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		ra, err := parseAdvertisement(b)
		if err != nil {
			if !errors.Is(err, errNDShort) && !errors.Is(err, errNDType) && !errors.Is(err, errNDOption) {
				t.Fatalf("got error %v; want one that says what is wrong", err)
			}
			return
		}
		again, err := parseAdvertisement(ra.append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ra, again, cmp.AllowUnexported(routerAdvertisement{})); diff != "" {
			t.Errorf("after a round trip (-want +got):\n%s", diff)
		}
		differences(routerAdvertisement{}, an, ra)
	})
}

// FuzzRouterSolicitation reads Router Solicitations.
func FuzzRouterSolicitation(f *testing.F) {
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0}, true)
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1}, false) // with a link-layer address
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1}, true)  // but no address
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0, 14, 2}, false)
	f.Fuzz(func(t *testing.T, b []byte, unspecified bool) {
		p := packet{peer: netip.AddrPortFrom(host6, 0), hops: ndHopLimit, data: b}
		if unspecified {
			p.peer = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		}
		if err := checkSolicitation(p); err == nil && (len(b)%8 != 0 || b[0] != typeRouterSolicitation) {
			t.Errorf("got %x taken; want an error", b)
		}
		p.hops = 64
		if err := checkSolicitation(p); err == nil {
			t.Error("got one from beyond the link taken; want an error")
		}
	})
}
