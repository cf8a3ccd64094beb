package announce

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

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

func TestAdvertisementBytes(t *testing.T) {
	ra := link.RouterAdvertisement{Other: true, Lifetime: 0, HopLimit: 64, Reachable: 1, Retransmit: 2}
	ra.Options = append(ra.Options, link.SourceLinkLayer(net.HardwareAddr{2, 0, 0, 0, 0, 1}))
	ra.Options = append(ra.Options, link.RDNSS([]netip.Addr{netip.MustParseAddr("2001:db8::53")}, 30*time.Minute)...)
	pvd, err := PvD{ID: "dns.example", Sequence: 0x0102, Info: true}.option()
	if err != nil {
		t.Fatal(err)
	}
	ra.Options = append(ra.Options, pvd)
	want := "86000000" + "4040" + "0000" + "00000001" + "00000002" +
		"0101020000000001" +
		"1903000000000708" + "20010db8000000000000000000000053" +
		// Type 21, 24 octets, flag H, the sequence number, the name and its padding.
		"1503" + "8000" + "0102" + "03646e73076578616d706c6500" + "0000000000"
	if got := hex.EncodeToString(ra.Append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if ipv6.ICMPTypeRouterAdvertisement != link.TypeRouterAdvertisement || ipv6.ICMPTypeRouterSolicitation != link.TypeRouterSolicitation {
		t.Error("types differ from those of golang.org/x/net")
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
	common := []link.NDOption{link.SourceLinkLayer(net.HardwareAddr{2, 0, 0, 0, 0, 1})}
	big := link.NDOption(append([]byte{dnr.OptionRA, 75}, make([]byte, 598)...))
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
			ras := split(link.RouterAdvertisement{Other: true}, common, slicesRepeat(big, test.options), test.mtu)
			if len(ras) != test.messages {
				t.Fatalf("got %d; want %d", len(ras), test.messages)
			}
			n := 0
			for _, ra := range ras {
				if got := len(ra.Append(nil)) + 40; got > max(test.mtu, 1280) || !ra.Other {
					t.Errorf("got %d octets; want at most %d", got, test.mtu)
				}
				if !bytes.Equal(ra.Options[0], common[0]) {
					t.Error("got one without our link-layer address")
				}
				n += len(ra.Options) - 1
			}
			if n != test.options {
				t.Errorf("got %d options; want %d", n, test.options)
			}
		})
	}
}

func slicesRepeat(o link.NDOption, n int) (list []link.NDOption) {
	for range n {
		list = append(list, o)
	}
	return list
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
	f.Add(link.RouterAdvertisement{Options: options}.Append(nil))     // what we send
	f.Add([]byte{134, 0, 0, 0, 64, 0xc0, 7, 8, 15: 0})                // without options
	f.Add([]byte{134, 0, 0, 0, 64, 0xc0, 7, 8, 15: 0, 16: 25, 17: 0}) // an option of no length
	f.Add([]byte{134, 0, 0, 0, 64, 0xc0, 7, 8, 15: 0, 16: 144, 17: 255, 23: 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		ra, err := link.ParseAdvertisement(b)
		if err != nil {
			if !errors.Is(err, link.ErrNDShort) && !errors.Is(err, link.ErrNDType) && !errors.Is(err, link.ErrNDOption) {
				t.Fatalf("got error %v; want one that says what is wrong", err)
			}
			return
		}
		again, err := link.ParseAdvertisement(ra.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ra, again, cmp.AllowUnexported(link.RouterAdvertisement{})); diff != "" {
			t.Errorf("after a round trip (-want +got):\n%s", diff)
		}
		differences(link.RouterAdvertisement{}, an, ra)
	})
}
