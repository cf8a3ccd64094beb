package wire

import (
	"bytes"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// respond returns what a query gets that has no answer, or false if it gets nothing.
func respond(msg []byte, c Channel) (out []byte, ok bool) {
	var r Query
	if !r.Parse(msg, c) {
		return nil, false
	}
	return r.AppendError(nil, r.Rcode, r.EDE), true
}

func TestMalformedQuery(t *testing.T) {
	for _, c := range dnstest.Malformed(t) {
		t.Run(c.Name, func(t *testing.T) {
			got := "dropped"
			if out, ok := respond(c.Msg, Session); ok {
				got = dnstest.Rcode(t, c.Msg, out)
			}
			if got != c.Want && !(got == "NOERROR" && c.Want == "pending") {
				t.Errorf("got %s; want %s", got, c.Want)
			}
		})
	}
}

func TestQuestionIsEchoed(t *testing.T) {
	want := map[string]bool{
		"class-chaos": true, "type-axfr": true, "opt-version-1": true, "trailing-octet": true,
		"qdcount-2": false, "opcode-notify": false, "header-only": false, "name-256-octets": false,
	}
	for _, c := range dnstest.Malformed(t) {
		want, listed := want[c.Name]
		if !listed {
			continue
		}
		out, _ := respond(c.Msg, Session)
		if got := len(out) > HeaderLen && out[5] == 1 && string(out[12:16]) == string(c.Msg[12:16]); got != want {
			t.Errorf("%s: got question echoed %t; want %t", c.Name, got, want)
		}
	}
}

func TestHasKeepalive(t *testing.T) {
	with := dnstest.Query("www.example.", dns.TypeA)
	opt := with.SetEdns0(1232, false).IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_PADDING{Padding: make([]byte, 3)})
	without := dnstest.Pack(t, with)
	opt.Option = append(opt.Option, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE})
	for name, row := range map[string]struct {
		msg  []byte
		want bool
	}{
		"with":      {dnstest.Pack(t, with), true},
		"without":   {without, false},
		"no-edns":   {dnstest.Pack(t, dnstest.Query("www.example.", dns.TypeA)), false},
		"empty":     {nil, false},
		"truncated": {dnstest.Pack(t, with)[:40], false},
	} {
		if got := HasKeepAlive(row.msg); got != row.want {
			t.Errorf("%s: got %t; want %t", name, got, row.want)
		}
	}
}

func FuzzQuery(f *testing.F) {
	for _, c := range dnstest.Malformed(f) {
		f.Add(c.Msg)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > MaxMessage {
			return
		}
		HasKeepAlive(msg)
		var r Query
		if !r.Parse(msg, Padded) {
			return
		}
		if out := r.AppendError(nil, r.Rcode, r.EDE); r.Rcode != 0 {
			dnstest.Rcode(t, msg, dnstest.Unpadded(t, out))
			return
		}
		agree(t, msg, &r)
	})
}

// agree checks what r says about msg, which was accepted, against miekg/dns. That looks into what we skip, the data of
// other records and of options, so that where it finds fault with them only the question is compared.
func agree(t *testing.T, msg []byte, r *Query) {
	var m dns.Msg
	whole := m.Unpack(msg) == nil
	if !whole {
		msg = bytes.Clone(msg[:HeaderLen+len(r.question)])
		msg[11] = 0
		m = *dnstest.Unpack(t, msg)
	}
	name, _, err := dns.UnpackDomainName(r.Key.Bytes(), 0)
	if err != nil || len(m.Question) != 1 || name != strings.ToLower(m.Question[0].Name) {
		t.Errorf("got the name %q, %v; want that of %v", name, err, m.Question)
	}
	if got := r.Key.Type(); got != m.Question[0].Qtype || m.Question[0].Qclass != dns.ClassINET {
		t.Errorf("got type %d; want that of %v", got, m.Question)
	}
	opt := m.IsEdns0()
	if whole && r.edns != (opt != nil) || opt != nil && (r.do != opt.Do() || r.size != opt.UDPSize() || opt.Version() != 0) {
		t.Errorf("got EDNS %t, DO %t, %d octets; want %v", r.edns, r.do, r.size, opt)
	}
	if cd := r.Key.Flags&CD != 0; cd != m.CheckingDisabled || r.RecursionDesired() != m.RecursionDesired {
		t.Errorf("got CD %t, RD %t; want %t, %t", cd, r.RecursionDesired(), m.CheckingDisabled, m.RecursionDesired)
	}
}

func TestAppendQuery(t *testing.T) {
	for flags, want := range map[uint8]struct{ do, cd bool }{
		0: {}, DO: {do: true}, CD: {cd: true}, DO | CD: {true, true},
	} {
		k, err := NewKey("wWw.example.", dns.TypeHTTPS, flags)
		if err != nil {
			t.Fatal(err)
		}
		m := dnstest.Unpack(t, PadQuery(AppendQuery(nil, k)))
		opt := m.IsEdns0()
		if m.Question[0].Name != "www.example." || m.Question[0].Qtype != dns.TypeHTTPS || !m.RecursionDesired ||
			!m.AuthenticatedData || m.CheckingDisabled != want.cd || opt == nil || opt.Do() != want.do || opt.UDPSize() != MaxUDP {
			t.Errorf("flags %d: got\n%v", flags, m)
		}
		if b := dnstest.Pack(t, m); len(b) != QueryBlock || len(opt.Option) != 1 {
			t.Errorf("flags %d: got %d octets, %d options; want %d, padding only", flags, len(b), len(opt.Option), QueryBlock)
		}
	}
}
