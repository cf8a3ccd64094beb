package dnstest

import (
	"embed"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

//go:embed testdata/malformed/*.hex
var malformed embed.FS

// MalformedQuery is a query that is not as it should be, or only just is.
type MalformedQuery struct {
	Name string
	Want string // what becomes of it: an RCODE, "dropped", or "pending" if nothing is wrong with it
	Msg  []byte
}

// Malformed returns the queries of testdata/malformed. The first line of each file says what is wrong.
func Malformed(t testing.TB) (list []MalformedQuery) {
	t.Helper()
	paths, err := fs.Glob(malformed, "testdata/malformed/*.hex")
	if err != nil || len(paths) == 0 {
		t.Fatalf("got %d cases, %v", len(paths), err)
	}
	for _, p := range paths {
		b, err := malformed.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		head, body, _ := strings.Cut(string(b), "\n")
		msg, err := hex.DecodeString(strings.Join(strings.Fields(body), ""))
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		want, _, _ := strings.Cut(strings.TrimPrefix(head, "# "), ":")
		list = append(list, MalformedQuery{strings.TrimSuffix(path.Base(p), ".hex"), want, msg})
	}
	return list
}

// maxGrowth is what a response without records is longer than its query at most: an OPT record with an Extended DNS
// Error.
const maxGrowth = 11 + 6

// Rcode returns the name of the RCODE of response after checking that it is one to query.
func Rcode(t *testing.T, query, response []byte) string {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(response); err != nil {
		t.Fatalf("response %x: %v", response, err)
	}
	if !m.Response || m.Id != binary.BigEndian.Uint16(query) || m.Opcode != int(query[2]>>3&0xf) {
		t.Errorf("got a header of\n%v", &m)
	}
	if len(response) > len(query)+maxGrowth {
		t.Errorf("got a response of %d octets to %d", len(response), len(query))
	}
	if opt := m.IsEdns0(); opt != nil && opt.Version() != 0 {
		t.Errorf("got EDNS version %d; want 0", opt.Version())
	}
	if m.Rcode == dns.RcodeBadVers {
		return "BADVERS" // which miekg/dns calls by its other name
	}
	return dns.RcodeToString[m.Rcode]
}
