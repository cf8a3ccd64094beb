package relay

import (
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

// TestLimitsValidateWidths has lengths of prefixes that stand for clients.
func TestLimitsValidateWidths(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Limits
		want string // "" for none
	}{
		{"given", Limits{ClientPrefixesIPv4: []int{32, 28, 24}, ClientPrefixesIPv6: []int{128, 56}}, ""},
		{"too-long", Limits{ClientPrefixesIPv4: []int{33}}, "client_prefixes_ipv4: /33"},
		{"zero", Limits{ClientPrefixesIPv6: []int{64, 0}}, "client_prefixes_ipv6: /0"},
		{"widest-first", Limits{ClientPrefixesIPv6: []int{48, 64}}, "client_prefixes_ipv6: /64 after /48"},
		{"twice", Limits{ClientPrefixesIPv4: []int{24, 24}}, "client_prefixes_ipv4: /24 after /24"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.in.Validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v; want %q", err, tt.want)
			}
		})
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
