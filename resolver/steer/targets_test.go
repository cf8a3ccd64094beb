package steer

import (
	"strconv"
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

// TestTargetsAreBounded: what is remembered is not forgotten for something new before it is over, whoever wants that.
func TestTargetsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ts targets
		add := func(name string, d time.Duration) bool {
			_, ok := ts.add(name, origin{names: []string{"o."}, until: time.Now().Add(d)})
			return ok
		}
		for i := range maxTargets {
			if !add(strconv.Itoa(i)+".", time.Hour+time.Duration(i)*time.Second) {
				t.Fatalf("no room for target %d", i)
			}
		}
		if add("new.", 24*time.Hour) || len(ts.lookup("0.", time.Now())) != 1 || len(ts.m) != maxTargets {
			t.Errorf("a target was forgotten for a new one; want the new one to be refused")
		}
		time.Sleep(time.Hour + maxTargets*time.Second)
		if !add("new.", time.Hour) || len(ts.m) > maxTargets {
			t.Errorf("no room although all are over")
		}
		for j := range maxOrigins + 2 {
			ts.add("new.", origin{names: []string{strconv.Itoa(j)}, until: time.Now().Add(time.Hour)})
		}
		if n := len(ts.lookup("new.", time.Now())); n != maxOrigins {
			t.Errorf("got %d origins; want %d", n, maxOrigins)
		}
	})
}
