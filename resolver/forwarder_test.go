package resolver

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/upstream"
)

// testHandler returns a handler for clients in 192.0.2.0/24 that asks these upstreams.
func testHandler(t testing.TB, cfg Config, upstreams ...upstream.Exchanger) *forwarder {
	t.Helper()
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 1 << 20
	}
	if cfg.Settings.Clients == nil {
		cfg.Settings.Clients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	}
	for i, x := range upstreams {
		u := Upstream{Addr: netip.AddrPortFrom(testLocal.Addr(), uint16(i+1)), Exchanger: x}
		cfg.Settings.Upstreams = append(cfg.Settings.Upstreams, u)
	}
	h, err := newForwarder(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}

// ask sends m and returns the reply and how it came about.
func ask(t testing.TB, h *forwarder, m *dns.Msg, tr Transport) (*dns.Msg, outcome) {
	t.Helper()
	q := &query{msg: dnstest.Pack(t, m), client: testClient, local: testLocal, transport: tr}
	out, result := h.answerNow(q, nil)
	if result == pending {
		out = h.answer(t.Context(), q, nil)
	}
	var r dns.Msg
	if err := r.Unpack(out); err != nil {
		t.Fatalf("reply to %v: %v", m.Question, err)
	}
	if r.Id != m.Id || !r.Response || !slices.Equal(r.Question, m.Question) {
		t.Errorf("got a reply to %d %v; want one to %d %v", r.Id, r.Question, m.Id, m.Question)
	}
	return &r, result
}

func TestCachedReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := dnstest.Records("www.example. 300 IN A 198.51.100.1")
		h := testHandler(t, Config{}, up)
		if _, how := ask(t, h, dnstest.Query("www.example.", dns.TypeA), UDP); how != pending {
			t.Errorf("first: got outcome %d; want pending", how)
		}
		time.Sleep(100*time.Second + time.Millisecond)
		m := dnstest.Query("wWw.ExAmPlE.", dns.TypeA)
		m.CheckingDisabled, m.RecursionDesired = false, true
		r, how := ask(t, h, m, UDP)
		if how != answered || len(r.Answer) != 1 || r.Answer[0].Header().Ttl != 200 {
			t.Fatalf("got outcome %d,\n%v\nwant a cached answer with TTL 200", how, r)
		}
		if r.Authoritative || !r.RecursionAvailable || !r.RecursionDesired || r.IsEdns0() != nil {
			t.Errorf("got flags of\n%v", r)
		}
		time.Sleep(200 * time.Second)
		if r, how = ask(t, h, m, UDP); how != pending || r.Answer[0].Header().Ttl != 300 {
			t.Errorf("after 300 s: got outcome %d,\n%v\nwant it asked anew", how, r)
		}
		if got := up.Asked.Load(); got != 2 {
			t.Errorf("got %d queries upstream; want 2", got)
		}
	})
}

func TestNegativeTTL(t *testing.T) {
	for name, row := range map[string]struct {
		soa    string
		rcode  int
		cached bool
		ttl    uint32
	}{
		"minimum-below-ttl":  {"example. 300 IN SOA ns.example. root.example. 1 2 3 4 60", dns.RcodeNameError, true, 60},
		"ttl-below-minimum":  {"example. 30 IN SOA ns.example. root.example. 1 2 3 4 60", dns.RcodeSuccess, true, 30},
		"more-than-we-keep":  {"example. 90000 IN SOA ns.example. root.example. 1 2 3 4 90000", dns.RcodeSuccess, true, 3600},
		"no-soa":             {"", dns.RcodeNameError, false, 0},
		"no-soa-and-no-data": {"", dns.RcodeSuccess, false, 0},
		"minimum-0":          {"example. 300 IN SOA ns.example. root.example. 1 2 3 4 0", dns.RcodeNameError, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := testHandler(t, Config{}, &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
				r := new(dns.Msg).SetRcode(m, row.rcode)
				if row.soa != "" {
					r.Ns = []dns.RR{dnstest.RR(row.soa)}
				}
				return r, nil
			}})
			r, _ := ask(t, h, dnstest.Query("no.example.", dns.TypeA), TCP)
			if row.soa != "" && r.Ns[0].Header().Ttl != row.ttl {
				t.Errorf("got TTL %d; want %d", r.Ns[0].Header().Ttl, row.ttl)
			}
			r, how := ask(t, h, dnstest.Query("no.example.", dns.TypeA), TCP)
			if (how == answered) != row.cached || r.Rcode != row.rcode {
				t.Errorf("got outcome %d, RCODE %d; want cached %t, RCODE %d", how, r.Rcode, row.cached, row.rcode)
			}
		})
	}
}

// TestTTLBounds holds the TTLs that clients get, and for how long an answer is kept, to the settings.
func TestTTLBounds(t *testing.T) {
	const soa = "example. 90000 IN SOA ns.example. root.example. 1 2 3 4 90000"
	address := func(ttl string) string { return "www.example. " + ttl + " IN A 198.51.100.1" }
	for name, row := range map[string]struct {
		ttls    TTLs
		records []string
		qtype   uint16
		want    uint32 // 0 if it is not kept
	}{
		"default":             {TTLs{}, []string{address("90000")}, dns.TypeA, 86400},
		"default-negative":    {TTLs{}, []string{soa}, dns.TypeA, 3600},
		"max":                 {TTLs{Max: time.Minute}, []string{address("90000")}, dns.TypeA, 60},
		"max-negative":        {TTLs{MaxNegative: 30 * time.Second}, []string{soa}, dns.TypeA, 30},
		"max-holds-negative":  {TTLs{Max: time.Minute}, []string{soa}, dns.TypeA, 60},
		"max-negative-alone":  {TTLs{MaxNegative: time.Minute}, []string{address("300")}, dns.TypeA, 300},
		"negative-of-3-hours": {TTLs{MaxNegative: 3 * time.Hour}, []string{soa}, dns.TypeA, 10800},
		"min":                 {TTLs{Min: time.Minute}, []string{address("5")}, dns.TypeA, 60},
		"min-of-0":            {TTLs{Min: time.Minute}, []string{address("0")}, dns.TypeA, 60},
		"no-min-of-0":         {TTLs{}, []string{address("0")}, dns.TypeA, 0},
		"min-below":           {TTLs{Min: time.Minute}, []string{address("300")}, dns.TypeA, 300},
		"min-negative":        {TTLs{Min: time.Minute}, []string{"example. 9 IN SOA ns.example. root.example. 1 2 3 4 5"}, dns.TypeA, 60},
		"min-above-negative": {
			TTLs{Min: time.Minute, MaxNegative: 30 * time.Second}, []string{soa}, dns.TypeA, 30,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up := &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
					r := new(dns.Msg).SetReply(m)
					for _, record := range row.records {
						if rr := dnstest.RR(record); rr.Header().Rrtype == dns.TypeSOA {
							r.Ns = append(r.Ns, rr)
						} else {
							r.Answer = append(r.Answer, rr)
						}
					}
					return r, nil
				}}
				h := testHandler(t, Config{Settings: Settings{TTLs: row.ttls}}, up)
				r, _ := ask(t, h, dnstest.Query("www.example.", row.qtype), TCP)
				if rr := slices.Concat(r.Answer, r.Ns); len(rr) != 1 || rr[0].Header().Ttl != row.want {
					t.Errorf("got\n%v\nwant TTL %d", r, row.want)
				}
				if row.want > 0 {
					time.Sleep(time.Duration(row.want)*time.Second - time.Millisecond)
					if _, how := ask(t, h, dnstest.Query("www.example.", row.qtype), TCP); how != answered {
						t.Error("not kept until its TTL ends")
					}
					time.Sleep(time.Millisecond)
				}
				if _, how := ask(t, h, dnstest.Query("www.example.", row.qtype), TCP); how != pending {
					t.Error("kept for longer than its TTL")
				}
			})
		})
	}
}

// TestTTLBoundsOnUpdate lowers the bounds: what was kept for longer is asked for anew, and the rest is not.
func TestTTLBoundsOnUpdate(t *testing.T) {
	up := dnstest.Records("www.example. 3000 IN A 198.51.100.1")
	up2 := up.Serve
	up.Serve = func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
		r, err := up2(ctx, m)
		for _, rr := range r.Ns {
			rr.Header().Ttl, rr.(*dns.SOA).Minttl = 3000, 3000
		}
		return r, err
	}
	set := Settings{
		Clients:   []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Upstreams: []Upstream{{Addr: netip.MustParseAddrPort("192.0.2.53:53"), Exchanger: up}},
	}
	h := testHandler(t, Config{Settings: set})
	for _, row := range []struct {
		ttls  TTLs
		asked int64 // of both questions together, so far
	}{
		{TTLs{}, 2},
		{TTLs{MaxNegative: 2 * time.Hour}, 2},
		{TTLs{MaxNegative: time.Minute}, 3},
		{TTLs{MaxNegative: time.Minute}, 3},
		{TTLs{}, 3},
		{TTLs{Max: 30 * time.Second}, 5},
	} {
		set.TTLs = row.ttls
		if err := h.update(set); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for _, name := range []string{"www.example.", "no.example."} {
				r, _ := ask(t, h, dnstest.Query(name, dns.TypeA), UDP)
				bound := cmp.Or(row.ttls.MaxNegative, time.Hour)
				if name == "no.example." && time.Duration(r.Ns[0].Header().Ttl)*time.Second > bound {
					t.Errorf("%+v: got\n%v\nwant at most %s", row.ttls, r, bound)
				}
			}
		}
		if got := up.Asked.Load(); got != row.asked {
			t.Errorf("%+v: got %d queries; want %d", row.ttls, got, row.asked)
		}
	}
	set.TTLs = TTLs{Max: -1}
	if err := h.update(set); err == nil {
		t.Error("a negative bound is taken")
	}
}

func TestFailureIsCachedBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
			r := new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)
			opt := r.SetEdns0(1232, false).IsEdns0()
			opt.Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus, ExtraText: "no key"}}
			return r, nil
		}}
		h := testHandler(t, Config{}, up)
		m := dnstest.Query("bogus.example.", dns.TypeA)
		m.SetEdns0(1232, false)
		for range 3 {
			r, _ := ask(t, h, m, UDP)
			if r.Rcode != dns.RcodeServerFailure || edeIn(r) != int(dns.ExtendedErrorCodeDNSBogus) {
				t.Errorf("got\n%v\nwant SERVFAIL with the upstream's error", r)
			}
		}
		if got := up.Asked.Load(); got != 1 {
			t.Errorf("got %d queries upstream; want 1", got)
		}
		time.Sleep(wire.FailureTTL * time.Second)
		if _, how := ask(t, h, m, UDP); how != pending {
			t.Errorf("after %d s: got outcome %d; want pending", wire.FailureTTL, how)
		}
	})
}

// edeIn returns the info-code of the only Extended DNS Error of m, or -1.
func edeIn(m *dns.Msg) int {
	opt := m.IsEdns0()
	if opt == nil || len(opt.Option) == 0 {
		return -1
	}
	if e, ok := opt.Option[0].(*dns.EDNS0_EDE); ok {
		return int(e.InfoCode)
	}
	return -1
}

func TestUnanswered(t *testing.T) {
	for name, row := range map[string]struct {
		upstreams []upstream.Exchanger
		want      uint16
	}{
		"no-upstream": {nil, dns.ExtendedErrorCodeNoReachableAuthority},
		"silent": {[]upstream.Exchanger{&dnstest.Upstream{Serve: func(ctx context.Context, _ *dns.Msg) (*dns.Msg, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}}, dns.ExtendedErrorCodeNoReachableAuthority},
		"malformed": {[]upstream.Exchanger{&dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
			return new(dns.Msg).SetReply(dnstest.Query("other.example.", dns.TypeA)), nil
		}}}, dns.ExtendedErrorCodeInvalidData},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := testHandler(t, Config{}, row.upstreams...)
				r, _ := ask(t, h, dnstest.Query("www.example.", dns.TypeA).SetEdns0(1232, false), UDP)
				if r.Rcode != dns.RcodeServerFailure || edeIn(r) != int(row.want) {
					t.Errorf("got\n%v\nwant SERVFAIL with error %d", r, row.want)
				}
			})
		})
	}
}

func TestClientsAreCheckedBeforeTheCache(t *testing.T) {
	h := testHandler(t, Config{}, dnstest.Records("www.example. 300 IN A 198.51.100.1"))
	m := dnstest.Query("www.example.", dns.TypeA).SetEdns0(1232, false)
	ask(t, h, m, UDP)
	q := &query{msg: dnstest.Pack(t, m), client: netip.MustParseAddrPort("203.0.113.1:53"), local: testLocal}
	out, how := h.answerNow(q, nil)
	var r dns.Msg
	if err := r.Unpack(out); err != nil || how != answered || r.Rcode != dns.RcodeRefused || len(r.Answer) != 0 ||
		edeIn(&r) != int(dns.ExtendedErrorCodeProhibited) {
		t.Errorf("got outcome %d, %v,\n%v\nwant REFUSED", how, err, &r)
	}
}

func TestTheCacheIsNotForLookingAround(t *testing.T) {
	h := testHandler(t, Config{}, dnstest.Records("www.example. 300 IN A 198.51.100.1"))
	m := dnstest.Query("www.example.", dns.TypeA)
	ask(t, h, m, UDP)
	m.RecursionDesired = false
	if r, _ := ask(t, h, m, UDP); r.Rcode != dns.RcodeRefused || len(r.Answer) != 0 {
		t.Errorf("got\n%v\nwant REFUSED", r)
	}
}

// localNames answers TXT questions for one name with who asked where.
type localNames string

func (l localNames) Answer(q dns.Question, client, local netip.Addr) (*dns.Msg, bool) {
	if q.Name != string(l) {
		return nil, false
	}
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}}
	m.Answer = []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60},
		Txt: []string{client.String(), local.String()},
	}}
	m.Extra = []dns.RR{&dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}}
	return m, true
}

func TestLocalAnswers(t *testing.T) {
	up := dnstest.Records("here.example. 300 IN TXT upstream")
	h := testHandler(t, Config{Settings: Settings{Local: []Local{localNames("here.example.")}}}, up)
	m := dnstest.Query("HERE.example.", dns.TypeTXT)
	m.RecursionDesired = false
	r, how := ask(t, h, m, UDP)
	if how != answered || !r.Authoritative || len(r.Answer) != 1 || r.IsEdns0() != nil {
		t.Fatalf("got outcome %d,\n%v\nwant an authoritative answer at once", how, r)
	}
	if got, want := r.Answer[0].(*dns.TXT).Txt, []string{"192.0.2.7", "192.0.2.53"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	if got := up.Asked.Load(); got != 0 {
		t.Errorf("got %d queries upstream; want none", got)
	}
}

func TestNewLocalSourceHidesTheCache(t *testing.T) {
	h := testHandler(t, Config{}, dnstest.Records("here.example. 300 IN TXT upstream", "www.example. 300 IN A 198.51.100.1"))
	for _, m := range []*dns.Msg{dnstest.Query("here.example.", dns.TypeTXT), dnstest.Query("www.example.", dns.TypeA)} {
		ask(t, h, m, UDP)
		if _, how := ask(t, h, m, UDP); how != answered {
			t.Fatalf("got outcome %d; want a cached answer", how)
		}
	}
	if err := h.update(Settings{
		Clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Local:   []Local{localNames("here.example.")},
	}); err != nil {
		t.Fatal(err)
	}
	if r, _ := ask(t, h, dnstest.Query("here.example.", dns.TypeTXT), UDP); !r.Authoritative {
		t.Errorf("got\n%v\nwant the local answer", r)
	}
	for _, want := range []outcome{pending, answered} { // the first time local sources are asked, no upstream is left
		if r, how := ask(t, h, dnstest.Query("www.example.", dns.TypeA), UDP); how != want || len(r.Answer) != 1 {
			t.Errorf("got outcome %d,\n%v\nwant %d and the cached answer", how, r, want)
		}
	}
}

func TestUpdateKeepsOldSettingsOnError(t *testing.T) {
	h := testHandler(t, Config{}, dnstest.Records("www.example. 300 IN A 198.51.100.1"))
	addr := netip.MustParseAddrPort("192.0.2.1:53")
	for name, set := range map[string]Settings{
		"invalid-prefix":      {Clients: []netip.Prefix{{}}},
		"upstream-no-address": {Upstreams: []Upstream{{}}},
		"upstream-twice":      {Upstreams: []Upstream{{Addr: addr}, {Addr: addr}}},
		"upstream-protocol":   {Upstreams: []Upstream{{Addr: addr, Protocol: 9}}},
		"no-policy":           {Steering: &Steering{}},
	} {
		if err := h.update(set); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if r, _ := ask(t, h, dnstest.Query("www.example.", dns.TypeA), UDP); len(r.Answer) != 1 {
		t.Errorf("got\n%v\nwant an answer", r)
	}
}

func TestAnyIsMinimal(t *testing.T) {
	up := dnstest.Records("www.example. 300 IN A 198.51.100.1")
	h := testHandler(t, Config{}, up)
	r, _ := ask(t, h, dnstest.Query("www.example.", dns.TypeANY), UDP)
	if len(r.Answer) != 1 || r.Answer[0].String() != "www.example.\t3600\tIN\tHINFO\t\"RFC8482\" \"\"" || up.Asked.Load() != 0 {
		t.Errorf("got\n%v\nwant only HINFO, without an upstream", r)
	}
}

func TestAuthenticatedData(t *testing.T) {
	up := &dnstest.Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		if !m.AuthenticatedData {
			return nil, errors.New("AD was not asked for")
		}
		r := new(dns.Msg).SetReply(m)
		r.AuthenticatedData = true
		r.Answer = []dns.RR{dnstest.RR("www.example. 300 IN A 198.51.100.1")}
		return r, nil
	}}
	for from, upstream := range map[string]struct {
		Upstream
		trusted bool
	}{
		"udp":      {Upstream{Protocol: UpstreamUDP, Addr: netip.MustParseAddrPort("192.0.2.53:53")}, false},
		"udp6":     {Upstream{Protocol: UpstreamUDP, Addr: netip.MustParseAddrPort("[2001:db8::53]:53")}, false},
		"tls":      {Upstream{Protocol: UpstreamTLS, Addr: netip.MustParseAddrPort("192.0.2.53:853")}, true},
		"loopback": {Upstream{Protocol: UpstreamUDP, Addr: netip.MustParseAddrPort("127.0.0.53:53")}, true},
		"mapped":   {Upstream{Protocol: UpstreamUDP, Addr: netip.MustParseAddrPort("[::ffff:127.0.0.53]:53")}, true},
	} {
		upstream.Exchanger = up
		h := testHandler(t, Config{Settings: Settings{Upstreams: []Upstream{upstream.Upstream}}})
		for name, row := range map[string]struct{ ad, do, want bool }{
			"neither": {false, false, false}, "ad": {true, false, true}, "do": {false, true, true},
		} {
			m := dnstest.Query("www.example.", dns.TypeA).SetEdns0(1232, row.do)
			m.AuthenticatedData = row.ad
			if r, _ := ask(t, h, m, UDP); r.AuthenticatedData != (row.want && upstream.trusted) {
				t.Errorf("%s from %s: got AD %t; want %t", name, from, r.AuthenticatedData, row.want && upstream.trusted)
			}
		}
	}
}

func TestIdenticalQuestionsAreAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, release := dnstest.Records("www.example. 300 IN A 198.51.100.1"), make(chan struct{})
		up := &dnstest.Upstream{Serve: func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
			<-release
			return inner.Serve(ctx, m)
		}}
		h := testHandler(t, Config{}, up)
		done := make(chan *dns.Msg)
		for range 20 {
			go func() {
				r, _ := ask(t, h, dnstest.Query("www.example.", dns.TypeA), UDP)
				done <- r
			}()
		}
		synctest.Wait()
		close(release)
		for range 20 {
			if r := <-done; len(r.Answer) != 1 {
				t.Errorf("got\n%v\nwant an answer", r)
			}
		}
		if got := up.Asked.Load(); got != 1 {
			t.Errorf("got %d queries upstream; want 1", got)
		}
	})
}

func TestWorkEndsWithTheLastWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		h := testHandler(t, Config{}, &dnstest.Upstream{Serve: func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}})
		wait := func(ctx context.Context) {
			q := &query{msg: dnstest.Pack(t, dnstest.Query("www.example.", dns.TypeA)), client: testClient, local: testLocal}
			if _, how := h.answerNow(q, nil); how != pending {
				t.Errorf("got outcome %d; want pending", how)
			}
			h.answer(ctx, q, nil)
		}
		first, leave := context.WithCancel(t.Context())
		second, leaveToo := context.WithCancel(t.Context())
		go wait(first)
		go wait(second)
		synctest.Wait()
		leave()
		synctest.Wait()
		if len(ended) != 0 {
			t.Fatal("the work ended with the first of two")
		}
		leaveToo()
		synctest.Wait()
		if len(ended) != 1 {
			t.Error("the work goes on for nobody")
		}
		if _, entries, _ := h.cache.stats(); entries != 0 {
			t.Errorf("got %d cached replies; want none", entries)
		}
	})
}

func TestUpdateReusesUpstreams(t *testing.T) {
	h := testHandler(t, Config{})
	clients := []netip.Prefix{netip.PrefixFrom(testClient.Addr(), 32)}
	x := [2]*dnstest.Upstream{dnstest.Records(), dnstest.Records("www.example. 300 IN A 198.51.100.1")}
	a := Upstream{Addr: netip.MustParseAddrPort("192.0.2.1:53"), Exchanger: x[0]}
	b := Upstream{Addr: netip.MustParseAddrPort("192.0.2.2:53"), Exchanger: x[1]}
	if err := h.update(Settings{Clients: clients, Upstreams: []Upstream{b, a}}); err != nil {
		t.Fatal(err)
	}
	ask(t, h, dnstest.Query("www.example.", dns.TypeA), UDP)
	if err := h.update(Settings{Clients: clients, Upstreams: []Upstream{b}}); err != nil {
		t.Fatal(err)
	}
	var s Stats
	if h.stats(&s); len(s.Upstreams) != 1 || s.Upstreams[0].Queries != 1 {
		t.Errorf("got %v; want the upstream that there was, with its query", s.Upstreams)
	}
	if !x[0].Retired.Load() || x[1].Retired.Load() {
		t.Error("want the upstream that is left out retired, and only that")
	}
}

// countedLocal counts how often a local source is asked.
type countedLocal struct {
	Local
	asked atomic.Int64
}

func (l *countedLocal) Answer(q dns.Question, client, local netip.Addr) (*dns.Msg, bool) {
	l.asked.Add(1)
	return l.Local.Answer(q, client, local)
}

// A query that waits was decided before: by the settings of then, and with the answer of the local source. The message
// that it came in may have moved meanwhile.
func TestDecisionIsHandedOn(t *testing.T) {
	clients := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for name, row := range map[string]struct {
		question string
		want     int // records
	}{
		"local-chain": {"www.isp.example.", 2},
		"upstream":    {"target.example.", 1},
	} {
		t.Run(name, func(t *testing.T) {
			local := &countedLocal{Local: cnames("www.isp.example. target.example.")}
			up := dnstest.Records("target.example. 300 IN A 192.0.2.1")
			h := testHandler(t, Config{Settings: Settings{
				Clients:  clients,
				Local:    []Local{local},
				Steering: &Steering{Policy: dnstest.Rules("example"), Relay: new(dnstest.Relay), Clients: everybody},
			}}, up)
			m := dnstest.Query(row.question, dns.TypeA)
			buf := dnstest.Pack(t, m)
			q := &query{msg: buf, client: testClient, local: testLocal, transport: UDP}
			if out, how := h.answerNow(q, nil); how != pending {
				t.Fatalf("got outcome %d, %x; want pending", how, out)
			}
			if got := local.asked.Load(); got != 1 {
				t.Errorf("got %d questions to the local source; want 1", got)
			}
			q.msg = slices.Clone(buf)
			clear(buf)
			if err := h.update(Settings{Local: []Local{localNames(row.question)}}); err != nil {
				t.Fatal(err)
			}
			r := dnstest.Unpack(t, h.answer(t.Context(), q, nil))
			if r.Id != m.Id || !slices.Equal(r.Question, m.Question) || r.Rcode != dns.RcodeSuccess || len(r.Answer) != row.want {
				t.Fatalf("got\n%v\nwant %d records", r, row.want)
			}
			if a, ok := r.Answer[row.want-1].(*dns.A); !ok || a.A.String() != "198.51.100.1" {
				t.Errorf("got %v; want the relay's address", r.Answer)
			}
			asked := map[string]int64{"local-chain": 2, "upstream": 1}[name] // of the chain, its target is asked for as well
			if got := local.asked.Load(); got != asked {
				t.Errorf("got %d questions to the local source; want %d", got, asked)
			}
		})
	}
}
