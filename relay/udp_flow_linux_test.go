package relay

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func testKey(client, port byte) flowKey {
	return flowKey{
		client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, client}), 1000+uint16(port)),
		local:  netip.MustParseAddrPort("198.51.100.1:443"),
	}
}

// begin adds a flow that was begun by n bytes.
func begin(table *flowTable, key flowKey, n int, now time.Duration) *flow {
	return table.add(&flow{key: key}, n, now)
}

func TestFlowBound(t *testing.T) {
	tests := []struct {
		name    string
		sent    int
		n, size int
		allowed int
		ok      bool
	}{
		{"within", 100, 300, 300, 300, true},
		{"exactly-three-times", 1200, 3600, 1200, 3600, true},
		{"one-byte-beyond", 100, 301, 301, 0, false},
		{"whole-datagrams-only", 100, 1000, 110, 220, true},
		{"the-last-is-shorter", 100, 290, 100, 290, true},
		{"none-fits", 100, 1200, 600, 0, false},
		{"reflected-60000", 100, 60000, 1200, 0, false},
		{"empty", 0, 0, 0, 0, true},
		{"small-ones-count-for-their-headers", 28, 64, 1, 3, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newFlowTable(443, 5*time.Minute)
			f := begin(table, testKey(1, 1), tt.sent, 0)
			allowed, ok := table.inbound(f, tt.n, tt.size, 0)
			if allowed != tt.allowed || ok != tt.ok {
				t.Errorf("inbound(%d of %d) after %d: got %d, %v; want %d, %v",
					tt.n, tt.size, tt.sent, allowed, ok, tt.allowed, tt.ok)
			}
		})
	}
}

func TestFlowBoundAddsUp(t *testing.T) {
	table := newFlowTable(443, 5*time.Minute)
	f := begin(table, testKey(1, 1), 100, 0)
	got := 0
	for range 1000 {
		n, _ := table.inbound(f, 50, 50, 0)
		got += n
	}
	if got != 300 {
		t.Errorf("got %d bytes for 100; want 300", got)
	}
	table.outbound(f.key, 100, 0) // one round is not enough for this destination
	for range 1000 {
		n, _ := table.inbound(f, 50, 50, 0)
		got += n
	}
	if got != 600 {
		t.Errorf("got %d bytes for 200; want 600", got)
	}
}

func TestFlowConfirmation(t *testing.T) {
	const first = 1200
	type step struct{ out, in int } // bytes; one of the two
	tests := []struct {
		name  string
		steps []step
		want  stage
	}{
		{"begun", nil, unanswered},
		{"blind-datagrams", []step{{out: 1200}, {out: 1200}, {out: 1200}}, unanswered},
		{"a-reply-alone", []step{{in: 1200}}, answered},
		{"quic-handshake", []step{{in: 1200}, {in: 1200}, {in: 1200}, {out: 1200}}, confirmed},
		{"small-datagrams", []step{{in: 1}, {out: 1}}, confirmed},
		{"reply-was-not-delivered", []step{{in: 3601}, {out: 40}}, answered},
		{"destination-exceeds-the-bound", []step{{in: 3000}, {in: 3000}, {out: 40}}, answered},
		{"a-round-needs-a-delivery", []step{{in: 3000}, {in: 3000}, {out: 40}, {out: 40}, {in: 3000}, {out: 40}}, answered},
		{"quic-with-an-address-token", []step{
			{in: 1200}, {in: 1200}, {in: 1200}, {in: 1200}, {in: 1200}, {out: 1200}, {in: 1200}, {out: 40},
		}, confirmed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newFlowTable(443, 5*time.Minute)
			f := begin(table, testKey(1, 1), first, 0)
			for _, s := range tt.steps {
				if s.out > 0 {
					table.outbound(f.key, s.out, 0)
				} else {
					table.inbound(f, s.in, s.in, 0)
				}
			}
			if f.stage != tt.want {
				t.Errorf("got stage %d; want %d", f.stage, tt.want)
			}
		})
	}
}

func TestFlowDeclined(t *testing.T) {
	table := newFlowTable(443, 5*time.Minute)
	f := begin(table, testKey(1, 1), 1200, 0)
	if table.declined(testKey(1, 2)) != nil || table.declined(f.key) != f {
		t.Error("declined does not return the flow of the key")
	}
	if _, ok := table.inbound(f, 1, 1, 0); ok {
		t.Error("a client that has declined gets a datagram")
	}
	table.outbound(f.key, 100, 0)
	if n, _ := table.inbound(f, 300, 300, 0); n != 300 {
		t.Errorf("got %d bytes after another 100 from the client; want 300", n)
	}
	table.outbound(f.key, 100, 0)
	table.inbound(f, 300, 300, 0)
	table.outbound(f.key, 100, 0)
	table.declined(f.key)
	if n, _ := table.inbound(f, 9000, 9000, 0); n != 9000 {
		t.Errorf("got %d bytes of a confirmed flow; want all 9000", n)
	}
}

func TestFlowExpiry(t *testing.T) {
	toConfirmed := func(table *flowTable, f *flow) {
		table.inbound(f, 1, 1, 0)
		table.outbound(f.key, 1200, 0)
	}
	tests := []struct {
		name  string
		port  uint16
		setup func(*flowTable, *flow)
		want  time.Duration
	}{
		{"unanswered-well-known-port", 443, func(*flowTable, *flow) {}, 30 * time.Second},
		{"unanswered-other-port", 4443, func(*flowTable, *flow) {}, 2 * time.Minute},
		{"answered", 443, func(table *flowTable, f *flow) { table.inbound(f, 1, 1, 0) }, 2 * time.Minute},
		{"confirmed", 443, toConfirmed, 5 * time.Minute},
		{"outbound-refreshes", 443, func(table *flowTable, f *flow) {
			toConfirmed(table, f)
			table.outbound(f.key, 1, time.Minute)
		}, 6 * time.Minute},
		{"inbound-does-not", 443, func(table *flowTable, f *flow) {
			toConfirmed(table, f)
			table.inbound(f, 1, 1, time.Minute)
		}, 5 * time.Minute},
		{"only-the-first-answer-does", 443, func(table *flowTable, f *flow) {
			table.inbound(f, 1, 1, 10*time.Second)
			table.inbound(f, 1, 1, 20*time.Second)
		}, 2*time.Minute + 10*time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newFlowTable(tt.port, 5*time.Minute)
			f := begin(table, testKey(1, 1), 1200, 0)
			tt.setup(table, f)
			if gone := table.expire(tt.want-1, nil); len(gone) != 0 {
				t.Errorf("gone before %v", tt.want)
			}
			if gone := table.expire(tt.want, nil); len(gone) != 1 {
				t.Errorf("not gone after %v", tt.want)
			}
			if table.outbound(f.key, 1, tt.want) != nil {
				t.Error("still found")
			}
		})
	}
}

func TestFlowEviction(t *testing.T) {
	table := newFlowTable(443, 5*time.Minute)
	var flows []*flow
	for i := range byte(4) {
		flows = append(flows, begin(table, testKey(i, i), 1200, time.Duration(i)))
	}
	table.inbound(flows[0], 1, 1, 10) // answered
	table.inbound(flows[1], 1, 1, 11)
	table.outbound(flows[1].key, 1, 12) // confirmed
	for _, want := range []*flow{flows[2], flows[3], flows[0], nil} {
		if got := evict([]*flowTable{table}); got != want {
			t.Fatalf("got %v evicted; want %v", got, want)
		}
	}
}

func TestFlowEvictionOfClient(t *testing.T) {
	table := newFlowTable(443, 5*time.Minute)
	begin(table, testKey(1, 1), 1, 0)
	want := begin(table, testKey(2, 1), 1, 1)
	begin(table, testKey(2, 2), 1, 2)
	if got := evictOf([]*flowTable{table}, netip.MustParseAddr("192.0.2.2")); got != want {
		t.Errorf("got %v evicted; want the oldest of the client", got)
	}
	if got := evictOf([]*flowTable{table}, netip.MustParseAddr("192.0.2.3")); got != nil {
		t.Errorf("got %v evicted; want none, for this client has none", got)
	}
}

func TestFlowEvictionAcrossPorts(t *testing.T) {
	one, two := newFlowTable(443, 5*time.Minute), newFlowTable(80, 5*time.Minute)
	late := begin(one, testKey(1, 1), 1, 2)
	hadAnswer := begin(one, testKey(1, 2), 1, 0)
	one.inbound(hadAnswer, 1, 1, 0)
	early := begin(two, testKey(2, 1), 1, 1)
	for i, want := range []*flow{early, late, hadAnswer, nil} {
		if got := evict([]*flowTable{one, two}); got != want {
			t.Errorf("eviction %d: got %v; want %v", i, got, want)
		}
	}
}

func TestFlowAddTwice(t *testing.T) {
	table := newFlowTable(443, 5*time.Minute)
	first := begin(table, testKey(1, 1), 1, 0)
	if got := begin(table, testKey(1, 1), 1, 0); got != first {
		t.Error("a second flow of one key was added; want the first one back")
	}
	if !table.remove(first) || table.remove(first) {
		t.Error("remove does not report whether the flow was there")
	}
	if n, ok := table.inbound(first, 9000, 9000, 0); n != 9000 || !ok {
		t.Errorf("got %d, %v of a flow that has ended; want no bound", n, ok)
	}
}

func TestFlowTableAllocs(t *testing.T) {
	table := newFlowTable(443, 5*time.Minute)
	f := begin(table, testKey(1, 1), 1200, 0)
	now := time.Duration(0)
	if n := testing.AllocsPerRun(100, func() {
		now++
		table.outbound(f.key, 1200, now)
		table.inbound(f, 1200, 1200, now)
	}); n != 0 {
		t.Errorf("got %v allocations per datagram and reply; want 0", n)
	}
}

// modelFlow and model are the flow table without lists and shards.
type modelFlow struct {
	key            flowKey
	stage          stage
	suspect, heard bool
	rounds         int
	sent, got      int
	since          time.Duration
}

type model struct {
	idle  [stageCount]time.Duration
	flows []*modelFlow // in the order of since
}

func (m *model) find(key flowKey) *modelFlow {
	i := slices.IndexFunc(m.flows, func(f *modelFlow) bool { return f.key == key })
	if i < 0 {
		return nil
	}
	return m.flows[i]
}

func (m *model) outbound(f *modelFlow, n int, now time.Duration) {
	f.sent += max(n, headerBytes)
	f.since = now
	if f.stage != answered || !f.heard {
		return
	}
	f.heard = false
	f.rounds++
	if !f.suspect || f.rounds >= suspectRounds {
		f.stage = confirmed
	}
}

// inbound takes datagram by datagram.
func (m *model) inbound(f *modelFlow, n, size int, now time.Duration) (allowed int, ok bool) {
	if f.stage == confirmed {
		return n, true
	}
	if f.stage == unanswered {
		f.stage, f.since = answered, now
	}
	for first := true; first || n > 0; first = false {
		next := min(n, size)
		if f.got+max(next, headerBytes) > amplification*f.sent {
			f.suspect = true
			break
		}
		f.got += max(next, headerBytes)
		allowed += next
		n -= next
		f.heard, ok = true, true
	}
	return allowed, ok
}

func (m *model) take(which func(*modelFlow) bool) []flowKey {
	var gone []flowKey
	m.flows = slices.DeleteFunc(m.flows, func(f *modelFlow) bool {
		if which(f) {
			gone = append(gone, f.key)
			return true
		}
		return false
	})
	return gone
}

func (m *model) evict() []flowKey {
	for st := range confirmed {
		var oldest *modelFlow
		for _, f := range m.flows {
			if f.stage == st && (oldest == nil || f.since < oldest.since) {
				oldest = f
			}
		}
		if oldest != nil {
			return m.take(func(f *modelFlow) bool { return f == oldest })
		}
	}
	return nil
}

func keysOf(flows []*flow) (keys []flowKey) {
	for _, f := range flows {
		keys = append(keys, f.key)
	}
	return keys
}

func sortKeys(keys []flowKey) []flowKey {
	slices.SortFunc(keys, func(a, b flowKey) int {
		return cmp.Or(a.client.Compare(b.client), a.local.Compare(b.local))
	})
	return keys
}

// FuzzFlowTable runs a script of datagrams against the table and the model. An entry is five bytes: what, whose, its
// size (two bytes), and how much time passes before.
func FuzzFlowTable(f *testing.F) {
	f.Add([]byte{0, 1, 4, 176, 1, 1, 1, 4, 176, 1, 0, 1, 0, 40, 1})                   // a QUIC handshake
	f.Add([]byte{0, 1, 0, 100, 1, 1, 1, 255, 255, 1, 0, 1, 0, 40, 1, 3})              // reflection
	f.Add([]byte{0, 1, 0, 1, 1, 0, 2, 0, 1, 1, 3, 0, 0, 0, 1, 3, 0, 0, 0, 1})         // eviction
	f.Add([]byte{0, 1, 0, 1, 255, 0, 1, 0, 1, 255, 2, 0, 0, 0, 255, 2, 0, 0, 0, 255}) // expiry
	f.Fuzz(func(t *testing.T, script []byte) {
		table := newFlowTable(443, 3*time.Minute)
		m := &model{idle: table.idle}
		now := time.Duration(0)
		for ; len(script) >= 5; script = script[5:] {
			now += time.Nanosecond + time.Duration(script[4])*time.Second/4
			runStep(t, table, m, script, now)
		}
		if got, want := len(table.clear()), len(m.flows); got != want {
			t.Errorf("got %d flows in the end; want %d", got, want)
		}
	})
}

func runStep(t *testing.T, table *flowTable, m *model, step []byte, now time.Duration) {
	key := testKey(step[1]&7, step[1]>>3&3)
	n := int(binary.BigEndian.Uint16(step[2:]))
	var got, want any
	switch step[0] & 3 {
	case 0:
		f, mf := table.outbound(key, n, now), m.find(key)
		switch {
		case (f == nil) != (mf == nil):
			t.Fatalf("flow %v: got there %v; want %v", key, f != nil, mf != nil)
		case f == nil:
			f = begin(table, key, n, now)
			mf = &modelFlow{key: key, sent: max(n, headerBytes), since: now}
			m.flows = append(m.flows, mf)
		default:
			m.outbound(mf, n, now)
		}
		got, want = f.stage, mf.stage
	case 1:
		s := table.shard(key.client.Addr())
		f, mf := s.flows[key], m.find(key)
		if f == nil {
			return
		}
		size := max(1, n>>(step[0]>>2&7))
		gotN, gotOK := table.inbound(f, n, size, now)
		wantN, wantOK := m.inbound(mf, n, size, now)
		got, want = [2]any{gotN, gotOK}, [2]any{wantN, wantOK}
	case 2:
		gotKeys := sortKeys(keysOf(table.expire(now, nil)))
		wantKeys := sortKeys(m.take(func(f *modelFlow) bool { return now-f.since >= m.idle[f.stage] }))
		if !slices.Equal(gotKeys, wantKeys) {
			t.Fatalf("expired: got %v; want %v", gotKeys, wantKeys)
		}
	case 3:
		var gotKeys []flowKey
		if f := evict([]*flowTable{table}); f != nil {
			gotKeys = append(gotKeys, f.key)
		}
		if wantKeys := m.evict(); !slices.Equal(gotKeys, wantKeys) {
			t.Fatalf("evicted: got %v; want %v", gotKeys, wantKeys)
		}
	}
	if got != want {
		t.Fatalf("step %v: got %v; want %v", step, got, want)
	}
}
