package resolver

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// limited starts a server on which clients have little: a handshake, and some answers at hand.
func limited(t *testing.T, rate int) *testServer {
	t.Helper()
	l := Limits{Rate: rate}
	h := testHandler(t, Config{Limits: l, Settings: Settings{
		Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Local: []Local{localNames("now.example.")},
	}}, dnstest.Records("www.example. 300 IN A 198.51.100.1"))
	return startBackend(t, h, func(c *Config) { c.Limits = l })
}

// A client that has spent its budget is refused where nobody else can have asked, and told why.
func TestBudgetProven(t *testing.T) {
	overConnections(t, func(t *testing.T, tr transport) {
		s := limited(t, 300) // 300 at once
		ask := tr.dial(t, s)
		msg := dnstest.Pack(t, dnstest.Query("now.example.", dns.TypeTXT).SetEdns0(1232, false))
		for n := range 2000 {
			got, err := ask(t.Context(), msg)
			var m dns.Msg
			if err = errors.Join(err, m.Unpack(got)); err != nil {
				t.Fatalf("query %d: %v", n, err)
			}
			if m.Rcode == dns.RcodeSuccess {
				continue
			}
			opt := m.IsEdns0()
			if m.Rcode != dns.RcodeRefused || opt == nil || len(opt.Option) == 0 || opt.Option[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeNotReady {
				t.Errorf("got\n%v\nwant REFUSED and EDE 14", &m)
			}
			if s.Stats().Limited == 0 {
				t.Error("it is not counted")
			}
			return
		}
		t.Error("got 2000 answers; want some refused")
	})
}

// Over UDP a client that has spent its budget gets truncated answers, no longer than its queries, or none. It can still
// ask over TCP, and others over everything.
func TestBudgetUDP(t *testing.T) {
	s := limited(t, 300)
	c, err := net.Dial("udp", s.Addrs().Do53[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	msg := dnstest.Pack(t, dnstest.Query("now.example.", dns.TypeTXT).SetEdns0(1232, false))
	buf := make([]byte, 4096)
	truncated := 0
	for n := 0; truncated == 0 || s.Stats().Limited < 20; n++ {
		if n == 5000 {
			t.Fatal("got 5000 answers; want some truncated")
		}
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // some are dropped
		got, err := c.Read(buf)
		if err != nil {
			continue
		}
		var m dns.Msg
		if err := m.Unpack(buf[:got]); err != nil {
			t.Fatal(err)
		}
		if m.Truncated {
			truncated++
		}
		if m.Rcode != dns.RcodeSuccess || m.Truncated != (len(m.Answer) == 0) || m.Truncated && got > len(msg) {
			t.Fatalf("got %d octets for %d:\n%v\nwant an answer or a truncated one that is no longer", got, len(msg), &m)
		}
	}
	var m dns.Msg
	got, err := dialTCP(t, s)(t.Context(), msg)
	if err = errors.Join(err, m.Unpack(got)); err != nil || m.Rcode != dns.RcodeSuccess {
		t.Errorf("over TCP: got %v, %v; want an answer", &m, err)
	}
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 9, 0, 1)}}
	other, err := d.DialContext(t.Context(), "udp", s.Addrs().Do53[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Write(msg); err != nil {
		t.Fatal(err)
	}
	other.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := other.Read(buf)
	if err = errors.Join(err, m.Unpack(buf[:n])); err != nil || m.Truncated {
		t.Errorf("another client: got %v, %v; want an answer", &m, err)
	}
}

// Handshakes cost more than questions. QUIC clients have to prove their address before they are refused.
func TestBudgetHandshakes(t *testing.T) {
	for _, tr := range []Transport{DoT, DoH, DoQ, DoH3} {
		t.Run(tr.String(), func(t *testing.T) {
			s := limited(t, 300)
			if tr == DoT || tr == DoH {
				idle(t, s, tr, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, 1)
			} else {
				idle(t, s, tr, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, 2) // without proof, and with it
			}
			eventually(t, "it is counted", func() bool { return s.Stats().Connections[tr] > 0 })
			tryRefused(t, s, transport{is: tr})
		})
	}
}

// What a client may cost, at the rate of 1000 a second, all of it at once.
func TestBudgets(t *testing.T) {
	l := Limits{
		Rate: 1000, Shared: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, SharedBy: 3,
		Prefixes: []PrefixLimit{{IPv6: 56, Rate: 2000}, {IPv4: 24, IPv6: 48, Rate: 3000}},
	}.withDefaults()
	b := newBudgets(&l)
	spent := func(now int64, cost int64, addrs ...string) (n int64) {
		for n < 100000 && b.spend(netip.MustParseAddr(addrs[n%int64(len(addrs))]), unproven, cost, now) {
			n++
		}
		return n * cost
	}
	for _, row := range []struct {
		name  string
		at    time.Duration
		addrs []string
		want  int64
	}{
		{"client", 0, []string{"192.0.2.1"}, 1000},
		{"client-spent", 0, []string{"192.0.2.1"}, 0},
		{"client-later", time.Second, []string{"192.0.2.1"}, 1000},
		{"client-much-later", time.Hour, []string{"192.0.2.1"}, 1000},
		{"another", time.Hour, []string{"192.0.2.2"}, 1000},
		{"prefix", time.Hour, []string{"192.0.2.3", "192.0.2.4"}, 1000},
		{"shared", time.Hour, []string{"198.51.100.7"}, 3000},
		{"v6-client", 0, []string{"2001:db8::1"}, 1000},
		{"v6-56", 0, []string{"2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1"}, 1000},
		{"v6-48", 0, []string{"2001:db8:0:101::1", "2001:db8:0:201::1"}, 1000},
		{"v6-other-48", 0, []string{"2001:db8:1::1"}, 1000},
	} {
		// Costs other than that of a hit are charged to all prefixes at once.
		if got := spent(int64(row.at), 100, row.addrs...); got != row.want {
			t.Errorf("%s: got %d; want %d", row.name, got, row.want)
		}
	}
	// Those of hits are charged to wide prefixes by samples, so that their sum is right to within some.
	if got := spent(0, costHit, "203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5"); got < 2400 || got > 3600 {
		t.Errorf("hits of a prefix: got %d; want about 3000", got)
	}
	if off := (Limits{Rate: -1}).withDefaults(); newBudgets(&off) != nil {
		t.Error("a negative rate: got budgets; want none")
	}
}

// However many prefixes somebody asks from, the table stays as it is, others keep what they have, and all of his prefixes
// together are bounded by the one that they are in.
func TestBudgetsFlood(t *testing.T) {
	l := Limits{Rate: 1000}.withDefaults()
	b := newBudgets(&l)
	spender := netip.MustParseAddr("192.0.2.1")
	for b.spend(spender, proven, costMiss, 0) {
	}
	a, admitted := netip.MustParseAddr("2001:db8:1::1").As16(), 0
	for n := range 1 << 18 {
		a[5], a[6], a[7] = byte(n>>16)&3, byte(n>>8), byte(n) // of four /48
		if b.spend(netip.AddrFrom16(a), proven, costMiss, 0) {
			admitted++
		}
	}
	if most := 4 * perNetworks * 1000 / costMiss; admitted > most {
		t.Errorf("got %d misses of four /48; want %d at most", admitted, most)
	}
	if b.spend(spender, proven, costMiss, 0) {
		t.Error("a flood has given a client back what it had spent")
	}
	if !b.spend(netip.MustParseAddr("203.0.113.1"), proven, costMiss, 0) {
		t.Error("a flood has spent what others have")
	}
	hits := 0
	for n := range 1 << 18 {
		a[7] = byte(n)
		if b.spend(netip.AddrFrom16(a), proven, costHit, 0) {
			hits++
		}
	}
	if hits > 1<<13 {
		t.Errorf("got %d hits of 256 prefixes of a /48 that has spent its budget; want some before each is noticed", hits)
	}
	if n := testing.AllocsPerRun(100, func() { b.spend(spender, unproven, costHit, 0) }); n != 0 {
		t.Errorf("got %v allocations; want none", n)
	}
}

// BenchmarkBudget measures an answer from the cache with and without budgets.
func BenchmarkBudget(b *testing.B) {
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		for name, rate := range map[string]int{"off": -1, "on": 1 << 30} {
			b.Run(addr+"/"+name, func(b *testing.B) {
				client := netip.AddrPortFrom(netip.MustParseAddr(addr), 53)
				h := testHandler(b, Config{Limits: Limits{Rate: rate}, Settings: Settings{
					Clients: []netip.Prefix{netip.PrefixFrom(client.Addr(), 32)},
				}}, dnstest.Records("www.example. 300 IN A 198.51.100.1"))
				q := &query{msg: dnstest.Pack(b, dnstest.Query("www.example.", dns.TypeA)), client: client}
				h.answerNow(q, nil)
				h.answer(b.Context(), q, nil)
				var dst []byte
				for b.Loop() {
					var did outcome
					if dst, did = h.answerNow(q, dst[:0]); did != answered {
						b.Fatal("not answered from the cache")
					}
				}
			})
		}
	}
}
