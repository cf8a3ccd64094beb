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

// TestLimitsValidatePrefixes has lengths of prefixes around clients.
func TestLimitsValidatePrefixes(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []ClientPrefix
		want string // "" for none
	}{
		{"given", []ClientPrefix{{IPv6: 60}, {IPv4: 28, IPv6: 52}, {IPv4: 24}}, ""},
		{"too-long", []ClientPrefix{{IPv4: 32}}, "prefixes[0]: /32 is not wider than the /32"},
		{"too-long-v6", []ClientPrefix{{IPv6: 128}}, "prefixes[0]: /128 is not wider than the /64"},
		{"negative", []ClientPrefix{{IPv6: -1}}, "prefixes[0]: /-1"},
		{"widest-first", []ClientPrefix{{IPv6: 48}, {IPv6: 56}}, "prefixes[1]: /56 is not wider than the /48"},
		{"twice", []ClientPrefix{{IPv4: 24}, {IPv6: 48}, {IPv4: 24}}, "prefixes[2]: /24"},
		{"empty", []ClientPrefix{{}}, "prefixes[0]: has neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Limits{Prefixes: tt.in}.Validate()
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
