package relay

import (
	"bytes"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// datagrams returns the payloads that b is in datagrams of size bytes.
func datagrams(b []byte, size int) (all [][]byte) {
	if len(b) == 0 {
		return [][]byte{b}
	}
	return slices.Collect(slices.Chunk(b, size))
}

// segmented returns the datagrams that the kernel makes of the messages of s.
func segmented(s *sender) (all [][]byte) {
	for _, o := range s.out[:s.n] {
		var b []byte
		for _, iov := range s.iovs[o.iov:][:o.iovs] {
			b = append(b, unsafe.Slice(iov.Base, int(iov.Len))...)
		}
		all = append(all, datagrams(b, max(1, o.size))...)
	}
	return all
}

func TestSenderGroups(t *testing.T) {
	type in struct {
		bytes, size int
		ecn         byte
		fragmented  bool
	}
	tests := []struct {
		name string
		in   []in
		want []int // datagrams per message
	}{
		{"one", []in{{bytes: 1200, size: 1200}}, []int{1}},
		{"equal-ones", []in{{bytes: 1200, size: 1200}, {bytes: 1200, size: 1200}, {bytes: 1200, size: 1200}}, []int{3}},
		{"a-shorter-one-ends-a-group", []in{{bytes: 1200, size: 1200}, {bytes: 5, size: 5}, {bytes: 1200, size: 1200}}, []int{2, 1}},
		{"a-longer-one-begins-another", []in{{bytes: 5, size: 5}, {bytes: 1200, size: 1200}}, []int{1, 1}},
		{"groups-of-one-size", []in{{bytes: 2400, size: 1200}, {bytes: 3000, size: 1200}}, []int{5}},
		{"groups-of-two-sizes", []in{{bytes: 2400, size: 1200}, {bytes: 2000, size: 1000}}, []int{2, 2}},
		{"after-a-group-that-ended-short", []in{{bytes: 3000, size: 1200}, {bytes: 1200, size: 1200}}, []int{3, 1}},
		{"empty-ones", []in{{}, {}, {bytes: 1, size: 1}, {}}, []int{1, 1, 1, 1}},
		{"ecn", []in{{bytes: 9, size: 9}, {bytes: 9, size: 9, ecn: 3}}, []int{1, 1}},
		{"fragmented", []in{{bytes: 9, size: 9, fragmented: true}, {bytes: 9, size: 9, fragmented: true}}, []int{1, 1}},
		{"64-segments", []in{{bytes: 63, size: 1}, {bytes: 1, size: 1}, {bytes: 1, size: 1}}, []int{64, 1}},
		{"65-segments", []in{{bytes: 40000, size: 1000}, {bytes: 25000, size: 1000}, {bytes: 1000, size: 1000}}, []int{40, 26}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestSender(true)
			f := new(flow)
			for _, in := range tt.in {
				m := message{size: in.size, ecn: in.ecn, fragmented: in.fragmented}
				s.add(f, &m, make([]byte, in.bytes))
			}
			var got []int
			for _, o := range s.out[:s.n] {
				got = append(got, o.count)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got groups of %v datagrams; want %v", got, tt.want)
			}
		})
	}
}

func newTestSender(gso bool) *sender {
	s := &sender{gso: new(atomic.Bool)}
	s.gso.Store(gso)
	return s
}

// FuzzSender adds messages of the given lengths and sizes and checks that no boundary moves. An entry is four bytes:
// its length in tens, the size in tens, a flow and an ECN codepoint, what to add to both.
func FuzzSender(f *testing.F) {
	f.Add([]byte{120, 120, 0, 0, 120, 120, 0, 0, 30, 30, 0, 0})
	f.Add([]byte{240, 120, 0, 0, 120, 120, 0, 3, 0, 0, 0, 0})
	f.Add([]byte{120, 120, 0, 0, 120, 120, 1, 0, 120, 120, 6, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		s := newTestSender(true)
		flows := [2]flow{}
		var want [][]byte
		for i := byte(0); len(script) >= 4 && i < batchSize; script, i = script[4:], i+1 {
			b := bytes.Repeat([]byte{i}, int(script[0])*10+int(script[3]&3))
			m := message{size: min(len(b), int(script[1])*10+int(script[3]&3)), ecn: script[2] >> 1 & ecnMask}
			if m.size == 0 {
				m.size = len(b)
			}
			s.add(&flows[script[2]&1], &m, b)
			want = append(want, datagrams(b, max(1, m.size))...)
		}
		if got := segmented(s); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("got %d datagrams; want these %d", len(got), len(want))
		}
	})
}

// When groups have turned out not to work, those that came in as one still leave as they were.
func TestSenderWithoutGSO(t *testing.T) {
	for _, gso := range []bool{true, false} {
		at, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		fd, err := udpSocket(false)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sockaddr(at.LocalAddr().(*net.UDPAddr).AddrPort())); err != nil {
			t.Fatal(err)
		}
		s := newTestSender(true)
		var want [][]byte
		for _, n := range []int{3000, 1200, 70} {
			b := randomBytes(n)
			s.add(new(flow), &message{size: 1200}, b)
			want = append(want, datagrams(b, 1200)...)
		}
		if !gso {
			if !s.ungroup(unix.EIO) || s.gso.Load() {
				t.Error("EIO does not turn groups off")
			}
		}
		if got := s.flush(fd); got != 4270 {
			t.Errorf("got %d bytes sent; want 4270", got)
		}
		for i, w := range want {
			if got, _ := receive(t, soon(t, at)); !bytes.Equal(got, w) {
				t.Errorf("datagram %d: got %d bytes; want these %d", i, len(got), len(w))
			}
		}
	}
}
