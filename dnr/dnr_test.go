package dnr

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

var (
	addr4 = netip.MustParseAddr("192.0.2.53")
	addr6 = netip.MustParseAddr("2001:db8::53")
)

// resolver returns a designated resolver at dns.example with both addresses.
func resolver(priority uint16, alpn ...string) svcb.Resolver {
	r := svcb.Resolver{Priority: priority, Name: "dns.example.", Addresses: []netip.Addr{addr4, addr6}, ALPN: alpn}
	for _, id := range alpn {
		if svcb.IsHTTP(id) {
			r.DoHPath = svcb.DefaultDoHPath
		}
	}
	return r
}

// unhex decodes hexadecimal digits with blanks between them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const adnHex = "03646e73076578616d706c6500"

// TestWorkedBytes has octets that were put together by hand from the layouts of RFC 9463.
func TestWorkedBytes(t *testing.T) {
	dohpath := "0007 0010 2f646e732d71756572797b3f646e737d"
	encode4 := func(r svcb.Resolver) ([]byte, error) { return EncodeDHCPv4([]svcb.Resolver{r}) }
	encodeRA := func(r svcb.Resolver) ([]byte, error) { return EncodeRA(r, 30*time.Minute) }
	for name, row := range map[string]struct {
		encode func(svcb.Resolver) ([]byte, error)
		in     svcb.Resolver
		want   string
	}{
		"dhcpv4-dot": {encode4, resolver(1, "dot"), "001d 0001 0d" + adnHex + "04 c0000235 0001 0004 03646f74"},
		"dhcpv4-doh": {
			encode4, resolver(2, "h2", "h3"),
			"0033 0002 0d" + adnHex + "04 c0000235 0001 0006 026832026833" + dohpath,
		},
		"dhcpv6-dot": {
			EncodeDHCPv6, resolver(1, "dot"),
			"0001 000d" + adnHex + "0010 20010db8000000000000000000000053 0001 0004 03646f74",
		},
		"dhcpv6-all": {
			EncodeDHCPv6, resolver(1, "dot", "doq", "h2", "h3"),
			"0001 000d" + adnHex + "0010 20010db8000000000000000000000053 0001 000e 03646f7403646f71026832026833" + dohpath,
		},
		"ra-dot": {
			encodeRA, resolver(1, "dot"),
			"90 07 0001 00000708 000d" + adnHex + "0010 20010db8000000000000000000000053 0008 0001 0004 03646f74 0000000000",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := row.encode(row.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(hex.EncodeToString(unhex(t, row.want)), hex.EncodeToString(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestADNOnlyRA has the form of erratum 7804: nothing but padding follows the name.
func TestADNOnlyRA(t *testing.T) {
	want := unhex(t, "90 03 0001 00000708 000d"+adnHex+"00")
	in := Instance{Priority: 1, ADN: "dns.example."}
	got, err := in.AppendRA(nil, 30*time.Minute)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %x, %v; want %x", got, err, want)
	}
	back, lifetime, err := DecodeRA(got)
	if err != nil || lifetime != 30*time.Minute || !back.ADNOnly() || back.ADN != in.ADN {
		t.Errorf("got %+v, %s, %v; want %+v for 30m", back, lifetime, err, in)
	}
}

// TestThereAndBack wants of the options what was put in, but for the addresses of the other family.
func TestThereAndBack(t *testing.T) {
	all := []svcb.Resolver{resolver(1, "h3", "h2"), resolver(2, "doq"), resolver(3, "dot")}
	all[2].Port = 8853
	data, err := EncodeDHCPv4(all)
	if err != nil {
		t.Fatal(err)
	}
	instances, err := DecodeDHCPv4(data)
	if err != nil || len(instances) != len(all) {
		t.Fatalf("got %d instances, %v; want %d", len(instances), err, len(all))
	}
	for i, r := range all {
		r.Addresses = []netip.Addr{addr4}
		if diff := cmp.Diff(r, instances[i].Resolver(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("DHCPv4: -want +got:\n%s", diff)
		}
		r.Addresses = []netip.Addr{addr6}
		option, err := EncodeRA(r, Infinity)
		if err != nil {
			t.Fatal(err)
		}
		in, lifetime, err := DecodeRA(option)
		if err != nil || lifetime != Infinity {
			t.Fatalf("got lifetime %s, %v; want %s", lifetime, err, Infinity)
		}
		if diff := cmp.Diff(r, in.Resolver(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("RA: -want +got:\n%s", diff)
		}
	}
}

// TestUnsafe wants an error for what RFC 9463 allows or leaves open, but some known client refuses.
func TestUnsafe(t *testing.T) {
	with := func(change func(*svcb.Resolver)) svcb.Resolver {
		r := resolver(1, "h2")
		change(&r)
		return r
	}
	addrs := func(list ...string) svcb.Resolver {
		return with(func(r *svcb.Resolver) {
			r.Addresses = nil
			for _, a := range list {
				r.Addresses = append(r.Addresses, netip.MustParseAddr(a))
			}
		})
	}
	sixteen := make([]string, 16)
	for i := range sixteen {
		sixteen[i] = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(i + 1)}).String()
	}
	for name, row := range map[string]struct {
		in   svcb.Resolver
		want error
	}{
		"priority-zero":      {with(func(r *svcb.Resolver) { r.Priority = 0 }), ErrPriority},
		"name-underscore":    {with(func(r *svcb.Resolver) { r.Name = "my_dns.example." }), ErrUnsafe},
		"name-one-label":     {with(func(r *svcb.Resolver) { r.Name = "dns." }), ErrUnsafe},
		"name-root":          {with(func(r *svcb.Resolver) { r.Name = "." }), ErrUnsafe},
		"name-utf8":          {with(func(r *svcb.Resolver) { r.Name = "dns.exämple." }), ErrUnsafe},
		"no-alpn":            {with(func(r *svcb.Resolver) { r.ALPN = nil }), ErrUnsafe},
		"alpn-unknown":       {with(func(r *svcb.Resolver) { r.ALPN = []string{"h2", "imap"} }), ErrUnsafe},
		"alpn-empty":         {with(func(r *svcb.Resolver) { r.ALPN = []string{"h2", ""} }), ErrUnsafe},
		"alpn-twice":         {with(func(r *svcb.Resolver) { r.ALPN = []string{"h2", "h2"} }), ErrUnsafe},
		"doh-no-dohpath":     {with(func(r *svcb.Resolver) { r.DoHPath = "" }), ErrUnsafe},
		"dot-with-dohpath":   {with(func(r *svcb.Resolver) { r.ALPN = []string{"dot"} }), ErrUnsafe},
		"dohpath-comma":      {with(func(r *svcb.Resolver) { r.DoHPath = "/a,b{?dns}" }), ErrUnsafe},
		"dohpath-percent":    {with(func(r *svcb.Resolver) { r.DoHPath = "/a%20b{?dns}" }), ErrUnsafe},
		"dohpath-no-dns":     {with(func(r *svcb.Resolver) { r.DoHPath = "/a" }), ErrUnsafe},
		"no-addresses":       {addrs(), ErrNoAddress},
		"other-family":       {addrs("2001:db8::53"), ErrNoAddress},
		"multicast":          {addrs("192.0.2.53", "224.0.0.1"), ErrUnsafe},
		"multicast-v6":       {addrs("192.0.2.53", "ff02::1"), ErrUnsafe},
		"loopback":           {addrs("127.0.0.1"), ErrUnsafe},
		"unspecified":        {addrs("0.0.0.0"), ErrUnsafe},
		"broadcast":          {addrs("255.255.255.255"), ErrUnsafe},
		"invalid":            {with(func(r *svcb.Resolver) { r.Addresses = []netip.Addr{{}} }), ErrUnsafe},
		"sixteen-in-dhcpv4":  {addrs(append(sixteen, "192.0.2.53")...), nil},
		"mapped":             {addrs("::ffff:192.0.2.53"), nil},
		"name-unqualified":   {with(func(r *svcb.Resolver) { r.Name = "DNS.example" }), nil},
		"link-local-in-zone": {addrs("192.0.2.53", "fe80::1%eth0"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := EncodeDHCPv4([]svcb.Resolver{row.in}); !errors.Is(err, row.want) {
				t.Errorf("got %v; want %v", err, row.want)
			}
		})
	}
	if _, err := EncodeDHCPv6(addrs(sixteen...)); !errors.Is(err, ErrUnsafe) {
		t.Errorf("sixteen IPv6 addresses: got %v; want %v", err, ErrUnsafe)
	}
	if _, err := EncodeDHCPv6(addrs(sixteen[:15]...)); err != nil {
		t.Errorf("fifteen IPv6 addresses: got %v", err)
	}
	if _, err := EncodeDHCPv4(nil); !errors.Is(err, errEmpty) {
		t.Errorf("no resolver: got %v; want %v", err, errEmpty)
	}
}
