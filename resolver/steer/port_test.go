package steer

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// TestPortThatIsNotRelayed: records of one answer lead to the relay together, or not at all.
func TestPortThatIsNotRelayed(t *testing.T) {
	addrs := dnstest.World{"www.example. 300 A 192.0.2.1", "far.example. 300 A 203.0.113.1"}
	for _, tt := range []struct {
		name, rules, record string
		ports               []uint16
		want                string // "" if the record stays as it is
	}{
		{"relayed", "www.example", "HTTPS 1 . port=443 ipv4hint=192.0.2.1", []uint16{443, 80}, "HTTPS 1 . port=443 ipv4hint=198.51.100.1"},
		{"every-port", "www.example", "HTTPS 1 . port=8443 ipv4hint=192.0.2.1", nil, "HTTPS 1 . port=8443 ipv4hint=198.51.100.1"},
		{"steered-by-name", "www.example", "HTTPS 1 . alpn=h2 port=8443 ipv4hint=192.0.2.1 ech=AAEC", []uint16{443}, "HTTPS 1 . alpn=h2 ech=AAEC"},
		{"steered-without-hints", "www.example", "HTTPS 1 . alpn=h2 port=8443", []uint16{443}, "HTTPS 1 . alpn=h2"},
		{"steered-by-hint", "192.0.2.0/24", "HTTPS 1 . alpn=h2 port=8443 ipv4hint=192.0.2.1", []uint16{443}, "HTTPS 1 . alpn=h2"},
		{"steered-by-address", "192.0.2.0/24", "HTTPS 1 . alpn=h2 port=8443", []uint16{443}, "HTTPS 1 . alpn=h2"},
		{"steered-svcb", "www.example", "SVCB 1 . alpn=h2 port=8443 ipv4hint=192.0.2.1", []uint16{443}, "SVCB 1 . alpn=h2"},
		{"mandatory", "www.example", "HTTPS 1 . mandatory=alpn,port alpn=h2 port=8443", []uint16{443}, "HTTPS 1 . mandatory=alpn alpn=h2"},
		{"not-steered", "other.example", "HTTPS 1 . port=8443 ipv4hint=192.0.2.1", []uint16{443}, ""},
		{"not-steered-by-hint", "203.0.113.0/24", "HTTPS 1 . port=8443 ipv4hint=192.0.2.1", []uint16{443}, ""},
		{"not-steered-by-address", "203.0.113.0/24", "HTTPS 1 . port=8443", []uint16{443}, ""},
		{"target-not-steered", "192.0.2.0/24", "HTTPS 1 far.example. port=8443", []uint16{443}, ""},
		{"target-unknown", "192.0.2.0/24", "HTTPS 1 nowhere.example. port=8443 alpn=h2", []uint16{443}, "HTTPS 1 nowhere.example. alpn=h2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := steererFor(dnstest.Rules(tt.rules))
			s.config.Ports = tt.ports
			want := []string{"untouched", "www.example. 300 " + tt.record}
			if tt.want != "" {
				want = []string{"steered", "www.example. 60 " + tt.want}
			}
			qtype, _, _ := strings.Cut(tt.record, " ")
			got := s.ask(t, append(dnstest.World{"www.example. 300 " + tt.record}, addrs...), "www.example. "+qtype)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
