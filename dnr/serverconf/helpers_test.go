package serverconf

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

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

// adnHex is dns.example in wire form.
const adnHex = "03646e73076578616d706c6500"
