package wire

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// parsed returns m as a query over c.
func parsed(t testing.TB, m *dns.Msg, c Channel) *Query {
	t.Helper()
	var r Query
	if !r.Parse(dnstest.Pack(t, m), c) || r.Rcode != 0 {
		t.Fatalf("got RCODE %d for %v", r.Rcode, m)
	}
	return &r
}

// replyFor returns the reply to r that m is.
func replyFor(t testing.TB, r *Query, m *dns.Msg) *Response {
	t.Helper()
	p, err := NewResponse(dnstest.Pack(t, m), &r.Key, 0)
	if err != nil {
		t.Fatalf("%v\n%v", err, m)
	}
	return p
}

// addresses returns n A records for www.example and as many in the Additional section.
func addresses(m *dns.Msg, n, extra int) *dns.Msg {
	m = new(dns.Msg).SetReply(m)
	m.Compress = true
	for i := range n {
		m.Answer = append(m.Answer, dnstest.RR(fmt.Sprintf("www.example. 300 IN A 198.51.100.%d", i)))
	}
	for i := range extra {
		m.Extra = append(m.Extra, dnstest.RR(fmt.Sprintf("other%d.example. 300 IN A 198.51.100.%d", i, i)))
	}
	return m
}

func TestResponseFitsTheClient(t *testing.T) {
	for name, row := range map[string]struct {
		channel       Channel
		size          uint16 // 0: no EDNS
		answer, extra int
		wantAnswer    int
		wantExtra     int
		wantTC        bool
	}{
		"all-of-it":             {Datagram, 1232, 10, 2, 10, 2, false},
		"512-without-edns":      {Datagram, 0, 30, 0, 30, 0, false},
		"beyond-512":            {Datagram, 0, 31, 0, 0, 0, true},
		"additional-is-dropped": {Datagram, 0, 25, 20, 25, 0, false},
		"opt-must-fit-too":      {Datagram, 512, 30, 0, 0, 0, true},
		"below-512-is-512":      {Datagram, 10, 29, 0, 29, 0, false},
		"client-takes-more":     {Datagram, 1232, 74, 0, 74, 0, false},
		"we-send-no-more":       {Datagram, 4096, 76, 0, 0, 0, true},
		"tcp-takes-all":         {Session, 0, 200, 50, 200, 50, false},
		"tls-takes-all":         {Session | Padded, 512, 200, 50, 200, 50, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := dnstest.Query("www.example.", dns.TypeA)
			if row.size > 0 {
				m.SetEdns0(row.size, false)
			}
			r := parsed(t, m, row.channel)
			out := replyFor(t, r, addresses(m, row.answer, row.extra)).AppendTo([]byte("prefix"), r, 0)
			out = bytes.TrimPrefix(out, []byte("prefix"))
			if len(out) > r.limit() {
				t.Errorf("got %d octets; want at most %d", len(out), r.limit())
			}
			got := dnstest.Unpack(t, out)
			extra := len(got.Extra)
			if got.IsEdns0() != nil {
				extra--
			}
			if len(got.Answer) != row.wantAnswer || extra != row.wantExtra || got.Truncated != row.wantTC {
				t.Errorf("got %d, %d records, TC %t; want %d, %d, %t",
					len(got.Answer), extra, got.Truncated, row.wantAnswer, row.wantExtra, row.wantTC)
			}
		})
	}
}

func TestResponseOPT(t *testing.T) {
	padding := func(o dns.EDNS0) bool { return o.Option() == dns.EDNS0PADDING }
	for name, row := range map[string]struct {
		channel   Channel
		keepalive bool
		want      []uint16
	}{
		"udp":           {Datagram, false, nil},
		"udp-keepalive": {Datagram, true, nil},
		"tcp":           {Session, false, nil},
		"tcp-keepalive": {Session, true, []uint16{dns.EDNS0TCPKEEPALIVE}},
		"dot":           {Session | Padded, false, []uint16{dns.EDNS0PADDING}},
		"dot-keepalive": {Session | Padded, true, []uint16{dns.EDNS0TCPKEEPALIVE, dns.EDNS0PADDING}},
		"doh":           {Padded, false, []uint16{dns.EDNS0PADDING}},
		"doh3":          {Padded, false, []uint16{dns.EDNS0PADDING}},
		"doq":           {Padded, false, []uint16{dns.EDNS0PADDING}},
	} {
		t.Run(name, func(t *testing.T) {
			m := dnstest.Query("www.example.", dns.TypeA).SetEdns0(4096, true)
			opt := m.IsEdns0()
			opt.Option = []dns.EDNS0{
				&dns.EDNS0_COOKIE{Cookie: "0123456789abcdef"},
				&dns.EDNS0_SUBNET{Family: 1, SourceNetmask: 24, Address: net.IP{192, 0, 2, 7}},
				&dns.EDNS0_LOCAL{Code: 65001, Data: []byte{1}},
			}
			if row.keepalive {
				opt.Option = append(opt.Option, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE})
			}
			r := parsed(t, m, row.channel)
			r.IdleTimeout = 100
			out := replyFor(t, r, addresses(m, 2, 0)).AppendTo(nil, r, 0)
			got := dnstest.Unpack(t, out).IsEdns0()
			if got == nil || got.UDPSize() != MaxUDP || !got.Do() || got.Version() != 0 {
				t.Fatalf("got %v; want version 0, DO, %d octets", got, MaxUDP)
			}
			var codes []uint16
			for _, o := range got.Option {
				codes = append(codes, o.Option())
				if padding(o) && len(out)%paddingBlock != 0 {
					t.Errorf("got %d octets; want a multiple of %d", len(out), paddingBlock)
				}
				if k, ok := o.(*dns.EDNS0_TCP_KEEPALIVE); ok && k.Timeout != 100 {
					t.Errorf("got a timeout of %d; want 100", k.Timeout)
				}
			}
			if diff := cmp.Diff(row.want, codes); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewResponseRejects(t *testing.T) {
	m := dnstest.Query("www.example.", dns.TypeA)
	r := parsed(t, m, Datagram)
	good := dnstest.Pack(t, addresses(m, 1, 0))
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	svcb := func(rdata string) []byte {
		a := addresses(m, 0, 0)
		hdr := dns.RR_Header{Name: "www.example.", Rrtype: dns.TypeHTTPS, Class: dns.ClassINET}
		a.Answer = []dns.RR{&dns.RFC3597{Hdr: hdr, Rdata: rdata}}
		return dnstest.Pack(t, a)
	}
	for name, wire := range map[string][]byte{
		"empty":                  nil,
		"header-cut":             good[:11],
		"question-cut":           good[:20],
		"record-cut":             good[:len(good)-1],
		"trailing-octet":         append(bytes.Clone(good), 0),
		"query":                  change(func(b []byte) []byte { b[2] &^= FlagQR; return b }),
		"truncated":              change(func(b []byte) []byte { b[2] |= FlagTC; return b }),
		"other-type":             change(func(b []byte) []byte { b[26] = 28; return b }),
		"other-class":            change(func(b []byte) []byte { b[28] = 3; return b }),
		"other-name":             change(func(b []byte) []byte { b[13] = 'v'; return b }),
		"answer-of-other-class":  change(func(b []byte) []byte { b[34] = 3; return b }),
		"count-lies":             change(func(b []byte) []byte { b[7] = 9; return b }),
		"pointer-to-itself":      change(func(b []byte) []byte { b[30] = 29; return b }),
		"pointer-forward":        change(func(b []byte) []byte { b[30] = 40; return b }),
		"address-of-5-octets":    change(func(b []byte) []byte { b[40] = 5; return append(b, 0) }),
		"extended-rcode":         dnstest.Pack(t, extended(m)),
		"two-opts":               dnstest.Pack(t, withExtra(m, opt(), opt())),
		"opt-in-answer":          dnstest.Pack(t, &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Question: m.Question, Answer: []dns.RR{opt()}}),
		"svcb-cut":               svcb("0001"),
		"svcb-name-cut":          svcb("00010377"),
		"svcb-name-compressed":   svcb("0001c00c"),
		"svcb-param-cut":         svcb("000100000100"),
		"svcb-param-beyond-end":  svcb("00010000010009026832"),
		"svcb-params-unsorted":   svcb("00010000030002005000010003026832"),
		"svcb-params-repeated":   svcb("0001000003000200500003000201bb"),
		"svcb-name-without-root": svcb("00010377777700000100"),
	} {
		if p, err := NewResponse(wire, &r.Key, 0); err == nil {
			t.Errorf("%s: got %x; want an error", name, p.msg)
		}
	}
}

func opt() *dns.OPT {
	return &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: 1232}}
}

func extended(m *dns.Msg) *dns.Msg {
	m = new(dns.Msg).SetRcode(m, dns.RcodeBadCookie)
	m.Extra = []dns.RR{opt()}
	return m
}

func withExtra(m *dns.Msg, extra ...dns.RR) *dns.Msg {
	m = addresses(m, 1, 0)
	m.Extra = extra
	return m
}

// What is between two hops is taken out wherever it is, and what is behind it keeps its compressed names.
func TestNewResponseStrips(t *testing.T) {
	m := dnstest.Query("www.example.", dns.TypeA)
	r := parsed(t, m, Session)
	a, b := dnstest.RR("a.sub.example. 60 IN A 198.51.100.1"), dnstest.RR("b.sub.example. 60 IN A 198.51.100.2")
	tsig := &dns.TSIG{
		Hdr:       dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY},
		Algorithm: dns.HmacSHA256, MACSize: 2, MAC: "abcd",
	}
	for name, extra := range map[string][]dns.RR{
		"none":           {a, b},
		"opt-last":       {a, b, opt()},
		"opt-first":      {opt(), a, b},
		"opt-between":    {a, opt(), b},
		"opt-and-tsig":   {a, b, opt(), tsig},
		"opt-early-tsig": {opt(), a, b, tsig},
	} {
		got := dnstest.Unpack(t, replyFor(t, r, withExtra(m, extra...)).AppendTo(nil, r, 0))
		if diff := cmp.Diff([]dns.RR{a, b}, got.Extra, ignoreRdlength); diff != "" {
			t.Errorf("%s: additional records (-want +got):\n%s", name, diff)
		}
	}
}

var ignoreRdlength = cmpopts.IgnoreFields(dns.RR_Header{}, "Rdlength")

func FuzzResponse(f *testing.F) {
	m := dnstest.Query("www.example.", dns.TypeA).SetEdns0(1232, true)
	add := func(r *dns.Msg) { f.Add(dnstest.Pack(f, r), uint32(7)) }
	add(addresses(m, 3, 3))                                                  // plain
	add(withExtra(m, opt()))                                                 // with what is stripped
	add(withExtra(m, opt(), dnstest.RR("www.example. 5 IN A 198.51.100.1"))) // in the middle
	chain := addresses(m, 0, 0)                                              // names in RDATA, compressed
	chain.Answer = []dns.RR{dnstest.RR("www.example. 3600 IN CNAME a.www.example."), dnstest.RR("a.www.example. 60 IN MX 5 mx.www.example.")}
	chain.Ns = []dns.RR{dnstest.RR("example. 90000 IN SOA ns.example. root.example. 1 2 3 4 60")}
	add(chain)
	svcb := addresses(m, 0, 0) // parameters that contain what looks like a hint
	svcb.Answer = []dns.RR{dnstest.RR(`www.example. 300 IN HTTPS 1 . alpn="h2,h3" ipv4hint="198.51.100.1" ech="AAQABMAAAgE="`)}
	add(svcb)
	r := parsed(f, m, Session)
	f.Fuzz(func(t *testing.T, wire []byte, age uint32) {
		p, err := NewResponse(wire, &r.Key, 0)
		if err != nil {
			return
		}
		age %= 2 * MaxTTL
		out := p.AppendTo(nil, r, int64(age)*int64(time.Second))
		var before, after dns.Msg
		if before.Unpack(wire) != nil || !transparent(before.Answer, before.Ns, before.Extra) {
			return // RDATA that is opaque to us
		}
		if err := after.Unpack(out); err != nil {
			t.Fatalf("%v\nfrom %x\nto   %x", err, wire, out)
		}
		if got, want := after.Rcode, before.Rcode; got != want {
			t.Errorf("got RCODE %d; want %d", got, want)
		}
		for _, s := range []struct{ before, after []dns.RR }{
			{before.Answer, after.Answer}, {before.Ns, after.Ns}, {before.Extra, after.Extra},
		} {
			if diff := cmp.Diff(aged(s.before, age), aged(s.after, 0)); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
		}
		if again, err := NewResponse(p.Octets(0), &r.Key, 0); err != nil || !bytes.Equal(again.msg, p.msg) {
			t.Errorf("got %v, %v from our own form; want the same", again, err)
		}
	})
}

// transparent reports whether we know all names in rrs, so that none can go through what we change.
func transparent(sections ...[]dns.RR) bool {
	for _, rr := range slices.Concat(sections...) {
		switch rr.(type) {
		case *dns.A, *dns.AAAA, *dns.NS, *dns.CNAME, *dns.PTR, *dns.DNAME, *dns.MX, *dns.SRV, *dns.SOA, *dns.TXT,
			*dns.SVCB, *dns.HTTPS, *dns.OPT, *dns.MINFO, *dns.RP, *dns.HINFO, *dns.RFC3597, *dns.CAA:
		default:
			return false
		}
	}
	return true
}

// aged returns the records that clients may see, in text, as they are after age seconds.
func aged(rrs []dns.RR, age uint32) []string {
	var out []string
	for _, rr := range rrs {
		h := rr.Header()
		if HopByHop(h.Rrtype) {
			continue
		}
		ttl := SaneTTL(h.Ttl)
		if _, ok := rr.(*dns.SOA); ok {
			ttl = 0 // it may have become that of the negative answer, see TestNegativeTTL
		}
		rr = dns.Copy(rr)
		rr.Header().Ttl = ttl - min(ttl, age)
		out = append(out, strings.ToLower(rr.String()))
	}
	return out
}
