package relay

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestLimitsComplete(t *testing.T) {
	for _, fds := range []int{256, 1024, 20000, 1 << 20} {
		l, err := Limits{}.complete(fds)
		if err != nil {
			t.Errorf("%d descriptors: %v", fds, err)
		}
		if need := l.descriptors(); need > fds*4/5 || need < fds/2 {
			t.Errorf("%d descriptors: got %+v, which need %d; want some left, and most used", fds, l, need)
		}
	}
	tests := []struct {
		name string
		in   Limits
		ok   bool
	}{
		{"given", Limits{TCPFlows: 100, UDPFlows: 100}, true},
		{"too-many-tcp", Limits{TCPFlows: 1000}, false},
		{"too-many-udp", Limits{UDPFlows: 1000}, false},
		{"negative-flows", Limits{TCPFlows: -1}, false},
		{"negative-time", Limits{TCPIdle: -time.Second}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := tt.in.complete(1024)
			if (err == nil) != tt.ok {
				t.Errorf("got %+v, error %v; want ok %v", l, err, tt.ok)
			}
		})
	}
}

// TestLimiter has UDP take all it can, which must leave TCP what it has, and one client what another has.
func TestLimiter(t *testing.T) {
	l := newLimiter(Limits{TCPFlows: 3, UDPFlows: 100, TCPFlowsPerClient: 2, UDPFlowsPerClient: 200})
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range 101 {
		if got, want := l.acquire(UDP, a), i < 100; got != want {
			t.Fatalf("UDP flow %d: got %v; want %v", i, got, want)
		}
	}
	steps := []struct {
		client  netip.Addr
		release bool
		want    bool
	}{
		{client: a, want: true},
		{client: a, want: true},
		{client: a, want: false},
		{client: b, want: true},
		{client: b, want: false},
		{client: a, release: true},
		{client: b, want: true},
		{client: a, want: false},
	}
	for i, s := range steps {
		if s.release {
			l.release(TCP, s.client)
		} else if got := l.acquire(TCP, s.client); got != s.want {
			t.Errorf("step %d: got %v; want %v", i, got, s.want)
		}
	}
	if !l.full(TCP) {
		t.Error("got not full; want full")
	}
	for range 100 {
		l.release(UDP, a)
	}
	if n := len(l.clients[UDP]); n != 0 {
		t.Errorf("got %d clients remembered without a flow; want 0", n)
	}
}

func TestLimitKey(t *testing.T) {
	tests := []struct{ client, want string }{
		{"192.0.2.1", "192.0.2.1"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
	}
	for _, tt := range tests {
		if got := limitKey(netip.MustParseAddr(tt.client)); got != netip.MustParseAddr(tt.want) {
			t.Errorf("%s: got %v; want %s", tt.client, got, tt.want)
		}
	}
}

// TestLimitsValidate has the bound that clients rely on. See RFC 4787, Section 4.3.
func TestLimitsValidate(t *testing.T) {
	for idle, want := range map[time.Duration]bool{0: true, leastIdle: true, leastIdle - 1: false, time.Hour: true} {
		err := Limits{UDPIdle: idle}.Validate()
		if (err == nil) != want || err != nil && !strings.HasPrefix(err.Error(), "udp_idle: ") {
			t.Errorf("%v: got %v; want it accepted: %t", idle, err, want)
		}
	}
}
