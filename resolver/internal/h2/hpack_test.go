package h2

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// What is encoded is what golang.org/x/net/http2/hpack decodes, also names that are not in the static table and values
// of which Huffman coding is longer, and nothing enters the dynamic table.
func TestFields(t *testing.T) {
	want := []hpack.HeaderField{
		{Name: "content-type", Value: "text/plain"},
		{Name: "alt-svc", Value: `h3=":443"; ma=86400`},
		{Name: "x-empty"},
		{Name: "allow", Value: strings.Repeat("~", 300)},
		{Name: "cache-control", Value: strings.Repeat("a", 300)},
	}
	var w Response
	for _, f := range want {
		w.Add(EncodeField(strings.ToUpper(f.Name), f.Value))
	}
	w.AddUint(EncodeName("Cache-Control"), "private, max-age=", 4294967295)
	w.AddUint(EncodeName("X-Number"), "", 0)
	want = append(want,
		hpack.HeaderField{Name: "cache-control", Value: "private, max-age=4294967295"},
		hpack.HeaderField{Name: "x-number", Value: "0"})
	got, err := hpack.NewDecoder(0, nil).DecodeFull(w.fields)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

// The static table has the names that are taken from it.
func TestStaticNames(t *testing.T) {
	for name := range staticNames {
		got, err := hpack.NewDecoder(0, nil).DecodeFull(EncodeField(name, ""))
		if err != nil || len(got) != 1 || got[0].Name != name {
			t.Errorf("got %v, %v; want %s", got, err, name)
		}
	}
}

func TestValidField(t *testing.T) {
	for _, test := range []struct {
		name, value string
		want        bool
	}{
		{"Content-Type", "text/plain", true},
		{"Connection", "close", false},
		{"Content-Length", "1", false},
		{"a b", "", false},
		{"x", "a\nb", false},
		{"x", " a", false},
		{"x", "a\t", false},
		{"x", "a b", true},
		{"", "x", false},
	} {
		if got := ValidField(test.name, test.value); got != test.want {
			t.Errorf("%q: %q: got %t; want %t", test.name, test.value, got, test.want)
		}
	}
}
