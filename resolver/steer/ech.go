package steer

import (
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// Question is what Lookup is called with.
type Question struct {
	Name string
	Type uint16
}

// Ahead returns what steering a response to a question for name, in lower case, may have to look up, so that it can be
// asked for at the same time: the HTTPS records if a rule depends on ech, and the A records for AAAA records that are made
// of them.
func (s *Steerer) Ahead(name string, qtype uint16) (list []Question) {
	if !hasAddress(qtype) {
		return nil
	}
	rules := s.config.Policy.Rules([]string{name})
	_, byName, byAddr := s.config.Policy.Scope(rules, true)
	_, byName0, byAddr0 := s.config.Policy.Scope(rules, false)
	https := Question{stripAttrleaf(name), dns.TypeHTTPS}
	if (byName != byName0 || byAddr != byAddr0) && https != (Question{name, qtype}) {
		list = append(list, https)
	}
	if qtype == dns.TypeAAAA && (byName || byAddr) {
		list = append(list, Question{name, dns.TypeA})
	}
	return list
}

// hasECH reports whether an HTTPS record of QNAME, or of the name behind its Attrleaf labels, carries ech. A response that
// has such records tells by itself.
func (r *rewrite) hasECH() bool {
	if !r.echKnown {
		r.echKnown = true
		tells := hasService(r.m) && !strings.HasPrefix(r.qname, "_")
		r.ech = r.carriesECH() || !tells && r.lookupECH()
	}
	return r.ech
}

// carriesECH reports whether a service record of the response carries ech.
func (r *rewrite) carriesECH() bool {
	if !r.carriesKnown {
		r.carriesKnown, r.carries = true, carriesECH(r.m)
	}
	return r.carries
}

// carriesECH reports whether a service record in m carries ech.
func carriesECH(m *wire.Message) bool {
	return slices.ContainsFunc(slices.Concat(m.Sections[wire.AnswerSection], m.Sections[wire.AdditionalSection]), func(a wire.Record) bool {
		return a.IsService() && wire.HasSvcParam(a.Rest, dns.SVCB_ECHCONFIG)
	})
}

// hasService reports whether m has an HTTPS record in ServiceMode.
func hasService(m *wire.Message) bool {
	return slices.ContainsFunc(slices.Concat(m.Sections[wire.AnswerSection], m.Sections[wire.AdditionalSection]), func(a wire.Record) bool {
		return a.IsService() && a.Type == dns.TypeHTTPS
	})
}

// lookupECH asks for the HTTPS records of the name behind QNAME, and of what they are an alias of.
func (r *rewrite) lookupECH() bool {
	name := stripAttrleaf(r.qname)
	for range maxAliases {
		m := r.ask(name, dns.TypeHTTPS)
		if m == nil {
			return false
		}
		if hasService(m) {
			return carriesECH(m)
		}
		if name = alias(m); name == "" {
			return false
		}
	}
	return false
}

// ask returns the response to a question that is not the client's own, or nil if that failed or the name does not exist.
func (r *rewrite) ask(name string, qtype uint16) *wire.Message {
	response, err := r.lookup(r.ctx, name, qtype)
	if err != nil {
		r.unsure = true
		return nil
	}
	m, _, err := parse(response)
	if err != nil || m.Rcode() != dns.RcodeSuccess {
		r.unsure = r.unsure || err != nil || m.Rcode() != dns.RcodeNameError
		return nil
	}
	return m
}

// alias returns the name that the HTTPS record in AliasMode in m points to, or "".
func alias(m *wire.Message) string {
	for _, r := range m.Sections[wire.AnswerSection] {
		if r.Type == dns.TypeHTTPS && !r.IsService() {
			return r.Target()
		}
	}
	return ""
}

// stripAttrleaf returns the name behind leading labels that begin with an underscore. See RFC 8552.
func stripAttrleaf(name string) string {
	for strings.HasPrefix(name, "_") {
		i, end := dns.NextLabel(name, 0)
		if end {
			return "."
		}
		name = name[i:]
	}
	return name
}
