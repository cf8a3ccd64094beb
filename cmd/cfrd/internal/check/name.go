package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/resolver"
)

// knownName returns the name that is expected, or that was designated first, or "".
func (c checker) knownName(records []Designation) string {
	if c.Name == "" && len(records) > 0 {
		return records[0].Target
	}
	return c.Name
}

// byName asks for the designation under the resolver's name, as clients do that were configured with it. See RFC
// 9462, Section 5. That the certificate has the name is looked at with the transports.
func (c checker) byName(ctx context.Context, name string) {
	if name == "" {
		return
	}
	target := "_dns." + name
	m, err := c.ask(ctx, target, dns.TypeSVCB)
	if err != nil {
		c.fail("ddr-by-name", target, "no answer: %v", err)
		return
	}
	found := ofType(m.answer, dns.TypeSVCB)
	usable, err := countUsable(found)
	switch {
	case err != nil:
		c.fail("ddr-by-name", target, "malformed, so that clients reject the whole answer: %v", err)
	case usable > 0:
		c.ok("ddr-by-name", target, "%d SVCB records", len(found))
	case c.Name != "":
		c.fail("ddr-by-name", target, "%s without usable SVCB records: clients that know the name stay unencrypted",
			dns.RcodeToString[m.rcode])
	default:
		c.skip("ddr-by-name", target, "not published; clients that know only the name cannot discover")
	}
}

// countUsable returns how many records a DNS client can use. One that is malformed spoils them all. See RFC 9460,
// Section 2.2.
func countUsable(records []record) (n int, err error) {
	for _, rr := range records {
		r, err := svcb.Parse(rr.data)
		if err != nil {
			return 0, err
		}
		if r.CheckDNS() == nil {
			n++
		}
	}
	return n, nil
}

// resinfo asks for the resolver information, at the name of discovery and at the resolver's own. See RFC 9606, Section 3.
func (c checker) resinfo(ctx context.Context, name string, records []Designation) {
	for _, owner := range []string{"resolver.arpa.", name} {
		if owner == "" || len(records) == 0 {
			continue
		}
		m, err := c.askEncrypted(ctx, owner, dns.TypeRESINFO, records)
		if errors.Is(err, errNoTransport) {
			c.skip("resinfo", owner, "no encrypted transport works, and only those protect it")
			continue
		}
		if err != nil {
			c.fail("resinfo", owner, "no answer: %s", reason(err))
			continue
		}
		c.judgeInfo(owner, m)
	}
}

// judgeInfo judges the response m to a question for RESINFO at owner. See RFC 9606, Sections 3 to 5.
func (c checker) judgeInfo(owner string, m message) {
	found := ofType(m.answer, dns.TypeRESINFO)
	if len(found) == 0 {
		c.skip("resinfo", owner, "%s: the resolver says nothing of itself there", dns.RcodeToString[m.rcode])
		return
	}
	txt, err := characterStrings(found[0].data)
	var info ddr.Info
	if err == nil {
		info, err = ddr.ParseInfo(txt)
	}
	switch {
	case !m.aa:
		c.fail("resinfo", owner, "answers without AA, so that clients discard it: it was forwarded")
	case len(found) > 1:
		c.fail("resinfo", owner, "%d records instead of one", len(found))
	case err != nil:
		c.fail("resinfo", owner, "%v", err)
	default:
		c.ok("resinfo", owner, "%s (%d Extended DNS Errors, page %q)", strings.Join(txt, " "), len(info.ExtErr), info.URL)
	}
}

// characterStrings splits the data of a TXT or RESINFO record. See RFC 1035, Section 3.3.
func characterStrings(data []byte) (list []string, err error) {
	for len(data) > 0 {
		n := int(data[0])
		if len(data) < 1+n {
			return nil, errors.New("a character-string ends too early")
		}
		list, data = append(list, string(data[1:1+n])), data[1+n:]
	}
	if len(list) == 0 {
		return nil, errors.New("there is no character-string")
	}
	return list, nil
}

var errNoTransport = errors.New("no encrypted transport answers")

// askEncrypted asks without RD over the first transport that answers. Whether its certificate is right is judged
// elsewhere.
func (c checker) askEncrypted(ctx context.Context, name string, qtype uint16, records []Designation) (message, error) {
	q := Question(name, qtype)
	q.RecursionDesired = false
	for _, d := range records {
		for _, id := range d.ALPN {
			if t, ok := transportOf(id); ok {
				if m, err := c.tryOver(ctx, t, c.unnamed(ctx, d, id), q); err == nil {
					return m, nil
				}
			}
		}
	}
	return message{}, errNoTransport
}

// tryOver asks over t without regard to the certificate.
func (c checker) tryOver(ctx context.Context, t resolver.Transport, client Client, q *dns.Msg) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	client.Verify = acceptAny
	return client.ask(ctx, t, q)
}

// https looks at the HTTPS record of the name, which should describe DoH as discovery does, and at the provisioning
// domain that it points to. See RFC 9461, Section 5.
func (c checker) https(ctx context.Context, name string, records []Designation) {
	if name == "" {
		return
	}
	m, err := c.ask(ctx, name, dns.TypeHTTPS)
	found := ofType(m.answer, dns.TypeHTTPS)
	switch {
	case err != nil:
		c.fail("https-record", name, "no answer: %v", err)
		return
	case len(found) == 0:
		c.skip("https-record", name, "not published; clients of DoH find it all the same")
		return
	}
	for _, rr := range found {
		r, err := svcb.Parse(rr.data)
		switch {
		case err != nil:
			c.fail("https-record", name, "malformed, so that clients reject the whole answer: %v", err)
			return
		case r.Priority == 0:
			c.skip("https-record", name, "is an alias of %s", r.Target)
			return
		}
		c.httpsRecord(ctx, name, r, records)
	}
}

// httpsRecord compares one HTTPS record of name with the designations, and looks at its provisioning domain.
func (c checker) httpsRecord(ctx context.Context, name string, r svcb.Record, records []Designation) {
	ids, port := httpsALPN(r), cmp.Or(r.Port(), 443)
	target := fmt.Sprintf("%s %d", name, r.Priority)
	same := func(d Designation) bool { return cmp.Or(d.Port, 443) == port && hasCommon(d.ALPN, ids) }
	if slices.ContainsFunc(records, same) {
		c.ok("https-record", target, "alpn=%s port=%d, as discovery says", strings.Join(ids, ","), port)
	} else {
		c.skip("https-record", target, "alpn=%s port=%d: not what discovery says", strings.Join(ids, ","), port)
	}
	if _, ok := r.Value(svcb.KeyPvD); ok {
		c.pvd(ctx, name, r)
	}
}

// httpsALPN returns the protocols of an HTTPS record with the default one. See RFC 9460, Section 7.1.2.
func httpsALPN(r svcb.Record) []string {
	ids := r.ALPN()
	if _, excluded := r.Value(svcb.KeyNoDefaultALPN); !excluded && !slices.Contains(ids, "http/1.1") {
		ids = append(ids, "http/1.1")
	}
	return ids
}

// hasCommon reports whether a and b have an element in common.
func hasCommon(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
