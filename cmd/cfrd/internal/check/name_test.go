package check

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// TestVerifierRules breaks each rule that RFC 9462 and RFC 9606 have for clients, and looks at what the verifier makes
// of it. That DNR goes before DDR (RFC 9462, Section 6.5) is for the verifier of DNR.
func TestVerifierRules(t *testing.T) {
	elsewhere := netip.MustParseAddr("127.0.0.2")
	certificate := func(f *fakeResolver, names ...string) {
		c := f.ca.issue(t, time.Now().Add(time.Hour), names...)
		f.cert = func(string) *tls.Certificate { return c }
	}
	refused := []string{"dot-certificate", "doh-certificate", "doh3-certificate", "doq-certificate"}
	resinfo := func(rrs ...string) func(q dns.Question) *dns.Msg {
		reply := answers(t, rrs...)
		return func(q dns.Question) *dns.Msg {
			m := reply(q)
			if m != nil {
				m.Authoritative = true
			}
			return m
		}
	}
	for name, row := range map[string]struct {
		breakIt func(f *fakeResolver)
		known   string // the name that the client knows
		want    []string
	}{
		"9462-3-unknown-mandatory-key": {func(f *fakeResolver) {
			f.override = answers(t,
				"_dns.resolver.arpa. 60 SVCB 1 dns.fake.example. mandatory=key65300 alpn=dot key65300=x",
				fmt.Sprintf("_dns.resolver.arpa. 60 SVCB 2 dns.fake.example. alpn=dot port=%d", f.services[0].Addr.Port()))
		}, "", []string{"svcb"}},
		"9462-4.2-no-path-to-a-trust-anchor": {func(f *fakeResolver) {
			f.addr = elsewhere
			c := newTestCA(t).issue(t, time.Now().Add(time.Hour), fakeName, "127.0.0.1")
			f.cert = func(string) *tls.Certificate { return c }
		}, "", refused},
		"9462-4.2-address-missing":        {func(f *fakeResolver) { f.addr = elsewhere; certificate(f, fakeName) }, "", refused},
		"9462-4.2-another-address-is-ok":  {func(f *fakeResolver) { f.addr = elsewhere }, "", nil},
		"9462-4.3-opportunistic":          {func(f *fakeResolver) { certificate(f, fakeName) }, "", nil},
		"9462-4.3-name-is-not-looked-at":  {func(f *fakeResolver) { certificate(f, "other.example") }, "", nil},
		"9462-4.3-not-at-another-address": {func(f *fakeResolver) { f.addr = elsewhere; certificate(f, fakeName) }, "", refused},
		"9462-5-known-name-missing":       {func(f *fakeResolver) { certificate(f, "127.0.0.1") }, fakeName, refused},
		"9462-5-nothing-usable-by-name": {func(f *fakeResolver) {
			f.override = answers(t, "_dns.dns.fake.example. 60 SVCB 1 dns.fake.example. port=853")
		}, fakeName, []string{"ddr-by-name"}},
		"9460-2.2-malformed-by-name": {func(f *fakeResolver) {
			f.override = answers(t, `_dns.dns.fake.example. 60 TYPE64 \# 7 00010000010000`)
		}, fakeName, []string{"ddr-by-name"}},
		"9606-3-without-AA": {func(f *fakeResolver) {
			f.override = answers(t, `resolver.arpa. 60 TYPE261 \# 10 09 6578746572723D3232`)
		}, "", []string{"resinfo"}},
		"9606-4-two-records": {func(f *fakeResolver) {
			f.override = resinfo(`resolver.arpa. 60 RESINFO exterr=22`, `resolver.arpa. 60 RESINFO exterr=15`)
		}, "", []string{"resinfo"}},
		"9606-5-page-without-encryption": {func(f *fakeResolver) {
			f.override = resinfo(`resolver.arpa. 60 RESINFO infourl=http://isp.example/`)
		}, "", []string{"resinfo"}},
		"9606-5-exterr-not-a-list": {func(f *fakeResolver) {
			f.override = resinfo(`dns.fake.example. 60 RESINFO exterr=x`, "dns.fake.example. 60 A 127.0.0.1")
		}, "", []string{"resinfo"}},
		"9606-no-information-is-ok": {func(f *fakeResolver) { f.override = resinfo("resolver.arpa. 60 TXT x") }, "", []string{"resolver-arpa"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			if strings.HasPrefix(name, "9462-3-") { // needs to know the ports
				f.start(t)
				f.mu.Lock()
				row.breakIt(f)
				f.mu.Unlock()
			} else {
				row.breakIt(f)
				f.start(t)
			}
			o := f.options()
			if row.known != "" {
				o.Name = row.known + "."
			}
			r := Resolver(t.Context(), o)
			if diff := cmp.Diff(row.want, failures(r)); diff != "" {
				t.Errorf("-want +got:\n%s\n%s", diff, table(t, r))
			}
			// RFC 9462, Section 4: clients must not ask for addresses of resolver.arpa.
			f.mu.Lock()
			defer f.mu.Unlock()
			if i := slices.IndexFunc(f.asked, func(q dns.Question) bool {
				return q.Name == "resolver.arpa." && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA)
			}); i >= 0 {
				t.Errorf("asked %s", f.asked[i].String())
			}
		})
	}
}

// TestCheckPvD has one row per thing that can be wrong with a provisioning domain.
func TestCheckPvD(t *testing.T) {
	document := func(identifier string, left time.Duration, prefixes, more string) string {
		return fmt.Sprintf(`{"identifier":%q,"expires":%q,"prefixes":[%s]%s}`,
			identifier, time.Now().Add(left).UTC().Format(time.RFC3339), prefixes, more)
	}
	good := document(fakeName+".", time.Hour, "", "")
	for name, row := range map[string]struct {
		status         int
		mediaType, doc string
		want           Status
		detail         string
	}{
		"good":               {200, "application/pvd+json", good, OK, "describes dns.fake.example. until"},
		"with-charset":       {200, "application/pvd+json; charset=utf-8", good, OK, ""},
		"proxies":            {200, "application/pvd+json", document(fakeName, time.Hour, "", `,"proxies":[{}]`), OK, "1 proxies"},
		"not-found":          {404, "text/plain", "", Fail, "404"},
		"media-type":         {200, "application/json", good, Fail, "content type"},
		"other-identifier":   {200, "application/pvd+json", document("x.example.", time.Hour, "", ""), Fail, "identifier"},
		"expired":            {200, "application/pvd+json", document(fakeName, -time.Hour, "", ""), Fail, "expired"},
		"prefixes":           {200, "application/pvd+json", document(fakeName, time.Hour, `"2001:db8::/32"`, ""), Fail, "prefixes"},
		"not-json":           {200, "application/pvd+json", "<html>", Fail, "PvD information"},
		"larger-than-64-KiB": {200, "application/pvd+json", good + strings.Repeat(" ", 64<<10), Fail, "64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.onePort = true
			f.pvd = func(w http.ResponseWriter, r *http.Request) {
				if r.Host != fakeName {
					t.Errorf("got host %q; want %s and the port of https", r.Host, fakeName)
				}
				w.Header().Set("Content-Type", row.mediaType)
				w.WriteHeader(row.status)
				fmt.Fprint(w, row.doc)
			}
			f.start(t)
			f.mu.Lock() // which every answer takes
			f.override = answers(t, "dns.fake.example. 60 A 127.0.0.1", fmt.Sprintf(
				"dns.fake.example. 60 HTTPS 1 . alpn=h2,h3 no-default-alpn= port=%d key11=", f.services[1].Addr.Port()))
			f.mu.Unlock()
			r := Resolver(t.Context(), f.options())
			var steps []string
			for _, s := range r.Steps {
				if !strings.HasPrefix(s.Name, "pvd-") {
					continue
				}
				steps = append(steps, s.Name)
				if s.Status != row.want || !strings.Contains(s.Detail, row.detail) {
					t.Errorf("got %s: %s; want %s with %q", s.Status, s.Detail, row.want, row.detail)
				}
			}
			if want := []string{"pvd-doh", "pvd-doh3"}; !slices.Equal(steps, want) {
				t.Errorf("got steps %q; want %q\n%s", steps, want, table(t, r))
			}
		})
	}
}

// TestCheckPvDCertificate has a certificate that only opportunistic clients take.
func TestCheckPvDCertificate(t *testing.T) {
	for known, want := range map[string]Status{"": Skip, fakeName + ".": Fail} {
		f := newFake(t)
		f.onePort = true
		c := f.ca.issue(t, time.Now().Add(time.Hour), "other.example")
		f.cert = func(string) *tls.Certificate { return c }
		f.pvd = func(http.ResponseWriter, *http.Request) {
			t.Error("was asked although its certificate is for another name")
		}
		f.start(t)
		ck := checker{f.options(), &Report{OK: true}}
		ck.Name = known
		ck.pvd(t.Context(), fakeName+".", svcb.Record{Priority: 1, Target: ".", Params: []svcb.Param{
			{Key: svcb.KeyALPN, Value: []byte("\x02h2")},
			{Key: svcb.KeyNoDefaultALPN},
			{Key: svcb.KeyPort, Value: []byte{byte(f.services[1].Addr.Port() >> 8), byte(f.services[1].Addr.Port())}},
		}})
		if len(ck.Steps) != 1 || ck.Steps[0].Status != want {
			t.Errorf("known name %q: got %+v; want %s", known, ck.Steps, want)
		}
	}
}

func TestCharacterStrings(t *testing.T) {
	for in, want := range map[string][]string{
		"\x01a\x00\x02bc": {"a", "", "bc"}, "": nil, "\x02a": nil, "\x01a\x05": nil,
	} {
		got, err := characterStrings([]byte(in))
		if (err == nil) != (want != nil) || err == nil && !slices.Equal(got, want) {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
}
