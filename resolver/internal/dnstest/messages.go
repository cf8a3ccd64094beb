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
