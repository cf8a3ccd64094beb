package main

import (
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// serveUpstream answers at the lab's upstream address until the test ends: A records of *.example with the lab's own
// address, everything else with NXDOMAIN.
func (l *lab) serveUpstream(t *testing.T) {
	t.Helper()
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.addr, 9053)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if reply := l.upstreamReply(buf[:n]); reply != nil {
				_, _ = pc.WriteToUDPAddrPort(reply, from)
			}
		}
	}()
	t.Cleanup(func() {
		pc.Close()
		<-done
	})
}

func (l *lab) upstreamReply(query []byte) []byte {
	q := new(dns.Msg)
	if q.Unpack(query) != nil || len(q.Question) != 1 {
		return nil
	}
	r := new(dns.Msg)
	r.SetReply(q)
	r.RecursionAvailable = true
	name := q.Question[0].Name
	switch {
	case !dns.IsSubDomain("example.", name):
		r.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		r.Answer = append(r.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300},
			A:   l.addr.AsSlice(),
		})
	}
	if q.IsEdns0() != nil {
		r.SetEdns0(1232, false)
	}
	out, err := r.Pack()
	if err != nil {
		return nil
	}
	return out
}
