package e2e

import (
	"strings"
	"testing"
)

// TestLabWithoutCfrd holds the lab to what the other tests take for granted: without cfrd the origin does see the
// customer, so that "it does not" can fail.
func TestLabWithoutCfrd(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.serveZones(ca)
	l.serveHTTPS(ca)
	dump := l.startCapture()

	got := l.customer.must("curl", "-sf", "--cacert", ca.file, "--resolve", "direct.example:443:"+origin4, "https://direct.example/")
	if got != page {
		t.Errorf("got page %q; want %q", got, page)
	}
	for _, a := range l.originClients("direct.example") {
		if a.String() != customer4 {
			t.Errorf("the origin saw %v; want the customer, %s", a, customer4)
		}
	}
	if n := dump.count(ofCustomer); n == 0 {
		t.Errorf("got no packet of %s on the internet's link; want some", customer4)
	}
	if out := l.internet.must("dig", "@"+unbound4, "bogus.example", "A"); !strings.Contains(out, "SERVFAIL") {
		t.Errorf("got for a bogus record:\n%s\nwant SERVFAIL", out)
	}
}
