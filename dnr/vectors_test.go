package dnr

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// vector is one entry of testdata/vectors.json: what others emit, or test their decoders with.
type vector struct {
	Name, Option, Form, Hex string
	SourceValid             bool       `json:"source_valid"` // the verdict of the source
	Error                   string     // the error that a strict decoder ends with; ours is the verdict of RFC 9463
	Findings                [][]string // codes, of each instance
	Instances               []vectorInstance
	Why                     string // which verdict we follow and why, where there is more than one
}

// vectorInstance is what the source says that the octets mean.
type vectorInstance struct {
	Priority  uint16
	ADN       string
	Addresses []netip.Addr
	Discard   []netip.Addr // those of Addresses that clients discard
	Params    [][2]any     // key and value
	Lifetime  uint32       // in seconds
}

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	return vs
}

// data returns what the decoders take.
func (v vector) data(t testing.TB) []byte {
	t.Helper()
	b := unhex(t, v.Hex)
	switch {
	case v.Form == "data" || v.Option == "ra":
		return b
	case v.Option == "dhcpv4":
		data, _ := CollectOption4(OptionDHCPv4, b, nil, nil)
		return data
	}
	if code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:])); code != OptionDHCPv6 || n != len(b)-4 {
		t.Fatalf("got option %d with %d octets; want %d with %d", code, n, OptionDHCPv6, len(b)-4)
	}
	return b[4:]
}

func (v vector) inspect(t testing.TB) []Inspection {
	t.Helper()
	switch v.Option {
	case "dhcpv4":
		return InspectDHCPv4(v.data(t))
	case "dhcpv6":
		return []Inspection{InspectDHCPv6(v.data(t))}
	}
	return []Inspection{InspectRA(v.data(t))}
}

// decode returns all instances and the lifetime.
func (v vector) decode(t testing.TB) ([]Instance, time.Duration, error) {
	t.Helper()
	switch v.Option {
	case "dhcpv4":
		list, err := DecodeDHCPv4(v.data(t))
		return list, 0, err
	case "dhcpv6":
		in, err := DecodeDHCPv6(v.data(t))
		return []Instance{in}, 0, err
	}
	in, lifetime, err := DecodeRA(v.data(t))
	return []Instance{in}, lifetime, err
}

func namedErrors() map[string]error {
	return map[string]error{
		"": nil, "ErrTruncated": errTruncated, "ErrLength": errLength, "ErrEmpty": errEmpty, "ErrADN": errADN,
		"ErrAddrLength": errAddrLength, "ErrNoAddress": ErrNoAddress, "ErrSvcParams": errSvcParams, "ErrHints": errHints,
		"ErrPriority": ErrPriority, "ErrPadding": errPadding,
	}
}

func TestVectorsStrict(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			want, ok := namedErrors()[v.Error]
			if !ok {
				t.Fatalf("vector names the unknown error %q", v.Error)
			}
			if v.SourceValid != (v.Error == "") && v.Why == "" {
				t.Error("the vector does not say why we differ from its source")
			}
			got, lifetime, err := v.decode(t)
			if !errors.Is(err, want) {
				t.Fatalf("got error %v; want %v (%s)", err, want, v.Why)
			}
			if err != nil {
				return
			}
			v.compare(t, got, lifetime)
			if back := v.encode(t, got, lifetime); !bytes.Equal(back, v.data(t)) {
				t.Errorf("encoded again: got %x; want %x", back, v.data(t))
			}
		})
	}
}

// compare holds what was decoded against what the source says.
func (v vector) compare(t *testing.T, got []Instance, lifetime time.Duration) {
	t.Helper()
	if len(got) != len(v.Instances) {
		t.Fatalf("got %d instances; want %d", len(got), len(v.Instances))
	}
	for i, want := range v.Instances {
		usable := slices.DeleteFunc(slices.Clone(want.Addresses), func(a netip.Addr) bool {
			return slices.Contains(want.Discard, a)
		})
		in := got[i]
		if in.Priority != want.Priority || in.ADN != want.ADN || lifetime != time.Duration(want.Lifetime)*time.Second {
			t.Errorf("got priority %d of %s for %s; want %+v", in.Priority, in.ADN, lifetime, want)
		}
		compareAddrs := cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}
		if diff := cmp.Diff(want.Addresses, in.Addresses, compareAddrs); diff != "" {
			t.Errorf("addresses: -want +got:\n%s", diff)
		}
		if diff := cmp.Diff(usable, in.Usable(), compareAddrs); diff != "" {
			t.Errorf("usable addresses: -want +got:\n%s", diff)
		}
		if diff := cmp.Diff(want.Params, plainParams(in.Params), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("parameters: -want +got:\n%s", diff)
		}
	}
}

// plainParams returns params as JSON has them.
func plainParams(params []svcb.Param) (out [][2]any) {
	for _, p := range params {
		r := svcb.Record{Params: []svcb.Param{p}}
		key := float64(p.Key)
		switch p.Key {
		case svcb.KeyALPN:
			var ids []any
			for _, id := range r.ALPN() {
				ids = append(ids, id)
			}
			out = append(out, [2]any{key, ids})
		case svcb.KeyPort:
			out = append(out, [2]any{key, float64(r.Port())})
		case svcb.KeyDoHPath:
			out = append(out, [2]any{key, r.DoHPath()})
		default:
			out = append(out, [2]any{key, hexOf(p.Value)})
		}
	}
	return out
}

func (v vector) encode(t *testing.T, list []Instance, lifetime time.Duration) (b []byte) {
	t.Helper()
	var err error
	for _, in := range list {
		switch v.Option {
		case "dhcpv4":
			b, err = in.AppendDHCPv4(b)
		case "dhcpv6":
			b, err = in.AppendDHCPv6(b)
		default:
			b, err = in.AppendRA(b, lifetime)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestVectorsLenient(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			var got [][]string
			for _, i := range v.inspect(t) {
				codes := []string{}
				for _, f := range i.Findings {
					codes = append(codes, f.Code)
				}
				got = append(got, codes)
			}
			if diff := cmp.Diff(v.Findings, got); diff != "" {
				t.Errorf("findings: -want +got:\n%s(%s)", diff, v.Why)
			}
		})
	}
}

// TestDraftName is the name of draft-ietf-add-dnr-15, Figure 2, whose text says Option-length 18 where ADN Length + 4
// is 22. We follow the layout of RFC 9463, Section 4.1.
func TestDraftName(t *testing.T) {
	name := unhex(t, "04646f6831076578616d706c6503636f6d00")
	in, err := DecodeDHCPv6(append([]byte{0, 1, 0, byte(len(name))}, name...))
	if err != nil || in.ADN != "doh1.example.com." || len(name)+4 != 22 {
		t.Errorf("got %q, %v with an option of %d octets; want doh1.example.com. with 22", in.ADN, err, len(name)+4)
	}
}
