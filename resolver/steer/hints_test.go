package steer

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// hintsLike is an ECHConfigList, to no one but a parser, that holds what an ipv4hint and an ipv6hint with steered
// addresses look like, at every alignment.
var hintsLike = slices.Concat(
	[]byte{0, 0x40, 0xfe, 0x0d},
	[]byte{0, 4, 0, 4, 192, 0, 2, 1},
	[]byte{0, 6, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7},
	[]byte{9, 0, 4, 0, 4, 192, 0, 2, 1},
)

// paramsOf packs params in the order given.
func paramsOf(params ...wire.SvcParam) []byte { return wire.AppendSvcParams(nil, params) }

// toRelay replaces documentation addresses as fakeRelay does, and leaves 192.0.2.0 and 2001:db8:1:: without one.
func toRelay(addr netip.Addr) (netip.Addr, bool, error) {
	if !netip.MustParsePrefix("192.0.2.0/24").Contains(addr) && !netip.MustParsePrefix("2001:db8:1::/48").Contains(addr) {
		return addr, true, nil
	}
	if b := addr.AsSlice(); b[len(b)-1] == 0 {
		return netip.Addr{}, false, nil
	}
	return new(dnstest.Relay).RelayAddr(context.Background(), addr, addr.Is6(), 0, nil)
}

func TestRewriteHints(t *testing.T) {
	const mandatory, alpn, ipv4hint, ech, ipv6hint = 0, 1, 4, 5, 6
	h2 := []byte("\x02h2")
	v6 := netip.MustParseAddr("2001:db8:1::7").AsSlice()
	tests := []struct {
		name     string
		in, want []byte // want is nil for wire.ErrMalformed
	}{
		{"empty", nil, []byte{}},
		{"ech-that-looks-like-hints", paramsOf(param(ech, hintsLike)), paramsOf(param(ech, hintsLike))},
		{
			"ech-that-looks-like-hints-between-hints",
			paramsOf(param(ipv4hint, []byte{192, 0, 2, 1}), param(ech, hintsLike), param(ipv6hint, v6)),
			paramsOf(param(ipv4hint, []byte{198, 51, 100, 1}), param(ech, hintsLike), param(ipv6hint, netip.MustParseAddr("2001:db8:ab1e::7").AsSlice())),
		},
		{
			"unknown-key-that-looks-like-hints",
			paramsOf(param(ipv4hint, []byte{192, 0, 2, 1}), param(65281, hintsLike)),
			paramsOf(param(ipv4hint, []byte{198, 51, 100, 1}), param(65281, hintsLike)),
		},
		{
			"some-removed",
			paramsOf(param(ipv4hint, []byte{192, 0, 2, 0, 203, 0, 113, 1, 192, 0, 2, 9})),
			paramsOf(param(ipv4hint, []byte{203, 0, 113, 1, 198, 51, 100, 9})),
		},
		{
			"all-removed-and-mandatory-with-it",
			paramsOf(param(mandatory, []byte{0, ipv4hint}), param(ipv4hint, []byte{192, 0, 2, 0}), param(ech, hintsLike)),
			paramsOf(param(ech, hintsLike)),
		},
		{
			"mandatory-keeps-the-others",
			paramsOf(param(mandatory, []byte{0, alpn, 0, ipv4hint, 0, ipv6hint}), param(alpn, h2), param(ipv4hint, []byte{192, 0, 2, 0}), param(ipv6hint, v6)),
			paramsOf(param(mandatory, []byte{0, alpn, 0, ipv6hint}), param(alpn, h2), param(ipv6hint, netip.MustParseAddr("2001:db8:ab1e::7").AsSlice())),
		},
		{
			"not-steered-stays-with-its-mistakes", // a duplicate, keys out of order, an odd mandatory
			paramsOf(param(ipv4hint, []byte{203, 0, 113, 1, 203, 0, 113, 1}), param(alpn, nil), param(mandatory, []byte{0})),
			paramsOf(param(ipv4hint, []byte{203, 0, 113, 1, 203, 0, 113, 1}), param(alpn, nil), param(mandatory, []byte{0})),
		},
		{
			"second-hint-of-a-kind", // malformed, but a lenient client may take either
			paramsOf(param(ipv4hint, []byte{203, 0, 113, 1}), param(ipv4hint, []byte{192, 0, 2, 1})),
			paramsOf(param(ipv4hint, []byte{203, 0, 113, 1}), param(ipv4hint, []byte{198, 51, 100, 1})),
		},
		{"hint-of-five-octets", paramsOf(param(ipv4hint, []byte{192, 0, 2, 1, 9})), nil},
		{"length-overruns", []byte{0, ipv4hint, 0, 9, 192, 0, 2, 1}, nil},
		{"header-cut", []byte{0, ipv4hint, 0}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.in)
			got, changed, err := rewriteHints(tt.in, toRelay)
			switch {
			case tt.want == nil:
				if !errors.Is(err, wire.ErrMalformed) {
					t.Errorf("got %v; want %v", err, wire.ErrMalformed)
				}
			case err != nil || !bytes.Equal(got, tt.want):
				t.Errorf("got %x, %v; want %x", got, err, tt.want)
			case changed == bytes.Equal(tt.in, tt.want):
				t.Errorf("got changed %v", changed)
			}
			if !bytes.Equal(tt.in, before) {
				t.Error("the parameters themselves were changed")
			}
		})
	}
}

// FuzzSVCBHints rewrites the hints of any parameters and reads the result with the library.
func FuzzSVCBHints(f *testing.F) {
	for _, s := range []string{
		`1 . alpn=h2 ipv4hint=192.0.2.1 ech=AAEC ipv6hint=2001:db8:1::7`,
		`1 . mandatory=ipv4hint ipv4hint=192.0.2.0`,                                          // all of it goes
		`1 . mandatory=ipv4hint,ipv6hint ipv4hint=192.0.2.0,192.0.2.1 ipv6hint=2001:db8:1::`, // one stays
	} {
		msg := make([]byte, 256)
		end, err := dns.PackRR(dnstest.RR(". HTTPS "+s), msg, 0, nil, false)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(msg[11+3 : end])
	}
	f.Add(paramsOf(param(5, hintsLike)))
	f.Fuzz(func(t *testing.T, params []byte) {
		if list, ok := wire.ReadSvcParams(params); ok && !bytes.Equal(wire.AppendSvcParams(nil, list), params) {
			t.Errorf("%x: reading and appending gives %x", params, wire.AppendSvcParams(nil, list))
		}
		same, changed, err := rewriteHints(params, func(a netip.Addr) (netip.Addr, bool, error) { return a, true, nil })
		if err == nil && (changed || !bytes.Equal(same, params)) {
			t.Errorf("%x: nothing to replace gives %x", params, same)
		}
		out, _, err := rewriteHints(params, toRelay)
		if err != nil {
			return
		}
		rdata := append([]byte{0, 1, 0}, params...)
		if httpsFrom(rdata) != nil && httpsFrom(append([]byte{0, 1, 0}, out...)) == nil {
			t.Errorf("%x: the library does not read %x", params, out)
		}
		checkParams(t, params, out)
	})
}

// httpsFrom returns the record with this RDATA, or nil if the library cannot read it.
func httpsFrom(rdata []byte) *dns.HTTPS {
	h := dns.RR_Header{Name: ".", Rrtype: dns.TypeHTTPS, Class: dns.ClassINET, Rdlength: uint16(len(rdata))}
	r, off, err := dns.UnpackRRWithHeader(h, rdata, 0)
	if err != nil || off != len(rdata) {
		return nil
	}
	https, _ := r.(*dns.HTTPS)
	return https
}

// checkParams checks that out is in without steered addresses and otherwise the same, byte for byte.
func checkParams(t *testing.T, in, out []byte) {
	t.Helper()
	before, _ := wire.ReadSvcParams(in)
	after, _ := wire.ReadSvcParams(out)
	isHint := func(p wire.SvcParam) bool { return p.Key == 4 || p.Key == 6 || p.Key == 0 }
	for _, p := range after {
		size := map[uint16]int{4: 4, 6: 16}[p.Key]
		for i := 0; size > 0 && i < len(p.Value); i += size {
			addr, _ := netip.AddrFromSlice(p.Value[i : i+size])
			if mapped, ok, _ := toRelay(addr); !ok || mapped != addr {
				t.Errorf("%x: %s is still in %x", in, addr, out)
			}
		}
	}
	before = slices.DeleteFunc(before, isHint)
	after = slices.DeleteFunc(after, isHint)
	if !bytes.Equal(wire.AppendSvcParams(nil, before), wire.AppendSvcParams(nil, after)) {
		t.Errorf("%x: other parameters differ in %x", in, out)
	}
}

func param(key uint16, value []byte) wire.SvcParam { return wire.SvcParam{Key: key, Value: value} }
