package resolver

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// TestNAT64Discovery: what the upstreams use as a prefix is found out, follows them when it changes, and is forgotten when
// nobody wants it any more.
func TestNAT64Discovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := dnstest.World{
			"ipv4only.arpa. 300 AAAA 2001:db8:64::192.0.0.170", "ipv4only.arpa. 300 AAAA 2001:db8:64::192.0.0.171",
			"www.cdn.example. 3600 AAAA 2001:db8:64::192.0.2.1", "www.cdn.example. 3600 AAAA 2001:db8:46::192.0.2.1",
		}
		var known atomic.Pointer[dnstest.World]
		known.Store(&first)
		up := &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
			return known.Load().Response(m.Question[0].Name, m.Question[0].Qtype), nil
		}}
		st := &Steering{Policy: dnstest.Rules("192.0.2.0/24"), Relay: new(dnstest.Relay), Clients: everybody, NAT64Discovery: true}
		h := testHandler(t, Config{Settings: Settings{Steering: st}}, up)
		const question = "www.cdn.example. AAAA"
		check := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := addressesFor(t, h, question, nil); got != want {
				t.Errorf("got %s; want %s", got, want)
			}
		}
		check("NOERROR 2001:db8:64::c000:201 2001:db8:46::c000:201")
		h.start()
		check("NOERROR 2001:db8:5ea1::1 2001:db8:46::c000:201")
		known.Store(&dnstest.World{"ipv4only.arpa. 300 AAAA 2001:db8:46::192.0.0.170", first[2], first[3]})
		time.Sleep(301 * time.Second)
		check("NOERROR 2001:db8:64::c000:201 2001:db8:5ea1::1")
		st.NAT64Discovery = false
		set := Settings{Clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Steering: st}
		set.Upstreams = []Upstream{{Addr: netip.AddrPortFrom(testLocal.Addr(), 1), Exchanger: up}}
		if err := h.update(set); err != nil {
			t.Fatal(err)
		}
		check("NOERROR 2001:db8:64::c000:201 2001:db8:46::c000:201")
	})
}
