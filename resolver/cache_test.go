package resolver

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// filler returns a response to k with n octets of data of an unknown type.
func filler(k *wire.Key, n int) *wire.Response {
	name, _, err := dns.UnpackDomainName(k.Bytes(), 0)
	if err != nil {
		panic(err)
	}
	m := dnstest.Query(name, k.Type())
	m.Response = true
	h := dns.RR_Header{Name: ".", Rrtype: 65300, Class: dns.ClassINET, Ttl: 300}
	m.Answer = []dns.RR{&dns.RFC3597{Hdr: h, Rdata: strings.Repeat("00", n)}}
	msg, err := m.Pack()
	if err != nil {
		panic(err)
	}
	p, err := wire.NewResponse(msg, k, 0)
	if err != nil {
		panic(err)
	}
	p.TTL = 300
	return p
}

func TestCacheKeys(t *testing.T) {
	c := newCache(1 << 20)
	keys := []*wire.Key{
		keyOf(t, "www.example.", dns.TypeA, 0), keyOf(t, "www.example.", dns.TypeAAAA, 0),
		keyOf(t, "ww.wexample.", dns.TypeA, 0), keyOf(t, ".", dns.TypeA, 0),
		keyOf(t, "www.example.", dns.TypeA, wire.DO), keyOf(t, "www.example.", dns.TypeA, wire.CD),
		keyOf(t, "www.example.", dns.TypeA, wire.DO|wire.CD),
	}
	replies := make([]*wire.Response, len(keys))
	for i, k := range keys {
		replies[i] = filler(k, i)
		c.insert(k, 1, replies[i])
	}
	for i, k := range keys {
		if p := c.lookup(k, viewRaw, 1, 0); p != replies[i] {
			t.Errorf("key %d: got %v", i, p)
		}
	}
	if p := c.lookup(keyOf(t, "WWW.eXample.", dns.TypeA, 0), viewRaw, 1, 0); p == nil {
		t.Error("upper case: got nothing")
	}
	if p := c.lookup(keyOf(t, "www.example.", dns.TypeTXT, 0), viewRaw, 1, 0); p != nil {
		t.Errorf("other type: got %v", p)
	}
}

func TestCacheViews(t *testing.T) {
	c := newCache(1 << 20)
	k := keyOf(t, "www.example.", dns.TypeA, 0)
	raw, steered, passed := filler(k, 0), filler(k, 1), filler(k, 2)
	steered.Rewritten = true
	check := func(step string, v view, gen uint32, now int64, want *wire.Response) {
		t.Helper()
		if got := c.lookup(k, v, gen, now); got != want {
			t.Errorf("%s: got %p; want %p (raw is %p, steered %p)", step, got, want, raw, steered)
		}
	}
	c.insert(k, 1, raw)
	check("raw", viewRaw, 1, 0, raw)
	check("not yet decided", viewSteered, 1, 0, nil)

	c.insertSteered(k, 1, raw, nil, 10)
	check("nothing to steer", viewSteered, 1, 9, raw)
	check("nothing to steer, relay down", viewDown, 1, 9, raw)
	check("to be decided again", viewSteered, 1, 10, nil)

	c.insertSteered(k, 1, raw, steered, 20)
	check("steered", viewSteered, 1, 19, steered)
	check("steered, relay down", viewDown, 1, 19, nil)
	check("steered answer over", viewSteered, 1, 20, nil)
	check("raw is left", viewRaw, 1, 20, raw)

	c.insertSteered(k, 1, raw, passed, 20)
	check("passed, relay down", viewDown, 1, 19, passed)

	check("new settings", viewSteered, 2, 19, nil)
	check("new settings, raw", viewRaw, 2, 19, nil)
	if got := c.raw(k, 2, TTLs{}.bounds(), 19); got != raw {
		t.Errorf("new settings, upstream's reply: got %p; want %p", got, raw)
	}
	check("no local source had it", viewRaw, 2, 19, raw)
	check("still not steered anew", viewSteered, 2, 19, nil)

	c.insertSteered(k, 2, filler(k, 0), steered, 1000)
	check("made of another reply", viewSteered, 2, 19, nil)
	check("expired", viewRaw, 2, 300*int64(time.Second), nil)
}

// What random names take stays within the limit, on the account and on the heap, and what is in use stays.
func TestCacheUnderRandomNames(t *testing.T) {
	const limit = 4 << 20
	before := liveHeap()
	c := newCache(limit)
	var hot []*wire.Key
	for i := range 200 {
		k := keyOf(t, fmt.Sprintf("hot%d.example.", i), dns.TypeA, 0)
		c.insert(k, 1, filler(k, 100))
		hot = append(hot, k)
	}
	for i := range 50000 {
		k := keyOf(t, fmt.Sprintf("%x.example.", rand.Uint64()), dns.TypeA, 0)
		c.insert(k, 1, filler(k, rand.IntN(1200)))
		if i%8 == 0 { // each of them more often than everything passes through
			c.lookup(hot[i/8%len(hot)], viewRaw, 1, 0)
		}
		if used, _, _ := c.stats(); i%1000 == 0 && used > limit {
			t.Fatalf("got %d octets; want at most %d", used, limit)
		}
	}
	if after := liveHeap(); after-before > limit {
		t.Errorf("got %d octets of heap; want at most %d", after-before, limit)
	}
	lost := 0
	for _, k := range hot {
		if c.lookup(k, viewRaw, 1, 0) == nil {
			lost++
		}
	}
	if lost > len(hot)/20 {
		t.Errorf("lost %d of %d replies that were in use", lost, len(hot))
	}
	used, entries, _ := c.stats()
	if used < limit*8/10 {
		t.Errorf("got %d octets used; want the limit of %d used well", used, limit)
	}
	t.Logf("%d entries in %d octets, %d lost", entries, used, lost)
}

// liveHeap returns the octets of objects that are in use.
func liveHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestCacheIsSoundUnderConcurrency(t *testing.T) {
	c := newCache(300 << 10)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for range 5000 {
				k := keyOf(t, fmt.Sprintf("n%d.example.", rnd.IntN(2000)), dns.TypeA, 0)
				raw := c.raw(k, 1, TTLs{}.bounds(), 0)
				if raw == nil {
					raw = filler(k, rnd.IntN(1500))
					c.insert(k, 1, raw)
				}
				c.insertSteered(k, 1, raw, filler(k, rnd.IntN(500)), 1)
				if p := c.lookup(k, viewSteered, 1, 0); p != nil && !p.Answers(k) {
					t.Error("got the reply to another question")
				}
			}
		})
	}
	wg.Wait()
	checkAccounts(t, c)
}

// checkAccounts compares what the shards keep account of with what is there.
func checkAccounts(t *testing.T, c *cache) {
	t.Helper()
	for i := range c.shards {
		s := &c.shards[i]
		var entries int
		used := int64(len(s.buckets)) * 12
		for _, q := range []*queue{&s.fresh, &s.main} {
			var size int64
			for e := q.first; e != nil; e = e.next {
				entries++
				size += e.size()
			}
			if size != q.size {
				t.Errorf("shard %d: got a queue of %d octets; want %d", i, q.size, size)
			}
			used += size
		}
		if entries != s.entries || used != s.used || used > s.limit {
			t.Errorf("shard %d: got %d entries, %d octets of %d; want %d, %d", i, s.entries, s.used, s.limit, entries, used)
		}
	}
}

func TestTinyCacheKeepsNothing(t *testing.T) {
	c := newCache(1)
	k := keyOf(t, "www.example.", dns.TypeA, 0)
	c.insert(k, 1, filler(k, 10))
	if _, entries, _ := c.stats(); entries != 0 {
		t.Errorf("got %d entries; want none", entries)
	}
}

func TestCachedReplyDoesNotAllocate(t *testing.T) {
	for _, tr := range []Transport{UDP, DoT} {
		h, q, dst := cachedQuery(t, tr)
		if got := testing.AllocsPerRun(100, func() { h.answerNow(q, dst) }); got != 0 {
			t.Errorf("%s: got %v allocations; want none", tr, got)
		}
	}
}

// cachedQuery returns a query that the handler has cached the answer to, and room for that.
func cachedQuery(t testing.TB, tr Transport) (*forwarder, *query, []byte) {
	h := testHandler(t, Config{}, dnstest.Records("www.example. 300 IN A 198.51.100.1", "www.example. 300 IN A 198.51.100.2"))
	m := dnstest.Query("www.Example.", dns.TypeA).SetEdns0(1232, false)
	ask(t, h, m, tr)
	return h, &query{msg: dnstest.Pack(t, m), client: testClient, local: testLocal, transport: tr}, make([]byte, 0, 4096)
}

func BenchmarkCachedReply(b *testing.B) {
	for _, tr := range []Transport{UDP, DoT} {
		b.Run(tr.String(), func(b *testing.B) {
			h, q, dst := cachedQuery(b, tr)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				q, dst := *q, make([]byte, 0, cap(dst))
				for pb.Next() {
					if _, how := h.answerNow(&q, dst); how != answered {
						b.Error("not cached")
					}
				}
			})
		})
	}
}

// keyOf returns the key of a question.
func keyOf(t testing.TB, name string, qtype uint16, flags uint8) *wire.Key {
	t.Helper()
	k, err := wire.NewKey(name, qtype, flags)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// residentHeap returns what the heap takes of the memory of the process.
func residentHeap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapSys - m.HeapReleased)
}

// realisticAnswer returns the response of one of several sizes to a question of its own: some addresses, a chain of aliases, an
// answer that is signed, a denial.
func realisticAnswer(t *testing.T, i int) (*wire.Key, *wire.Response) {
	name := fmt.Sprintf("%x.example%d.example.", rand.Uint64(), i%1000)
	k := keyOf(t, name, dns.TypeA, 0)
	m := dnstest.Query(name, dns.TypeA)
	m.Response, m.Compress = true, true
	owner := name
	if i%3 == 1 {
		owner = fmt.Sprintf("edge%d.cdn.example.", i)
		m.Answer = append(m.Answer, dnstest.RR(fmt.Sprintf("%s 300 IN CNAME %s", name, owner)))
	}
	for n := range 1 + i%4 {
		m.Answer = append(m.Answer, dnstest.RR(fmt.Sprintf("%s 300 IN A 198.51.100.%d", owner, n)))
	}
	if i%5 == 0 {
		sig := dnstest.RR(fmt.Sprintf("%s 300 IN RRSIG A 8 3 300 20300101000000 20200101000000 4711 example. %s", owner,
			base64.StdEncoding.EncodeToString(make([]byte, 64+64*(i%4)))))
		m.Answer = append(m.Answer, sig)
	}
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	p, err := wire.NewResponse(msg, k, 0)
	if err != nil {
		t.Fatal(err)
	}
	return k, p
}

// parsed returns a query for k.
func parsed(t *testing.T, k *wire.Key) *wire.Query {
	name, _, err := dns.UnpackDomainName(k.Bytes(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var q wire.Query
	if !q.Parse(dnstest.Pack(t, dnstest.Query(name, k.Type())), 0) {
		t.Fatal("not a query")
	}
	return &q
}

// The limit is what the cache takes of the memory of the process, when answers of several sizes have gone through it
// several times over.
func TestCacheIsResident(t *testing.T) {
	// A process of its own has no memory that other tests have left or give back meanwhile.
	const child = "CFRD_TEST_RESIDENT"
	if os.Getenv(child) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCacheIsResident$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("in a process of its own:\n%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	const limit = 16 << 20
	debug.FreeOSMemory()
	for i := range 10000 { // what this test makes besides is there before, too
		realisticAnswer(t, i)
	}
	before := residentHeap()
	c := newCache(limit)
	for i := range 100000 {
		k, p := realisticAnswer(t, i)
		c.insert(k, 1, p)
		if i%3 == 0 {
			steered, err := wire.NewResponse(p.AppendTo(nil, parsed(t, k), 0), k, 0)
			if err != nil {
				t.Fatal(err)
			}
			c.insertSteered(k, 1, p, steered, 1000)
		}
	}
	took := residentHeap() - before
	used, n, _ := c.stats()
	t.Logf("%d entries: %d octets on the account, %d resident, %.2f", n, used, took, float64(took)/float64(used))
	// The race detector makes objects larger than they are. Below, the runtime may have given pages back meanwhile.
	if r := float64(took) / float64(used); !raceDetector && (r < 0.8 || r > 1.15) {
		t.Errorf("got %d octets on the account and %d resident; want at most 15 %% more than the account, and at least 80 %%", used, took)
	}
	runtime.KeepAlive(c)
}
