package svcb

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// vector is one entry of testdata/svcb.json: RFC 9460, Appendix D, and records that were seen in the field.
type vector struct {
	Name, Form, Hex, Error, Text, Note, Source string
}

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/svcb.json")
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	return vs
}

func (v vector) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// namedErrors are all errors that parsing can end with.
func namedErrors() map[string]error {
	return map[string]error{
		"": nil, "ErrTruncated": errTruncated, "ErrTargetName": ErrTargetName, "ErrTargetCompressed": errTargetCompressed,
		"ErrKeyOrder": errKeyOrder, "ErrKeyInvalid": errKeyInvalid, "ErrMandatory": errMandatory,
		"ErrMandatoryAbsent": errMandatoryAbsent, "ErrALPN": ErrALPN, "ErrNoDefaultALPN": errNoDefaultALPN,
		"ErrPort": errPort, "ErrIPv4Hint": ErrIPv4Hint, "ErrIPv6Hint": ErrIPv6Hint, "ErrDoHPath": errDoHPath,
		"ErrNotEmpty": errNotEmpty,
	}
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			want, ok := namedErrors()[v.Error]
			if !ok {
				t.Fatalf("vector names the unknown error %q", v.Error)
			}
			_, err := Parse(v.bytes(t))
			if v.Form == "params" {
				_, err = ParseParams(v.bytes(t))
			}
			if !errors.Is(err, want) {
				t.Errorf("got error %v; want %v (%s)", err, want, v.Note)
			}
		})
	}
}

// TestPresentation compares with what miekg/dns makes of the text form of the same record.
func TestPresentation(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Text == "" || v.Error != "" || strings.HasSuffix(v.Text, "pvd") { // pvd has no text form there
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			rr, err := dns.NewRR("x. SVCB " + v.Text)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(rdata(t, rr))
			if err != nil {
				t.Fatal(err)
			}
			want, _ := Parse(v.bytes(t))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// rdata returns the wire form of the data of rr.
func rdata(t testing.TB, rr dns.RR) []byte {
	t.Helper()
	buf := make([]byte, dns.Len(rr)+512)
	n, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	head, err := dns.PackDomainName(rr.Header().Name, make([]byte, 255), 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return buf[head+10 : n]
}

func TestRecordAccessors(t *testing.T) {
	rr, err := dns.NewRR(`x. SVCB 3 dns.example. mandatory=alpn,port alpn=h2,h3 port=8443 dohpath="/q{?dns}" key65280="\001"`)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(rdata(t, rr))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"h2", "h3"}, r.ALPN()); diff != "" {
		t.Errorf("alpn: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]uint16{1, 3}, r.Mandatory()); diff != "" {
		t.Errorf("mandatory: -want +got:\n%s", diff)
	}
	if r.Port() != 8443 || r.DoHPath() != "/q{?dns}" || r.Target != "dns.example." || r.Priority != 3 {
		t.Errorf("got %+v", r)
	}
	empty := Record{Priority: 1, Target: "x."}
	if empty.ALPN() != nil || empty.Port() != 0 || empty.DoHPath() != "" || len(empty.Mandatory()) != 0 {
		t.Errorf("got values from a record without parameters: %+v", empty)
	}
}

func TestCheckDNS(t *testing.T) {
	for name, row := range map[string]struct {
		text string
		want error
	}{
		"dot":                     {`1 dns.example. alpn=dot`, nil},
		"doh":                     {`1 dns.example. alpn=h2 dohpath="/dns-query{?dns}"`, nil},
		"known-keys-mandatory":    {`1 dns.example. mandatory=alpn,port alpn=dot port=853`, nil},
		"optional-private-key":    {`1 dns.example. alpn=dot key65280=x`, nil},
		"alias":                   {`0 dns.example.`, errAliasMode},
		"target-owner":            {`1 . alpn=dot`, errBadTarget},
		"target-arpa":             {`1 Resolver.ARPA. alpn=dot`, errBadTarget},
		"no-alpn":                 {`1 dns.example. port=853`, errNoALPN},
		"mandatory-private-key":   {`100 dns.example. mandatory=key65280 key65280=x`, errMandatoryKey},
		"doh-without-dohpath":     {`1 dns.example. alpn=h3`, errDoHPathMissing},
		"http1-without-dohpath":   {`1 dns.example. alpn="http/1.1"`, errDoHPathMissing},
		"dot-and-doh-one-dohpath": {`1 dns.example. alpn=dot,h2 dohpath="/dns-query{?dns}"`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			rr, err := dns.NewRR("x. SVCB " + row.text)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Parse(rdata(t, rr))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.CheckDNS(); !errors.Is(err, row.want) {
				t.Errorf("got %v; want %v", err, row.want)
			}
		})
	}
}

func TestExpandDoHPath(t *testing.T) {
	for template, want := range map[string][2]string{ // for GET with AAEC, for POST
		"/dns-query{?dns}":         {"/dns-query?dns=AAEC", "/dns-query"},
		"/dns-query{?x,dns}":       {"/dns-query?dns=AAEC", "/dns-query"},
		"/q?x=1{&dns}":             {"/q?x=1&dns=AAEC", "/q?x=1"},
		"/q?dns={dns}":             {"/q?dns=AAEC", "/q?dns="},
		"/q{/dns}":                 {"/q/AAEC", "/q"},
		"/q{;dns*}":                {"/q;dns=AAEC", "/q"},
		"/q{+dns}":                 {"/qAAEC", "/q"},
		"/{user}/q{?dns}":          {"", ""}, // "//q" would name a host
		"/q/{user}/x{?dns}":        {"/q//x?dns=AAEC", "/q//x"},
		"/naïve{?dns}":             {"/na%C3%AFve?dns=AAEC", "/na%C3%AFve"},
		"/with space{?dns}":        {"/with%20space?dns=AAEC", "/with%20space"},
		"":                         {"", ""},
		"/dns-query":               {"", ""},
		"/dns-query{?name}":        {"", ""},
		"/dns-query{?dns":          {"", ""},
		"/dns-query{}{?dns}":       {"", ""},
		"/dns-query}{?dns}":        {"", ""},
		"dns-query{?dns}":          {"", ""},
		"{/dns}":                   {"", ""},
		"//evil.example{?dns}":     {"", ""},
		"https://x.example/{?dns}": {"", ""},
		"/q#{dns}":                 {"", ""},
		"/q{#dns}":                 {"", ""},
	} {
		get, err := ExpandDoHPath(template, "AAEC")
		if get != want[0] || (err == nil) != (want[0] != "") {
			t.Errorf("%q for GET: got %q, %v; want %q", template, get, err, want[0])
		}
		if post, _ := ExpandDoHPath(template, ""); post != want[1] {
			t.Errorf("%q for POST: got %q; want %q", template, post, want[1])
		}
	}
}

// FuzzParse checks that what passes survives the way back to the wire, and that we are at least as strict as
// miekg/dns, which is a partial oracle only: it takes much that RFC 9460 forbids.
func FuzzParse(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.bytes(f))
	}
	f.Add([]byte("\x00\x01\x01\\\x01\x00\x00\x00\x05\x00\x01\x2e")) // odd octets in labels and values
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		back, err := r.Append(nil)
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("got %x, %v on the way back; want %x", back, err, b)
		}
		if r.Priority == 0 {
			return // miekg/dns looks into parameters that have no meaning
		}
		if len(b) > 0xffff {
			return
		}
		full := append([]byte{0, 0, 64, 0, 1, 0, 0, 0, 0, byte(len(b) >> 8), byte(len(b))}, b...)
		rr, _, err := dns.UnpackRR(full, 0)
		if err != nil {
			t.Fatalf("accepted %x, which the oracle refuses: %v", b, err)
		}
		svcb := rr.(*dns.SVCB)
		if svcb.Target != r.Target || len(svcb.Value) != len(r.Params) || svcb.Priority != r.Priority {
			t.Fatalf("got %+v; the oracle has %v", r, svcb)
		}
		r.CheckDNS()
	})
}

func FuzzExpandDoHPath(f *testing.F) {
	f.Add("/dns-query{?dns}")
	f.Add("/q?x=1{&a,dns*}")
	f.Add("/{+dns}")
	f.Fuzz(func(t *testing.T, template string) {
		path, err := ExpandDoHPath(template, "AAEC")
		if err != nil {
			return
		}
		if path[0] != '/' || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Errorf("%q became %q, which is not a :path", template, path)
		}
	})
}
