package steer

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// TestSteerLeavesTheRest: only addresses, TTLs of their RRsets, and AD differ.
func TestSteerLeavesTheRest(t *testing.T) {
	in := dnstest.Everything()
	got, err := steererFor("cdn.example").Apply(t.Context(), Request{Response: dnstest.Pack(t, in), Lookup: nil})
	out, v := got.Octets, got.Verdict
	if err != nil || v != Steered {
		t.Fatalf("got %v, %v; want steered", v, err)
	}
	in.AuthenticatedData = false
	in.Answer[1] = dnstest.RR("a.Cdn.example. 60 A 198.51.100.1")
	in.Answer[2] = dnstest.RR("a.Cdn.example. 60 AAAA 2001:db8:ab1e::7")
	in.Answer[8] = dnstest.RR("a.Cdn.example. 60 HTTPS 1 t.Cdn.example. ipv4hint=198.51.100.1 ech=AAEC")
	if diff := cmp.Diff(in.String(), dnstest.Unpack(t, out).String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSteerOtherClassesAndCodes(t *testing.T) {
	s := steererFor(".")
	for name, change := range map[string]func(*dns.Msg){
		"class-ch":  func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"servfail":  func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure },
		"record-hs": func(m *dns.Msg) { m.Answer = m.Answer[1:2]; m.Answer[0].Header().Class = dns.ClassHESIOD },
	} {
		t.Run(name, func(t *testing.T) {
			m := dnstest.Everything()
			change(m)
			in := dnstest.Pack(t, m)
			got, err := s.Apply(t.Context(), Request{Response: in, Lookup: nil})
			out, v := got.Octets, got.Verdict
			if v != Untouched || err != nil || !bytes.Equal(in, out) {
				t.Errorf("got %v, %v, changed %v; want the reply itself", v, err, !bytes.Equal(in, out))
			}
		})
	}
}

// TestSteerUnreadableParameters: clients must ignore such a record, and one that does not must not find the address.
func TestSteerUnreadableParameters(t *testing.T) {
	m := dnstest.Query("www.cdn.example.", dns.TypeHTTPS)
	m.Response = true
	msg := dnstest.Pack(t, m)
	msg[7] = 1
	rdata := append([]byte{0, 1, 0}, 0, 4, 0, 5, 192, 0, 2, 1, 9)
	msg = append(msg, 0xc0, 12, 0, 65, 0, 1, 0, 0, 1, 44, 0, byte(len(rdata)))
	result, err := steererFor("cdn.example").Apply(t.Context(), Request{Response: append(msg, rdata...), Lookup: nil})
	out, v := result.Octets, result.Verdict
	if err != nil || v != Steered {
		t.Fatalf("got %v, %v; want steered", v, err)
	}
	if got := dnstest.Unpack(t, out); len(got.Answer) != 0 || len(got.Ns) != 1 {
		t.Errorf("got %v; want NODATA", got)
	}
}

func TestSteerMalformed(t *testing.T) {
	good := dnstest.Pack(t, dnstest.Everything())
	for n := range good {
		if _, err := steererFor(".").Apply(t.Context(), Request{Response: good[:n], Lookup: nil}); !errors.Is(err, wire.ErrMalformed) {
			t.Fatalf("the first %d octets: got %v; want %v", n, err, wire.ErrMalformed)
		}
	}
}

// FuzzSteer steers 192.0.2.0/24 and 2001:db8:1::/48 in any response.
func FuzzSteer(f *testing.F) {
	f.Add(dnstest.Pack(f, dnstest.Everything()), dnstest.Pack(f, dnstest.Everything()), false)
	w := dnstest.World{
		"a.example. 300 CNAME b.example.", "b.example. 300 HTTPS 1 c.example. ipv4hint=192.0.2.1 ipv6hint=2001:db8:1::7 ech=AAEC",
		"b.example. 300 A 192.0.2.1", "+c.example. 1 A 192.0.2.2", "+c.example. 1 HTTPS 0 d.example.",
	}
	f.Add(dnstest.Pack(f, w.Response("a.example.", dns.TypeHTTPS)), dnstest.Pack(f, w.Response("a.example.", dns.TypeA)), true)
	f.Add(dnstest.Pack(f, w.Response("a.example.", dns.TypeAAAA)), dnstest.Pack(f, w.Response("a.example.", dns.TypeA)), false) // made of A
	f.Add(dnstest.Pack(f, w.Response("a.example.", dns.TypeANY)), dnstest.Pack(f, w.Response("a.example.", dns.TypeA)), true)
	f.Fuzz(func(t *testing.T, reply, other []byte, poor bool) {
		policy, relay := &dnstest.Counted{Policy: "192.0.2.0/24 2001:db8:1::/48 ech"}, &dnstest.Relay{No4: poor, No6: poor, Size: 1 << 16}
		s, err := New(Config{Policy: policy, Relay: relay, Ports: []uint16{443}}, nil, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		result, err := s.Apply(t.Context(), Request{Response: reply, Lookup: func(context.Context, string, uint16) ([]byte, error) { return other, nil }})
		out, v := result.Octets, result.Verdict
		if policy.Labels > maxLabels || policy.Calls > 2*maxAddresses || relay.Leased() > maxNew {
			t.Errorf("got %d labels, %d calls of the policy, %d new leases; want bounds of %d, %d, %d",
				policy.Labels, policy.Calls, relay.Leased(), maxLabels, 2*maxAddresses, maxNew)
		}
		if err != nil {
			return
		}
		if v == Untouched && !bytes.Equal(out, reply) {
			t.Error("changed, but untouched")
		}
		var before, after dns.Msg
		if before.Unpack(reply) != nil || before.Rcode != dns.RcodeSuccess || before.Question[0].Qclass != dns.ClassINET || exotic(&before) {
			return
		}
		if err := after.Unpack(out); err != nil {
			t.Fatalf("the library reads %x, but not %x: %v", reply, out, err)
		}
		for _, r := range slices.Concat(after.Answer, after.Ns, after.Extra) {
			if r.Header().Class == dns.ClassINET {
				checkNoLeak(t, s, r)
			}
		}
		if want, got := otherParams(&before), otherParams(&after); !result.Cut && !cmp.Equal(want, got) {
			t.Errorf("other parameters (-want +got):\n%s", cmp.Diff(want, got))
		}
		again, err := s.Apply(t.Context(), Request{Response: out, Lookup: func(context.Context, string, uint16) ([]byte, error) { return nil, wire.ErrMalformed }})
		if err != nil || again.Verdict == Steered {
			t.Errorf("steered again, or %v: %x", err, again.Octets)
		}
	})
}

// exotic reports whether m has types with names in RDATA that nobody compresses and nameLayout does not know.
func exotic(m *dns.Msg) bool {
	return slices.ContainsFunc(slices.Concat(m.Answer, m.Ns, m.Extra), func(r dns.RR) bool {
		switch r.(type) {
		case *dns.HIP, *dns.IPSECKEY, *dns.AMTRELAY, *dns.TSIG, *dns.TKEY:
			return true
		}
		return false
	})
}

// checkNoLeak checks that r has no steered address, nor one in which that is written.
func checkNoLeak(t *testing.T, s *Steerer, r dns.RR) {
	t.Helper()
	var addrs []netip.Addr
	add := func(ip []byte) {
		addr, _ := netip.AddrFromSlice(ip)
		dst, _ := s.destination(addr)
		addrs = append(addrs, dst)
	}
	var svcb *dns.SVCB
	switch r := r.(type) {
	case *dns.A:
		add(r.A)
	case *dns.AAAA:
		add(r.AAAA)
	case *dns.HTTPS:
		svcb = &r.SVCB
	case *dns.SVCB:
		svcb = r
	}
	if svcb != nil {
		for _, v := range svcb.Value {
			switch v := v.(type) {
			case *dns.SVCBIPv4Hint:
				for _, ip := range v.Hint {
					add(ip)
				}
			case *dns.SVCBIPv6Hint:
				for _, ip := range v.Hint {
					add(ip)
				}
			}
		}
	}
	for _, addr := range addrs {
		if netip.MustParsePrefix("192.0.2.0/24").Contains(addr) || netip.MustParsePrefix("2001:db8:1::/48").Contains(addr) {
			t.Errorf("%s leaks", r)
		}
	}
}

// otherParams returns the parameters of all service records that steering has no business with.
func otherParams(m *dns.Msg) []string {
	var all []string
	for _, r := range slices.Concat(m.Answer, m.Ns, m.Extra) {
		var params []dns.SVCBKeyValue
		switch r := r.(type) {
		case *dns.HTTPS:
			params = r.Value
		case *dns.SVCB:
			params = r.Value
		}
		for _, p := range params {
			if k := p.Key(); k != dns.SVCB_IPV4HINT && k != dns.SVCB_IPV6HINT && k != dns.SVCB_MANDATORY && k != dns.SVCB_PORT {
				all = append(all, k.String()+"="+p.String())
			}
		}
	}
	return all
}
