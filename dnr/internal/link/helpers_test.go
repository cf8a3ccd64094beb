package link

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

var (
	testRouter = netip.MustParseAddr("fe80::1")
	testServer = netip.MustParseAddr("192.0.2.1")
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
