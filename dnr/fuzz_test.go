package dnr

import (
	"bytes"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// checkInspection wants of every instance, right or wrong, that what is said about it is consistent. size is that of
// the option.
func checkInspection(t *testing.T, i Inspection, size int) {
	t.Helper()
	for _, f := range i.Findings {
		if f.Code == "" || f.Text == "" || f.Offset < 0 || f.Offset > size || (f.Severity == Error) != (f.Err != nil) {
			t.Fatalf("finding %+v of %d octets", f, size)
		}
	}
	if i.Err() == nil && !i.Readable() {
		t.Fatalf("%+v is not readable, but nothing is wrong with it", i)
	}
	if n := len(i.Addresses); n*4 > size {
		t.Fatalf("%d addresses in %d octets", n, size)
	}
	if i.Readable() {
		i.Resolver() // of parameters that passed
	}
	if i.ADN == "" {
		return
	}
	if _, ok := dns.IsDomainName(i.ADN); !ok || !dns.IsFqdn(i.ADN) { // the oracle
		t.Fatalf("%q is not a domain name", i.ADN)
	}
}

// FuzzDHCPv4 checks that what is accepted comes out again as the same octets.
func FuzzDHCPv4(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.data(f))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var whole error
		for _, i := range InspectDHCPv4(b) {
			checkInspection(t, i, len(b))
			if whole == nil {
				whole = i.Err()
			}
		}
		list, err := DecodeDHCPv4(b)
		if (err == nil) != (whole == nil) {
			t.Fatalf("strict: %v; lenient: %v", err, whole)
		}
		if err != nil {
			return
		}
		var back []byte
		for _, in := range list {
			if back, err = in.AppendDHCPv4(back); err != nil {
				t.Fatalf("%+v: %v", in, err)
			}
		}
		if !bytes.Equal(back, b) {
			t.Fatalf("got %x; want %x", back, b)
		}
	})
}

// FuzzDHCPv6 checks that what is accepted comes out again as the same octets.
func FuzzDHCPv6(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.data(f))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkInspection(t, InspectDHCPv6(b), len(b))
		in, err := DecodeDHCPv6(b)
		if err != nil || len(b) > 0xffff {
			return
		}
		if back, err := in.AppendDHCPv6(nil); err != nil || !bytes.Equal(back, b) {
			t.Fatalf("got %x, %v; want %x", back, err, b)
		}
	})
}

// FuzzRA checks that what is accepted comes out again as the same octets, with its padding.
func FuzzRA(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.data(f))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkInspection(t, InspectRA(b), len(b))
		in, lifetime, err := DecodeRA(b)
		if err != nil {
			return
		}
		if back, err := in.AppendRA(nil, lifetime); err != nil || !bytes.Equal(back, b) {
			t.Fatalf("got %x, %v; want %x", back, err, b)
		}
	})
}

// FuzzResolver checks that what the encoders emit is taken without any finding, and means what was asked for.
func FuzzResolver(f *testing.F) {
	f.Add(uint16(1), "dns.example.", "dot", uint16(0), "")
	f.Add(uint16(2), "DNS.example", "h2", uint16(8443), "/dns-query{?dns}")
	f.Fuzz(func(t *testing.T, priority uint16, name, alpn string, port uint16, dohpath string) {
		in := resolver(priority, alpn)
		in.Name, in.Port, in.DoHPath = name, port, dohpath
		data, err := EncodeDHCPv4([]svcb.Resolver{in})
		option, errRA := EncodeRA(in, Infinity)
		if (err == nil) != (errRA == nil) {
			t.Fatalf("%+v: DHCPv4 %v; RA %v", in, err, errRA)
		}
		if err != nil {
			return
		}
		for _, i := range append(InspectDHCPv4(data), InspectRA(option)) {
			r := i.Resolver()
			if len(i.Findings) != 0 || r.Port != port || r.DoHPath != dohpath || r.Name != dns.CanonicalName(name) {
				t.Fatalf("got %+v; want %+v", i, in)
			}
		}
	})
}

// FuzzOption4 checks that options are put together as they were split, and that collecting takes anything.
func FuzzOption4(f *testing.F) {
	f.Add([]byte{1, 2, 3}, []byte{162, 2, 1, 2, 52, 1, 3, 255})
	f.Add(make([]byte, 600), []byte{162, 255, 1})
	f.Fuzz(func(t *testing.T, data, field []byte) {
		options := AppendOption4([]byte{53, 1, 5}, OptionDHCPv4, data)
		got, found := CollectOption4(OptionDHCPv4, append(options, 255), nil, nil)
		if !found || !bytes.Equal(got, data) {
			t.Fatalf("got %x, %t; want %x", got, found, data)
		}
		if got, _ := CollectOption4(OptionDHCPv4, field, field, field); len(got) > 3*len(field) {
			t.Fatalf("got %d octets of %d", len(got), 3*len(field))
		}
	})
}
