package check

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/survey"
	"github.com/cfrd-project/cfrd/e2e/netns"
)

// newDNRChecker returns a checker on a link of which this host has loopback addresses, so that tests can be servers.
func newDNRChecker(f *fakeResolver) dnrChecker {
	c := dnrChecker{checker: checker{Options{Timeout: 5 * time.Second}, &Report{Resolver: "lo", OK: true}}}
	c.link = survey.Link{Interface: "lo", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	if f != nil {
		c.Roots = f.ca.pool
	}
	return c
}

// designate returns a message of a server with instances for r.
func designate(t *testing.T, by dnr.Form, server string, list ...svcb.Resolver) survey.Message {
	t.Helper()
	h := survey.Message{By: by, Server: netip.MustParseAddr(server), Kind: "reply", Copies: 1}
	for _, r := range list {
		in := dnr.Instance{Priority: r.Priority, ADN: r.Name, Addresses: r.Addresses, Params: r.Params()}
		var data []byte
		var err error
		switch by {
		case dnr.DHCPv4:
			data, err = in.AppendDHCPv4(nil)
			h.Instances = append(h.Instances, dnr.InspectDHCPv4(data)...)
		case dnr.DHCPv6:
			data, err = in.AppendDHCPv6(nil)
			h.Instances = append(h.Instances, dnr.InspectDHCPv6(data))
		case dnr.RA:
			data, err = in.AppendRA(nil, 30*time.Minute)
			h.Instances = append(h.Instances, dnr.InspectRA(data))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// designated returns a resolver at a documentation address of the family of by, changed by f.
func designatedBy(by dnr.Form, change func(*svcb.Resolver)) svcb.Resolver {
	addr := netip.MustParseAddr("2001:db8::53")
	if by == dnr.DHCPv4 {
		addr = netip.MustParseAddr("192.0.2.53")
	}
	r := svcb.Resolver{Priority: 1, Name: "dns.isp.example.", Addresses: []netip.Addr{addr}, ALPN: []string{"dot"}}
	if change != nil {
		change(&r)
	}
	return r
}

// TestDNRAgreement compares what two servers say.
func TestDNRAgreement(t *testing.T) {
	doh := func(r *svcb.Resolver) { r.ALPN, r.DoHPath = []string{"h2"}, "/dns-query{?dns}" }
	for name, row := range map[string]struct {
		by     dnr.Form // of the second; the first is a Router Advertisement
		second func(*svcb.Resolver)
		want   string // part of the detail; "" if they agree
	}{
		"same":                 {dnr.DHCPv6, nil, ""},
		"other-family":         {dnr.DHCPv4, nil, ""},
		"case-of-name":         {dnr.DHCPv4, func(r *svcb.Resolver) { r.Name = "DNS.isp.example." }, ""},
		"default-port":         {dnr.DHCPv4, func(r *svcb.Resolver) { r.Port = 853 }, ""},
		"fewer-transports":     {dnr.DHCPv4, doh, ""},
		"more-transports":      {dnr.DHCPv4, func(r *svcb.Resolver) { r.ALPN = []string{"dot", "doq"} }, ""},
		"other-name":           {dnr.DHCPv4, func(r *svcb.Resolver) { r.Name = "dns.other.example." }, "it designates dns.other.example."},
		"other-port":           {dnr.DHCPv4, func(r *svcb.Resolver) { r.Port = 8853 }, "dot at port 8853"},
		"other-address":        {dnr.DHCPv6, func(r *svcb.Resolver) { r.Addresses[0] = netip.MustParseAddr("2001:db8::54") }, "2001:db8::54, not 2001:db8::53"},
		"other-address-router": {dnr.RA, func(r *svcb.Resolver) { r.Addresses[0] = netip.MustParseAddr("2001:db8::54") }, "2001:db8::54"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newDNRChecker(nil)
			c.agreement([]survey.Message{
				designate(t, dnr.RA, "fe80::1", designatedBy(dnr.RA, nil)),
				designate(t, dnr.DHCPv4, "192.0.2.2"), // hands out none
				designate(t, row.by, "192.0.2.1", designatedBy(row.by, row.second)),
			})
			if len(c.Steps) != 1 || (c.Steps[0].Status == OK) != (row.want == "") || !strings.Contains(c.Steps[0].Detail, row.want) {
				t.Errorf("got %+v; want %q", c.Steps, row.want)
			}
		})
	}
	t.Run("other-dohpath", func(t *testing.T) {
		c := newDNRChecker(nil)
		c.agreement([]survey.Message{
			designate(t, dnr.RA, "fe80::1", designatedBy(dnr.RA, doh)),
			designate(t, dnr.DHCPv4, "192.0.2.1", designatedBy(dnr.DHCPv4, func(r *svcb.Resolver) { doh(r); r.DoHPath = "/q{?dns}" })),
		})
		if c.OK || !strings.Contains(c.Steps[0].Detail, "/q{?dns}") {
			t.Errorf("got %+v", c.Steps)
		}
	})
}

func TestDNRLifetime(t *testing.T) {
	for name, row := range map[string]struct {
		lifetime, interval time.Duration
		want               Status
	}{
		"withdrawn":           {0, 0, Fail},
		"infinite":            {dnr.Infinity, time.Hour, OK},
		"usual":               {30 * time.Minute, 0, OK},
		"three-intervals":     {30 * time.Minute, 10 * time.Minute, OK},
		"less-than-that":      {30*time.Minute - time.Second, 10 * time.Minute, Fail},
		"less-than-any-could": {11 * time.Second, 0, Fail},
	} {
		t.Run(name, func(t *testing.T) {
			c := newDNRChecker(nil)
			c.lifetime("", survey.Message{Interval: row.interval}, row.lifetime)
			if c.Steps[0].Status != row.want {
				t.Errorf("got %+v; want %s", c.Steps, row.want)
			}
		})
	}
}

// TestDNRJudge wants everything that is odd about a survey to be said, once.
func TestDNRJudge(t *testing.T) {
	c := newDNRChecker(nil)
	wrong := designate(t, dnr.DHCPv6, "fe80::1", designatedBy(dnr.DHCPv6, nil))
	for range 3 {
		wrong.Instances = append(wrong.Instances, dnr.InspectDHCPv6(nil))
	}
	wrong.Omitted = 7
	ignored := designate(t, dnr.RA, "fe80::1", designatedBy(dnr.RA, nil))
	ignored.Findings = []dnr.Finding{{Code: survey.CodeHopLimit, Severity: dnr.Error, Err: survey.ErrOffLink}}
	c.judge(survey.Result{Messages: []survey.Message{wrong, ignored}, Unasked: []string{"dhcpv4: no"}, Dropped: 3})
	want := []string{
		"skip ask", "fail flood", "fail dhcpv6", "ok instance", "fail truncated",
		"fail hop-limit", "skip ra", "ok instance", "ok lifetime",
		"ok client-systemd", "ok client-apple", "skip client-windows",
		"fail client-systemd", "fail client-apple", "skip client-windows",
	}
	var got []string
	for _, s := range c.Steps {
		got = append(got, string(s.Status)+" "+s.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if detail := c.Steps[4].Detail; !strings.HasSuffix(detail, "; so it is with #3 #4") {
		t.Errorf("got %q; want the instances that have the same finding", detail)
	}
}

// TestDNREndpoint connects to a resolver as a client must to which the network has handed it out.
func TestDNREndpoint(t *testing.T) {
	hour := time.Now().Add(time.Hour)
	for name, row := range map[string]struct {
		breakIt func(*fakeResolver)
		change  func(*endpoint)
		want    []string // steps that do not hold
		skipped bool
	}{
		"name-only-in-certificate": {func(f *fakeResolver) {
			c := f.ca.issue(t, hour, fakeName)
			f.cert = func(string) *tls.Certificate { return c }
		}, nil, nil, false},
		"address-only-in-certificate": {func(f *fakeResolver) {
			c := f.ca.issue(t, hour, "127.0.0.1")
			f.cert = func(string) *tls.Certificate { return c }
		}, nil, []string{"-certificate"}, false},
		"expired": {func(f *fakeResolver) {
			c := f.ca.issue(t, time.Now().Add(-time.Hour), fakeName)
			f.cert = func(string) *tls.Certificate { return c }
		}, nil, []string{"-certificate"}, false},
		"unknown-authority": {func(f *fakeResolver) {
			c := newTestCA(t).issue(t, hour, fakeName)
			f.cert = func(string) *tls.Certificate { return c }
		}, nil, []string{"-certificate"}, false},
		"refused": {func(f *fakeResolver) {
			f.overrideEncrypted = rcode(fakeName+".", dns.RcodeRefused)
		}, nil, []string{""}, false},
		"nobody-there":      {nil, func(e *endpoint) { e.port = netns.Port(t) }, []string{""}, false},
		"other-family":      {nil, func(e *endpoint) { e.addr = netip.MustParseAddr("2001:db8::53") }, nil, true},
		"unknown-transport": {nil, func(e *endpoint) { e.alpn = "gopher" }, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			if row.breakIt != nil {
				row.breakIt(f)
			}
			f.start(t)
			for i, id := range []string{"dot", "h2", "h3", "doq"} {
				e := endpoint{service{fakeName + ".", id, f.services[i].Addr.Port(), ""}, f.addr}
				if svcb.IsHTTP(id) {
					e.dohPath = svcb.DefaultDoHPath
				}
				if row.change != nil {
					row.change(&e)
				}
				c := newDNRChecker(f)
				c.Timeout = 2 * time.Second
				c.endpoint(t.Context(), e)
				var want []string
				for _, suffix := range row.want {
					tr, _ := transportOf(id)
					want = append(want, tr.String()+suffix)
				}
				if diff := cmp.Diff(want, failures(c.Report)); diff != "" {
					t.Errorf("%s: -want +got:\n%s\n%s", id, diff, table(t, c.Report))
				}
				if row.skipped != (c.Steps[0].Status == Skip) {
					t.Errorf("%s: got %+v", id, c.Steps)
				}
			}
		})
	}
	t.Run("without-dohpath", func(t *testing.T) {
		c := newDNRChecker(nil)
		c.endpoint(t.Context(), endpoint{service{fakeName + ".", "h2", 443, ""}, netip.MustParseAddr("127.0.0.1")})
		if c.Steps[0].Status != Skip {
			t.Errorf("got %+v", c.Steps)
		}
	})
}

// TestDNRDiscovery compares a discovery answer with what the network hands out.
func TestDNRDiscovery(t *testing.T) {
	f := newFake(t)
	f.start(t)
	reply, _ := f.zone.Answer(dns.Question{Name: discoveryName, Qtype: dns.TypeSVCB, Qclass: dns.ClassINET}, f.addr, f.addr)
	wire, err := reply.Pack()
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseMessage(wire)
	if err != nil {
		t.Fatal(err)
	}
	dot := endpoint{service{fakeName + ".", "dot", f.services[0].Addr.Port(), ""}, f.addr}
	doh := endpoint{service{fakeName + ".", "h2", f.services[1].Addr.Port(), svcb.DefaultDoHPath}, f.addr}
	with := func(e endpoint, change func(*endpoint)) endpoint { change(&e); return e }
	for name, row := range map[string]struct {
		m    message
		list []endpoint
		want Status
		text string
	}{
		"same":          {m, []endpoint{dot, doh}, OK, "the same"},
		"less":          {m, []endpoint{dot}, OK, "the same"},
		"also-there":    {m, []endpoint{dot, with(dot, func(e *endpoint) { e.port = 1 })}, OK, "the same"},
		"other-port":    {m, []endpoint{with(dot, func(e *endpoint) { e.port = 1 })}, Fail, "port 1 "},
		"other-dohpath": {m, []endpoint{dot, with(doh, func(e *endpoint) { e.dohPath = "/q{?dns}" })}, Fail, "/q{?dns}"},
		"other-name":    {m, []endpoint{with(dot, func(e *endpoint) { e.adn = "dns.other.example." })}, Skip, "does not hand out"},
		"nothing":       {message{}, []endpoint{dot}, OK, "only DNR"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newDNRChecker(f)
			c.compare("", row.m, row.list)
			if len(c.Steps) != 1 || c.Steps[0].Status != row.want || !strings.Contains(c.Steps[0].Detail, row.text) {
				t.Errorf("got %+v; want %s with %q", c.Steps, row.want, row.text)
			}
		})
	}
}

func TestDo53Servers(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.53")
	list := []endpoint{{service{}, addr}, {service{}, addr}}
	if got, announced := do53Servers(nil, list); announced || len(got) != 1 || got[0] != addr {
		t.Errorf("got %v, %t; want the address of the designated resolver", got, announced)
	}
	hostile := survey.Message{Resolvers: []netip.Addr{netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("127.0.0.1"), {}}}
	for i := range 10 {
		hostile.Resolvers = append(hostile.Resolvers, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	if got, announced := do53Servers([]survey.Message{hostile}, list); !announced || len(got) != maxDo53 {
		t.Errorf("got %v, %t; want %d that can be asked", got, announced, maxDo53)
	}
}

// TestDNRDocument pins the names in JSON that scripts depend on.
func TestDNRDocument(t *testing.T) {
	c := newDNRChecker(nil)
	h := designate(t, dnr.RA, "fe80::1", designatedBy(dnr.RA, nil))
	h.Kind = "advertisement"
	survey := survey.Result{Messages: []survey.Message{h}}
	c.judge(survey)
	var b bytes.Buffer
	if err := writeJSON(&b, c.document(survey)); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Interface string
		OK        bool
		Steps     []Step
		Servers   []map[string]any
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"by": "ra", "server": "fe80::1", "message": "advertisement", "copies": 1.0,
		"instances": []any{map[string]any{
			"priority": 1.0, "adn": "dns.isp.example.", "addresses": []any{"2001:db8::53"}, "alpn": []any{"dot"}, "lifetime": 1800.0,
		}},
	}
	server := got.Servers[0]
	clients := server["clients"].([]any)
	delete(server, "clients")
	if diff := cmp.Diff(want, server); diff != "" || !got.OK || got.Interface != "lo" || len(got.Steps) != 6 {
		t.Errorf("-want +got:\n%s\n%s", diff, b.String())
	}
	wantFirst := map[string]any{
		"client": "systemd-networkd 257 and later", "basis": "source code",
		"uses": []any{map[string]any{"instance": 1.0, "alpn": []any{"dot"}}},
	}
	if diff := cmp.Diff(wantFirst, clients[0]); diff != "" {
		t.Errorf("client: -want +got:\n%s", diff)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain – text":       "plain – text",
		`with "quotes"`:      `with "quotes"`,
		"\x1b[2J\"clear\"\t": `\x1b[2J"clear"\t`,
	} {
		if got := printable(in); got != want {
			t.Errorf("got %s; want %s", got, want)
		}
	}
}
