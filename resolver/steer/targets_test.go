package steer

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// TestSteerTargets: clients ask for the addresses of the TargetName next, and only we know why.
func TestSteerTargets(t *testing.T) {
	w := dnstest.World{
		"shop.example. 300 HTTPS 1 edge.example. alpn=h2 ech=AAEC",
		"www.example. 300 CNAME canon.example.", "canon.example. 300 HTTPS 1 . ipv4hint=192.0.2.1 ech=AAEC", "canon.example. 300 A 192.0.2.1",
		"alias.example. 300 HTTPS 0 edge.example.",
		"_4443._https.port.example. 300 HTTPS 1 port.example. ech=AAEC", "port.example. 300 A 192.0.2.9",
		"edge.example. 300 HTTPS 1 far.example. ipv4hint=192.0.2.1", "edge.example. 300 A 192.0.2.1", "far.example. 300 A 192.0.2.2",
		"loop.example. 300 HTTPS 0 loop.example.",
	}
	const steeredEdge, steeredFar, steeredCanon = "edge.example. 60 A 198.51.100.1", "far.example. 60 A 198.51.100.2", "canon.example. 60 A 198.51.100.1"
	tests := []struct {
		name  string
		rules dnstest.Rules
		first string // questions before, separated by commas
		then  string
		want  string // the first record
	}{
		{"not-asked-before", "shop.example", "", "edge.example. A", "edge.example. 300 A 192.0.2.1"},
		{"service", "shop.example", "shop.example. HTTPS", "edge.example. A", steeredEdge},
		{"alias", "alias.example", "alias.example. HTTPS", "edge.example. A", steeredEdge},
		{"https-of-the-target", "shop.example", "shop.example. HTTPS", "edge.example. HTTPS", "edge.example. 60 HTTPS 1 far.example. ipv4hint=198.51.100.1"},
		{"target-of-the-target", "alias.example", "alias.example. HTTPS,edge.example. HTTPS", "far.example. A", steeredFar},
		{"cname-and-owner", "www.example", "www.example. HTTPS", "canon.example. A", steeredCanon},
		{"ech", "ech", "shop.example. HTTPS", "edge.example. A", steeredEdge},
		{"ech-of-another-port", "ech", "_4443._https.port.example. HTTPS", "port.example. A", "port.example. 60 A 198.51.100.9"},
		{"exception-for-the-target", "!edge.example shop.example", "shop.example. HTTPS", "edge.example. A", "edge.example. 300 A 192.0.2.1"},
		{"exception-for-the-origin", "!shop.example ech", "shop.example. HTTPS", "edge.example. A", "edge.example. 300 A 192.0.2.1"},
		{"prefix-rules-need-no-memory", "192.0.2.1/32", "shop.example. HTTPS", "far.example. A", "far.example. 300 A 192.0.2.2"},
		{"itself", "loop.example", "loop.example. HTTPS", "loop.example. HTTPS", "loop.example. 300 HTTPS 0 loop.example."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := steererFor(tt.rules)
			for question := range strings.SplitSeq(tt.first, ",") {
				if question != "" {
					s.ask(t, w, question)
				}
			}
			if got := s.ask(t, w, tt.then)[1]; got != tt.want {
				t.Errorf("got %s; want %s", got, tt.want)
			}
		})
	}
}

// TestSteerTargetTTL: the record that points away has a low TTL, so that clients come by again after a restart, and
// the memory of it outlives the TTL.
func TestSteerTargetTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := steererFor("shop.example")
		w := dnstest.World{"shop.example. 3600 HTTPS 1 edge.example. alpn=h2", "edge.example. 300 A 192.0.2.1"}
		want := []string{"shortened", "shop.example. 60 HTTPS 1 edge.example. alpn=h2"}
		if diff := cmp.Diff(want, s.ask(t, w, "shop.example. HTTPS")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		time.Sleep(time.Hour)
		if got := s.ask(t, w, "edge.example. A")[0]; got != "steered" {
			t.Errorf("after the TTL: %s; want steered", got)
		}
		time.Sleep(targetGrace)
		if got := s.ask(t, w, "edge.example. A")[0]; got != "untouched" {
			t.Errorf("after the grace: %s; want untouched", got)
		}
		if n := len(s.targets.m); n != 0 {
			t.Errorf("got %d targets remembered; want none", n)
		}
	})
}

func TestTargetsAreBounded(t *testing.T) {
	var ts targets
	until := time.Now().Add(time.Hour)
	for i := range maxTargets + 100 {
		name := string(rune('a'+i%26)) + time.Duration(i).String() + "."
		for j := range maxOrigins + 2 {
			ts.add(name, origin{names: []string{time.Duration(j).String()}, until: until})
		}
		if n := len(ts.lookup(name, time.Now())); n != maxOrigins {
			t.Fatalf("got %d origins; want %d", n, maxOrigins)
		}
	}
	if n := len(ts.m); n != maxTargets {
		t.Errorf("got %d targets; want %d", n, maxTargets)
	}
}
