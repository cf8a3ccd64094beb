package dnr

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// TestAppendRefuses wants nothing to be written that a strict decoder would not read.
func TestAppendRefuses(t *testing.T) {
	dot := svcb.Param{Key: svcb.KeyALPN, Value: []byte("\x03dot")}
	port := svcb.Param{Key: svcb.KeyPort, Value: []byte{3, 85}}
	hint := svcb.Param{Key: svcb.KeyIPv6Hint, Value: make([]byte, 16)}
	addrs := []netip.Addr{addr6}
	for name, row := range map[string]struct {
		in   Instance
		want error
	}{
		"good":           {Instance{1, "dns.example.", addrs, []svcb.Param{dot, port}}, nil},
		"name-unending":  {Instance{1, "dns.example", addrs, []svcb.Param{dot}}, nil},
		"name-empty":     {Instance{1, "a..b.", addrs, []svcb.Param{dot}}, errADN},
		"name-root":      {Instance{1, ".", addrs, []svcb.Param{dot}}, errADN},
		"priority-zero":  {Instance{0, "dns.example.", addrs, []svcb.Param{dot}}, ErrPriority},
		"no-addresses":   {Instance{1, "dns.example.", nil, []svcb.Param{dot}}, ErrNoAddress},
		"loopback-alone": {Instance{1, "dns.example.", []netip.Addr{netip.IPv6Loopback()}, []svcb.Param{dot}}, ErrNoAddress},
		"other-family":   {Instance{1, "dns.example.", []netip.Addr{addr4}, []svcb.Param{dot}}, errAddrLength},
		"zone":           {Instance{1, "dns.example.", []netip.Addr{addr6.WithZone("eth0")}, nil}, errAddrLength},
		"no-address":     {Instance{1, "dns.example.", []netip.Addr{{}}, nil}, errAddrLength},
		"too-many":       {Instance{1, "dns.example.", make([]netip.Addr, 4096), nil}, ErrTooLong},
		"unsorted":       {Instance{1, "dns.example.", addrs, []svcb.Param{port, dot}}, errSvcParams},
		"hint":           {Instance{1, "dns.example.", addrs, []svcb.Param{dot, hint}}, errHints},
		"params-too-long": {
			Instance{1, "dns.example.", addrs, []svcb.Param{{Key: 65280, Value: make([]byte, 65536)}}}, ErrTooLong,
		},
		"too-long": {Instance{1, "dns.example.", addrs, []svcb.Param{{Key: 65280, Value: make([]byte, 65520)}}}, ErrTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			start := []byte{1, 2, 3}
			b, err := row.in.AppendDHCPv6(start)
			if !errors.Is(err, row.want) {
				t.Errorf("DHCPv6: got %v; want %v", err, row.want)
			}
			if err != nil && len(b) != len(start) {
				t.Errorf("DHCPv6: got %x behind an error", b)
			}
			if b, err = row.in.AppendRA(start, time.Hour); !errors.Is(err, row.want) || err != nil && len(b) != len(start) {
				t.Errorf("RA: got %d octets, %v; want %v", len(b), err, row.want)
			}
		})
	}
}

func TestAppendDHCPv4Refuses(t *testing.T) {
	private := func(n int) []svcb.Param { return []svcb.Param{{Key: 65280, Value: make([]byte, n)}} }
	for name, row := range map[string]struct {
		in   Instance
		want error
	}{
		"other-family": {Instance{1, "dns.example.", []netip.Addr{addr6}, nil}, errAddrLength},
		"too-many":     {Instance{1, "dns.example.", make([]netip.Addr, 64), nil}, ErrTooLong},
		"too-long":     {Instance{1, "dns.example.", []netip.Addr{addr4}, private(65520)}, ErrTooLong},
		"root":         {Instance{1, ".", nil, nil}, errADN},
		"good":         {Instance{1, "dns.example.", []netip.Addr{addr4}, private(600)}, nil},
	} {
		if b, err := row.in.AppendDHCPv4(nil); !errors.Is(err, row.want) || err != nil && len(b) != 0 {
			t.Errorf("%s: got %d octets, %v; want %v", name, len(b), err, row.want)
		}
	}
}

// TestLongestRA goes to 255 units of 8 octets, and one octet further.
func TestLongestRA(t *testing.T) {
	for n, want := range map[int]error{1993: nil, 1994: ErrTooLong} {
		in := Instance{1, "dns.example.", []netip.Addr{addr6}, []svcb.Param{{Key: 65280, Value: make([]byte, n)}}}
		b, err := in.AppendRA(nil, Infinity)
		if !errors.Is(err, want) || err == nil && len(b) != 2040 {
			t.Errorf("%d octets of value: got %d octets, %v; want %v", n, len(b), err, want)
		}
	}
	in := Instance{Priority: 1, ADN: "dns.example."}
	for _, lifetime := range []time.Duration{-time.Second, Infinity + time.Second} {
		if _, err := in.AppendRA(nil, lifetime); !errors.Is(err, ErrTooLong) {
			t.Errorf("lifetime %s: got %v; want %v", lifetime, err, ErrTooLong)
		}
	}
}

func TestFindingJSON(t *testing.T) {
	got, err := json.Marshal(InspectDHCPv4(nil)[0].Findings)
	want := `[{"code":"empty","severity":"error","offset":0,"text":"the option is empty"}]`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func TestForm(t *testing.T) {
	for f, want := range map[Form]string{DHCPv4: "dhcpv4", DHCPv6: "dhcpv6", RA: "ra"} {
		if f.String() != want {
			t.Errorf("got %s; want %s", f, want)
		}
	}
}

// TestAllocations wants no more of them than an instance has parts, whatever its lengths claim.
func TestAllocations(t *testing.T) {
	liar := unhex(t, "ffff 0001 ff"+adnHex+"fffffffffffffffffffffffffffffff0")
	if n := testing.AllocsPerRun(100, func() { InspectDHCPv4(liar) }); n > 20 {
		t.Errorf("got %.0f allocations; want at most 20", n)
	}
	good := unhex(t, "001d 0001 0d"+adnHex+"04 c0000235 0001 0004 03646f74")
	if n := testing.AllocsPerRun(100, func() { InspectDHCPv4(good) }); n > 30 {
		t.Errorf("got %.0f allocations; want at most 30", n)
	}
}
