package resolver

import (
	"net/netip"
	"testing"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

var (
	testClient = netip.MustParseAddrPort("192.0.2.7:40000")
	testLocal  = netip.MustParseAddrPort("192.0.2.53:53")
)

func TestMalformed(t *testing.T) {
	h := testHandler(t, Config{})
	for _, c := range dnstest.Malformed(t) {
		t.Run(c.Name, func(t *testing.T) {
			q := &query{msg: c.Msg, client: testClient, local: testLocal, transport: TCP}
			out, result := h.answerNow(q, nil)
			got := [...]string{answered: "answered", pending: "pending", dropped: "dropped"}[result]
			if result == answered {
				got = dnstest.Rcode(t, c.Msg, out)
			} else if len(out) != 0 {
				t.Errorf("got a reply of %d octets; want none", len(out))
			}
			if got != c.Want {
				t.Errorf("got %s; want %s", got, c.Want)
			}
		})
	}
}

// Counts that lie, names without end: nothing of that is believed before it is refused.
func TestMalformedDoesNotAllocate(t *testing.T) {
	h := testHandler(t, Config{})
	dst := make([]byte, 0, 4096)
	for _, c := range dnstest.Malformed(t) {
		q := &query{msg: c.Msg, client: testClient, local: testLocal, transport: DoQ}
		want := 0.0
		if c.Want == "pending" {
			want = 1 // of the decision
		}
		if got := testing.AllocsPerRun(10, func() { h.answerNow(q, dst) }); got != want {
			t.Errorf("%s: got %v allocations; want %v", c.Name, got, want)
		}
	}
}
