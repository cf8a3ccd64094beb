package wire

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// scrubbed returns what Scrub makes of a response with these records, which are in the Answer section, with "-" before
// them in the Authority section, and with "+" in the Additional section; and the records that are left, in that form.
func scrubbed(t *testing.T, name string, qtype uint16, flags uint8, rcode int, records []string) (*Response, Content, []string, error) {
	t.Helper()
	m := dnstest.Query(name, qtype)
	m.Response, m.Rcode, m.Compress, m.AuthenticatedData = true, rcode, true, true
	for _, r := range records {
		switch rr := dnstest.RR(strings.TrimLeft(r, "+-")); r[0] {
		case '-':
			m.Ns = append(m.Ns, rr)
		case '+':
			m.Extra = append(m.Extra, rr)
		default:
			m.Answer = append(m.Answer, rr)
		}
	}
	k, err := NewKey(name, qtype, flags)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewResponse(dnstest.Pack(t, m), k, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, content, err := p.Scrub(k)
	if err != nil {
		return nil, content, nil, err
	}
	again, _, err := p.Scrub(k)
	if err != nil || string(again.msg) != string(p.msg) {
		t.Errorf("scrubbed again: got %x, %v; want the same", again.msg, err)
	}
	var left []string
	got := dnstest.Unpack(t, p.msg)
	for i, section := range [][]dns.RR{got.Answer, got.Ns, got.Extra} {
		for _, rr := range section {
			left = append(left, []string{"", "-", "+"}[i]+strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	if !got.AuthenticatedData {
		t.Error("AD is lost")
	}
	return p, content, left, nil
}

func TestScrub(t *testing.T) {
	const (
		a     = "www.example. 300 IN A 198.51.100.1"
		soa   = "-example. 300 IN SOA ns.example. root.example. 1 2 3 4 60"
		ns    = "-example. 300 IN NS ns.example."
		evil  = "victim.test. 300 IN A 203.0.113.66"
		cname = "www.example. 300 IN CNAME a.cdn.test."
		end   = "a.cdn.test. 300 IN A 198.51.100.2"
		sig   = " 8 2 300 20300101000000 20200101000000 1 example. AAAA"
	)
	for name, row := range map[string]struct {
		qtype   uint16
		flags   uint8
		rcode   int
		records []string // those with "!" before them are to go, those with "=" to be made
		want    Content
		alias   string
	}{
		"answer":                   {dns.TypeA, 0, 0, []string{a, "www.example. 300 IN A 198.51.100.3"}, Complete, ""},
		"other-type":               {dns.TypeHTTPS, 0, 0, []string{"!" + a}, Unrelated, ""},
		"other-type-and-soa":       {dns.TypeHTTPS, 0, 0, []string{"!" + a, soa}, Complete, ""},
		"other-type-at-the-end":    {dns.TypeHTTPS, 0, 0, []string{cname, "!" + end}, Partial, "a.cdn.test."},
		"unrelated-answer":         {dns.TypeA, 0, 0, []string{a, "!" + evil}, Complete, ""},
		"unrelated-answer-first":   {dns.TypeA, 0, 0, []string{"!" + evil, a}, Complete, ""},
		"only-unrelated":           {dns.TypeA, 0, 0, []string{"!" + evil}, Unrelated, ""},
		"unrelated-additional":     {dns.TypeA, 0, 0, []string{a, "!+" + evil}, Complete, ""},
		"unrelated-authority":      {dns.TypeA, 0, 0, []string{a, "!-" + evil}, Complete, ""},
		"same-name-additional":     {dns.TypeA, 0, 0, []string{a, "!+www.example. 300 IN A 203.0.113.66"}, Complete, ""},
		"name-below":               {dns.TypeA, 0, 0, []string{a, "!x.www.example. 300 IN A 203.0.113.66"}, Complete, ""},
		"servers":                  {dns.TypeA, 0, 0, []string{a, "!" + ns, "!+ns.example. 300 IN A 198.51.100.53"}, Complete, ""},
		"soa-beside-answer":        {dns.TypeA, 0, 0, []string{a, "!" + soa}, Complete, ""},
		"chain":                    {dns.TypeA, 0, 0, []string{cname, end}, Complete, ""},
		"chain-in-disorder":        {dns.TypeA, 0, 0, []string{end, cname}, Complete, ""},
		"chain-without-end":        {dns.TypeA, 0, 0, []string{cname}, Partial, "a.cdn.test."},
		"chain-without-end-and-ns": {dns.TypeA, 0, 0, []string{cname, "!-cdn.test. 300 IN NS ns.cdn.test."}, Partial, "a.cdn.test."},
		"chain-nodata":             {dns.TypeA, 0, 0, []string{cname, "-cdn.test. 300 IN SOA ns.cdn.test. root.cdn.test. 1 2 3 4 60"}, Complete, ""},
		"chain-nodata-other-zone":  {dns.TypeA, 0, 0, []string{cname, "!" + soa}, Partial, "a.cdn.test."},
		"chain-nxdomain":           {dns.TypeA, 0, dns.RcodeNameError, []string{cname, "-test. 300 IN SOA ns.test. root.test. 1 2 3 4 60"}, Complete, ""},
		"chain-in-two":             {dns.TypeA, 0, 0, []string{cname, "a.cdn.test. 300 IN CNAME b.cdn.test.", "b.cdn.test. 300 IN A 198.51.100.2"}, Complete, ""},
		"alias-beside-data":        {dns.TypeA, 0, 0, []string{cname, "!a.cdn.test. 300 IN CNAME b.cdn.test.", end}, Complete, ""},
		"second-alias":             {dns.TypeA, 0, 0, []string{"!www.example. 300 IN CNAME evil.test.", cname, end}, Complete, ""},
		"cname-asked-for":          {dns.TypeCNAME, 0, 0, []string{cname, "!" + end}, Complete, ""},
		"any":                      {dns.TypeANY, 0, 0, []string{a, "www.example. 300 IN TXT x", "!" + evil}, Complete, ""},
		"nodata":                   {dns.TypeA, 0, 0, []string{soa}, Complete, ""},
		"nodata-without-soa":       {dns.TypeA, 0, 0, nil, Complete, ""},
		"nodata-of-another-zone":   {dns.TypeA, 0, 0, []string{"!-other.test. 300 IN SOA ns.test. root.test. 1 2 3 4 60"}, Complete, ""},
		"nodata-and-servers":       {dns.TypeA, 0, 0, []string{soa, "!" + ns}, Complete, ""},
		"nxdomain":                 {dns.TypeA, 0, dns.RcodeNameError, []string{soa}, Complete, ""},
		"referral":                 {dns.TypeA, 0, 0, []string{"!" + ns, "!+ns.example. 300 IN A 198.51.100.53"}, Referral, ""},
		"referral-to-the-root":     {dns.TypeA, 0, 0, []string{"!-. 300 IN NS a.root-servers.net."}, Referral, ""},
		"signed": {dns.TypeA, DO, 0, []string{
			cname, "www.example. 300 IN RRSIG CNAME" + sig, end, "a.cdn.test. 300 IN RRSIG A" + sig,
			"!a.cdn.test. 300 IN RRSIG TXT" + sig, "!victim.test. 300 IN RRSIG A" + sig,
		}, Complete, ""},
		"signed-denial": {dns.TypeA, DO, dns.RcodeNameError, []string{
			soa, "-example. 300 IN RRSIG SOA" + sig, "-a.example. 300 IN NSEC z.example. A",
			"-a.example. 300 IN RRSIG NSEC" + sig, "!-example. 300 IN RRSIG NS" + sig,
		}, Complete, ""},
		"hashed-denial": {dns.TypeA, DO, 0, []string{soa, "-0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.example. 300 IN NSEC3 1 0 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr A"}, Complete, ""},
		"signed-wildcard": {dns.TypeA, DO, 0, []string{
			a, "www.example. 300 IN RRSIG A" + sig, "-a.example. 300 IN NSEC z.example. A",
			"-a.example. 300 IN RRSIG NSEC" + sig,
		}, Complete, ""},
		"denial-not-wanted": {dns.TypeA, 0, 0, []string{soa, "!-a.example. 300 IN NSEC z.example. A"}, Complete, ""},
		"rrsig-asked-for":   {dns.TypeRRSIG, 0, 0, []string{"www.example. 300 IN RRSIG A" + sig, "!" + evil}, Complete, ""},
		"mx-glue": {dns.TypeMX, 0, 0, []string{
			"www.example. 300 IN MX 1 mx.example.", "+mx.example. 300 IN A 198.51.100.25",
			"+mx.example. 300 IN AAAA 2001:db8::25", "!+mx.example. 300 IN TXT x", "!+" + evil,
		}, Complete, ""},
		"srv-glue": {dns.TypeSRV, 0, 0, []string{"www.example. 300 IN SRV 1 2 3 srv.example.", "+srv.example. 300 IN A 198.51.100.25", "!+" + evil}, Complete, ""},
		"ns-glue":  {dns.TypeNS, 0, 0, []string{"www.example. 300 IN NS ns.example.", "+ns.example. 300 IN A 198.51.100.53", "!+" + evil}, Complete, ""},
		"https-glue": {dns.TypeHTTPS, 0, 0, []string{
			"www.example. 300 IN HTTPS 1 svc.example. alpn=\"h2\"", "+svc.example. 300 IN A 198.51.100.1",
			"+svc.example. 300 IN AAAA 2001:db8::1", "!+www.example. 300 IN A 203.0.113.66",
		}, Complete, ""},
		"https-itself": {dns.TypeHTTPS, 0, 0, []string{"www.example. 300 IN HTTPS 1 . alpn=\"h2\"", "+www.example. 300 IN A 198.51.100.1"}, Complete, ""},
		"https-alias": {dns.TypeHTTPS, 0, 0, []string{
			"www.example. 300 IN HTTPS 0 svc.test.", "+svc.test. 300 IN HTTPS 1 h.test. alpn=\"h2\"",
			"+h.test. 300 IN CNAME i.test.", "+i.test. 300 IN A 198.51.100.1", "!+" + evil,
		}, Complete, ""},
		"dname":               {dns.TypeA, 0, 0, []string{"example. 300 IN DNAME cdn.test.", "www.example. 300 IN CNAME www.cdn.test.", "www.cdn.test. 300 IN A 198.51.100.2"}, Complete, ""},
		"dname-without-cname": {dns.TypeA, 0, 0, []string{"example. 300 IN DNAME cdn.test.", "=www.example. 300 IN CNAME www.cdn.test.", "www.cdn.test. 300 IN A 198.51.100.2", "!" + evil}, Complete, ""},
		"dname-of-another":    {dns.TypeA, 0, 0, []string{a, "!other.test. 300 IN DNAME cdn.test."}, Complete, ""},
		"other-case":          {dns.TypeA, 0, 0, []string{"WWW.example. 300 IN CNAME A.CDN.test.", "a.cdn.TEST. 300 IN A 198.51.100.2"}, Complete, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var all, want []string
			for _, r := range row.records {
				r, drop := strings.CutPrefix(r, "!")
				r, made := strings.CutPrefix(r, "=")
				if !made {
					all = append(all, r)
				}
				if !drop {
					sign := r[:len(r)-len(strings.TrimLeft(r, "+-"))]
					want = append(want, sign+strings.ReplaceAll(dnstest.RR(strings.TrimLeft(r, "+-")).String(), "\t", " "))
				}
			}
			p, content, left, err := scrubbed(t, "www.example.", row.qtype, row.flags, row.rcode, all)
			if err != nil {
				t.Fatal(err)
			}
			for i := range left { // a negative answer's SOA has the TTL of that answer
				left[i] = strings.Replace(left[i], " 60 IN SOA", " 300 IN SOA", 1)
			}
			if content != row.want || !slices.EqualFunc(left, want, strings.EqualFold) {
				t.Errorf("got %d\n%s\nwant %d\n%s", content, strings.Join(left, "\n"), row.want, strings.Join(want, "\n"))
			}
			if (p.Alias != nil) != (row.alias != "") || p.Alias != nil && NameText(p.Alias.Name()) != row.alias {
				t.Errorf("got alias %v; want %q", p.Alias, row.alias)
			}
		})
	}
}

func TestScrubRejects(t *testing.T) {
	long := []string{"www.example. 300 IN CNAME n0.test."}
	for i := range maxChain + 1 {
		long = append(long, "n"+string(rune('a'+i))+".test. 300 IN CNAME n"+string(rune('b'+i))+".test.")
	}
	long[0] = "www.example. 300 IN CNAME na.test."
	many := []string{"victim.test. 300 IN A 203.0.113.66"}
	for range maxScrubbed {
		many = append(many, "www.example. 300 IN A 198.51.100.1")
	}
	for name, records := range map[string][]string{
		"itself":   {"www.example. 300 IN CNAME www.example."},
		"circle":   {"www.example. 300 IN CNAME a.test.", "a.test. 300 IN CNAME www.example."},
		"lasso":    {"www.example. 300 IN CNAME a.test.", "a.test. 300 IN CNAME b.test.", "b.test. 300 IN CNAME a.test."},
		"dname":    {"example. 300 IN DNAME example."},
		"too-long": long,
		"too-many": many,
	} {
		if _, _, left, err := scrubbed(t, "www.example.", dns.TypeA, 0, 0, records); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %q, %v; want %v", name, left, err, ErrMalformed)
		}
	}
}

// Beyond the bound, what the answer points to goes, and the answer stays.
func TestScrubOfManyRecords(t *testing.T) {
	var records, want []string
	for i := range maxScrubbed {
		mx := fmt.Sprintf("www.example. 300 IN MX 1 mx%d.example.", i)
		records, want = append(records, mx), append(want, mx)
		records = append(records, fmt.Sprintf("+mx%d.example. 60 IN A 198.51.100.1", i))
	}
	_, content, left, err := scrubbed(t, "www.example.", dns.TypeMX, 0, 0, records)
	if err != nil || content != Complete || !slices.Equal(left, want) {
		t.Errorf("got %d, %q, %v; want the answer", content, left, err)
	}
}

func TestJoin(t *testing.T) {
	first, _, _, err := scrubbed(t, "www.example.", dns.TypeA, 0, 0, []string{"www.example. 300 IN CNAME a.test."})
	if err != nil {
		t.Fatal(err)
	}
	k, _ := NewKey("www.example.", dns.TypeA, 0)
	for name, row := range map[string]struct {
		rcode   int
		records []string
		alias   bool
		ttl     uint32
		err     error
	}{
		"end":      {0, []string{"a.test. 60 IN A 198.51.100.1"}, false, 60, nil},
		"nxdomain": {dns.RcodeNameError, []string{"-test. 30 IN SOA ns.test. root.test. 1 2 3 4 60"}, false, 30, nil},
		"nodata":   {0, []string{"-test. 30 IN SOA ns.test. root.test. 1 2 3 4 60"}, false, 30, nil},
		"further":  {0, []string{"a.test. 60 IN CNAME b.test."}, true, 0, nil},
		"circle":   {0, []string{"a.test. 60 IN CNAME www.example."}, false, 0, ErrMalformed},
	} {
		next, _, _, err := scrubbed(t, "a.test.", dns.TypeA, 0, row.rcode, row.records)
		if err != nil {
			t.Fatal(err)
		}
		p, err := first.Join(next, k, 0)
		if !errors.Is(err, row.err) {
			t.Fatalf("%s: got %v; want %v", name, err, row.err)
		}
		if err == nil && ((p.Alias != nil) != row.alias || int(p.Rcode()) != row.rcode || p.TTL != row.ttl || p.msg[3]&FlagAD == 0) {
			t.Errorf("%s: got %+v; want alias %t, TTL %d", name, p, row.alias, row.ttl)
		}
	}
}

// FuzzScrub holds that scrubbing never panics, and that what is left needs no more of it.
func FuzzScrub(f *testing.F) {
	add := func(m *dns.Msg) { f.Add(dnstest.Pack(f, m)) }
	add(dnstest.Everything())
	m := dnstest.Query("www.cdn.example.", dns.TypeA)
	m.Response = true
	m.Answer = []dns.RR{dnstest.RR("cdn.example. 60 IN DNAME x.example."), dnstest.RR("www.x.example. 60 IN CNAME b.example."), dnstest.RR("c.example. 60 IN A 192.0.2.1")}
	m.Ns = []dns.RR{dnstest.RR("example. 60 IN NS ns.example.")}
	add(m)
	k, err := NewKey("www.cdn.example.", dns.TypeA, DO)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		p, err := NewResponse(msg, k, 0)
		if err != nil {
			return
		}
		if p, _, err = p.Scrub(k); err != nil {
			return
		}
		if again, _, err := p.Scrub(k); err != nil || string(again.msg) != string(p.msg) {
			t.Errorf("got %v from\n%x", err, p.msg)
		}
	})
}

func TestScrubOfATidyResponseIsFree(t *testing.T) {
	m := dnstest.Query("www.example.", dns.TypeA)
	m.Response, m.Compress = true, true
	m.Answer = []dns.RR{dnstest.RR("www.example. 300 IN CNAME a.cdn.test."), dnstest.RR("a.cdn.test. 300 IN A 198.51.100.2")}
	k, _ := NewKey("www.example.", dns.TypeA, 0)
	p, err := NewResponse(dnstest.Pack(t, m), k, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := testing.AllocsPerRun(100, func() { p.Scrub(k) }); got != 0 {
		t.Errorf("got %v allocations; want none", got)
	}
}
