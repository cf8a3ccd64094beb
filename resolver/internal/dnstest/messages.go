// Package dnstest is what the tests of the resolver and of its rooms have in common: DNS messages in one line, upstreams
// without a network, and a policy and a relay in a few words. Only tests import it. It speaks of messages as
// github.com/miekg/dns does and imports nothing of ours, so that every room can be tested with it.
package dnstest

import (
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// Query returns a query for name, which is fully qualified.
func Query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// Pack returns m in wire form.
func Pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RR returns the record that s is in the form of zone files. It panics if that is none.
func RR(s string) dns.RR {
	rr, err := dns.NewRR(s)
	if err != nil {
		panic(err)
	}
	return rr
}

// Unpack returns the message in b.
func Unpack(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return &m
}

// paddingBlock is what responses are padded to. See RFC 8467, Section 4.1.
const paddingBlock = 468

// Unpadded returns response without its padding, after checking its length.
func Unpadded(t *testing.T, response []byte) []byte {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(response); err != nil {
		t.Fatal(err)
	}
	opt := m.IsEdns0()
	if opt == nil {
		return response
	}
	if len(response)%paddingBlock != 0 {
		t.Errorf("got %d octets; want a multiple of %d", len(response), paddingBlock)
	}
	opt.Option = slices.DeleteFunc(opt.Option, func(o dns.EDNS0) bool { return o.Option() == dns.EDNS0PADDING })
	return Pack(t, &m)
}

// Everything returns a response with names wherever RDATA can have them, and an OPT record with an option.
func Everything() *dns.Msg {
	m := Query("www.Cdn.example.", dns.TypeA)
	m.Response, m.Compress, m.AuthenticatedData = true, true, true
	for _, s := range []string{
		"www.Cdn.example. 300 CNAME a.Cdn.example.", "a.Cdn.example. 300 A 192.0.2.1", "a.Cdn.example. 300 AAAA 2001:db8:1::7",
		"a.Cdn.example. 300 MX 1 mail.Cdn.example.", "a.Cdn.example. 300 SRV 1 2 3 srv.Cdn.example.", "a.Cdn.example. 300 TXT x y",
		`a.Cdn.example. 300 NAPTR 1 2 "s" "sip" "!^.*$!x!" r.Cdn.example.`, "a.Cdn.example. 300 RP m.Cdn.example. t.Cdn.example.",
		"a.Cdn.example. 300 HTTPS 1 t.Cdn.example. ipv4hint=192.0.2.1 ech=AAEC", "a.Cdn.example. 300 PX 1 m.Cdn.example. x.Cdn.example.",
		"a.Cdn.example. 300 RRSIG TXT 13 3 300 20300101000000 20200101000000 1 Cdn.example. AAAA", "d.Cdn.example. 300 DNAME e.Cdn.example.",
		"a.Cdn.example. 300 CAA 0 issue ca.example", "a.Cdn.example. 300 TYPE65300 \\# 4 c000c00c",
	} {
		m.Answer = append(m.Answer, RR(s))
	}
	m.Ns = []dns.RR{RR("Cdn.example. 300 SOA ns.Cdn.example. h.Cdn.example. 1 2 3 4 5"), RR("Cdn.example. 300 NSEC a.Cdn.example. NS SOA"), RR("Cdn.example. 300 NS ns.Cdn.example.")}
	m.SetEdns0(1232, true)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: 3, ExtraText: "x"}}
	return m
}
