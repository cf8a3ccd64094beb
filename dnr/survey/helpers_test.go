package survey

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/dnr"
)

// unhex decodes hexadecimal digits with blanks between them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// adnHex is dns.example in wire form.
const adnHex = "03646e73076578616d706c6500"

// codes lists severities and codes.
func codes(list dnr.Findings) string {
	words := make([]string, len(list))
	for i, f := range list {
		words[i] = f.Severity.String() + ":" + f.Code
	}
	return strings.Join(words, " ")
}

// vectorOctets returns the octets of the vectors of package dnr, as seeds.
func vectorOctets(t testing.TB) (list [][]byte) {
	t.Helper()
	b, err := os.ReadFile("../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ Hex string }
	if err := json.Unmarshal(b, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("got %d vectors, %v; want some", len(vectors), err)
	}
	for _, v := range vectors {
		list = append(list, unhex(t, v.Hex))
	}
	return list
}

// checkInspection wants of every instance, right or wrong, that what is said about it is consistent. size is that of
// the option.
func checkInspection(t *testing.T, i dnr.Inspection, size int) {
	t.Helper()
	for _, f := range i.Findings {
		if f.Code == "" || f.Text == "" || f.Offset < 0 || f.Offset > size || (f.Severity == dnr.Error) != (f.Err != nil) {
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
