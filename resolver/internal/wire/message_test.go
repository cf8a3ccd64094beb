package wire

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// TestMessageRoundTrip: what is not changed comes out as it went in, and no longer than the library writes it.
func TestMessageRoundTrip(t *testing.T) {
	for _, compress := range []bool{false, true} {
		in := dnstest.Everything()
		in.Compress = compress
		wire := dnstest.Pack(t, in)
		m, err := ParseMessage(wire)
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(dnstest.Unpack(t, wire).String(), dnstest.Unpack(t, out).String()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		in.Compress = true
		if want := len(dnstest.Pack(t, in)); len(out) > want+40 { // the library compresses names in more types
			t.Errorf("got %d octets; want about %d", len(out), want)
		}
	}
}
