package dnstest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// World is what upstreams know: records in one string each. "+" before a record puts it in the Additional section of
// every response, "-" into the Authority section; "fail NAME TYPE" makes that question fail.
type World []string

// Response returns the response to a question, with CNAME records followed.
func (w World) Response(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.Response, m.RecursionAvailable, m.AuthenticatedData, m.Compress = true, true, true, true
	owner, exists := name, false
	for hop := 0; owner != "" && hop < 20; hop++ {
		next := ""
		for _, line := range w {
			if line[0] == '+' || line[0] == '-' || strings.HasPrefix(line, "fail ") {
				continue
			}
			record := RR(line)
			if !strings.EqualFold(record.Header().Name, owner) {
				continue
			}
			exists = true
			sig, signed := record.(*dns.RRSIG)
			switch rtype := record.Header().Rrtype; {
			case rtype == qtype, qtype == dns.TypeANY, signed && sig.TypeCovered == qtype:
				m.Answer = append(m.Answer, record)
			case rtype == dns.TypeCNAME:
				m.Answer = append(m.Answer, record)
				next = record.(*dns.CNAME).Target
			}
		}
		owner = next
	}
	for _, line := range w {
		switch line[0] {
		case '+':
			m.Extra = append(m.Extra, RR(line[1:]))
		case '-':
			m.Ns = append(m.Ns, RR(line[1:]))
		}
	}
	if !slices.ContainsFunc(m.Answer, func(r dns.RR) bool { return r.Header().Rrtype == qtype || qtype == dns.TypeANY }) {
		m.Ns = append(m.Ns, RR("example. 300 SOA ns.example. h.example. 1 2 3 4 40"))
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
	}
	return m
}

// Lookup returns a steer.Lookup that finds what is in w.
func (w World) Lookup(t testing.TB) func(ctx context.Context, name string, qtype uint16) ([]byte, error) {
	return func(_ context.Context, name string, qtype uint16) ([]byte, error) {
		if slices.Contains(w, "fail "+name+" "+dns.TypeToString[qtype]) {
			return nil, errors.New("no answer")
		}
		return Pack(t, w.Response(name, qtype)), nil
	}
}

// Upstream is an upstream without a network.
type Upstream struct {
	Asked   atomic.Int64 // queries
	Retired atomic.Bool
	Serve   func(ctx context.Context, m *dns.Msg) (*dns.Msg, error)
}

// Retire implements upstream.Exchanger.
func (f *Upstream) Retire() { f.Retired.Store(true) }

// Exchange implements upstream.Exchanger.
func (f *Upstream) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	f.Asked.Add(1)
	var m dns.Msg
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	r, err := f.Serve(ctx, &m)
	if err != nil {
		return nil, err
	}
	return r.Pack()
}

// Records returns an upstream that has these records, with the SOA of example for what does not exist.
func Records(lines ...string) *Upstream {
	return &Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		r := new(dns.Msg).SetReply(m)
		r.Compress, r.RecursionAvailable, r.Authoritative = true, true, true
		known := false
		for _, l := range lines {
			rr := RR(l)
			if strings.EqualFold(rr.Header().Name, m.Question[0].Name) {
				known = true
				if rr.Header().Rrtype == m.Question[0].Qtype {
					r.Answer = append(r.Answer, rr)
				}
			}
		}
		if len(r.Answer) == 0 {
			r.Ns = append(r.Ns, RR("example. 300 IN SOA ns.example. root.example. 1 2 3 4 60"))
			if !known {
				r.Rcode = dns.RcodeNameError
			}
		}
		if opt := m.IsEdns0(); opt != nil {
			r.SetEdns0(4096, opt.Do())
		}
		return r, nil
	}}
}

// Upstream returns w as an upstream.
func (w World) Upstream() *Upstream {
	return &Upstream{Serve: func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		r := w.Response(m.Question[0].Name, m.Question[0].Qtype)
		r.Id = m.Id
		return r, nil
	}}
}
