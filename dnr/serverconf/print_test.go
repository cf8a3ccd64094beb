package serverconf

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
)

// plan returns a Plan that must be possible.
func plan(t testing.TB, resolvers ...svcb.Resolver) *Plan {
	t.Helper()
	p, err := NewPlan(resolvers, 30*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// text returns what is printed for a server, without comments.
func text(t testing.TB, server string, p *Plan, forms ...dnr.Form) (lines []string) {
	t.Helper()
	for _, s := range Servers() {
		if s.Name != server {
			continue
		}
		for line := range strings.Lines(s.Text(p, forms...)) {
			if !strings.HasPrefix(line, s.mark) {
				lines = append(lines, strings.TrimSuffix(line, "\n"))
			}
		}
		return lines
	}
	t.Fatalf("there is no server %s", server)
	return nil
}

// all are the three transports at default ports and both addresses.
func all() []svcb.Resolver {
	return []svcb.Resolver{resolver(1, "h3", "h2"), resolver(2, "doq"), resolver(3, "dot")}
}

// TestText has the lines of one resolver for every server.
func TestText(t *testing.T) {
	const (
		v4hex = "001d00010d" + adnHex + "04c00002350001000403646f74"
		v6hex = "0001000d" + adnHex + "001020010db80000000000000000000000530001000403646f74"
	)
	raw := func(s string) []byte { return unhex(t, s) }
	for server, want := range map[string][]string{
		"kea": {
			`{ "Dhcp4": {`, `  "option-data": [`,
			`    { "name": "v4-dnr", "data": "1, dns.example., 192.0.2.53, alpn=dot" }`, "  ]", "} }",
			`{ "Dhcp6": {`, `  "option-data": [`,
			`    { "name": "v6-dnr", "data": "1, dns.example., 2001:db8::53, alpn=dot" }`, "  ]", "} }",
		},
		"kea-2.2": {
			`{ "Dhcp4": {`,
			`  "option-def": [ { "name": "cfrd-dnr", "code": 162, "type": "binary", "space": "dhcp4" } ],`,
			`  "option-data": [`,
			`    { "name": "cfrd-dnr", "space": "dhcp4", "csv-format": false, "data": "` + v4hex + `" }`, "  ]", "} }",
			`{ "Dhcp6": {`,
			`  "option-def": [ { "name": "cfrd-dnr", "code": 144, "type": "binary", "space": "dhcp6" } ],`,
			`  "option-data": [`,
			`    { "name": "cfrd-dnr", "space": "dhcp6", "csv-format": false, "data": "` + v6hex + `" }`, "  ]", "} }",
		},
		"dnsmasq": {"dhcp-option=162," + colons(raw(v4hex)), "dhcp-option=option6:144," + colons(raw(v6hex))},
		"dhcpd": {
			"option dnr code 162 = string;", "option dnr " + colons(raw(v4hex)) + ";",
			"option dhcp6.dnr code 144 = string;", "option dhcp6.dnr " + colons(raw(v6hex)) + ";",
		},
		"networkd": {
			"[DHCPServer]",
			`SendOption=162:string:\x00\x1d\x00\x01\x0d\x03\x64\x6e\x73\x07\x65\x78\x61\x6d\x70\x6c\x65\x00\x04` +
				`\xc0\x00\x02\x35\x00\x01\x00\x04\x03\x64\x6f\x74`,
		},
		"odhcpd": {
			"uci -q delete dhcp.lan.dnr", "uci add_list dhcp.lan.dnr='1 dns.example 2001:db8::53,192.0.2.53 alpn=dot'",
			"uci commit dhcp", "service odhcpd reload",
		},
		"routeros": {
			"/ip dhcp-server option add name=cfrd-dnr code=162 value=0x" + v4hex,
			"/ipv6 dhcp-server option add name=cfrd-dnr code=144 value=0x" + v6hex,
		},
		"radvd": nil,
		"hex": {
			v4hex, v6hex,
			"900700010000070" + "8000d" + adnHex + "001020010db800000000000000000000005300080001000403646f740000000000",
		},
	} {
		t.Run(server, func(t *testing.T) {
			if diff := cmp.Diff(want, text(t, server, plan(t, resolver(1, "dot")))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	if len(Servers()) != 9 {
		t.Errorf("got %d servers; want those of the test", len(Servers()))
	}
}

// TestTextKea goes through what Kea writes in ways of its own.
func TestTextKea(t *testing.T) {
	got := strings.Join(text(t, "kea", plan(t, all()...), dnr.DHCPv4), "\n")
	want := `"data": "1, dns.example., 192.0.2.53, alpn=h3\\,h2 dohpath=/dns-query{?dns} | ` +
		`2, dns.example., 192.0.2.53, alpn=doq | 3, dns.example., 192.0.2.53, alpn=dot"`
	if !strings.Contains(got, want) || !json.Valid([]byte(got)) {
		t.Errorf("got %s; want JSON with %s", got, want)
	}
	got = strings.Join(text(t, "kea", plan(t, all()...), dnr.DHCPv6), "\n")
	want = `"data": "1, dns.example., 2001:db8::53, alpn=h3\\,h2\\,doq\\,dot dohpath=/dns-query{?dns}"`
	if !strings.Contains(got, want) || !json.Valid([]byte(got)) {
		t.Errorf("got %s; want JSON with %s", got, want)
	}
	named := resolver(1, "h2")
	named.DoHPath = "/q?x=1{&dns}"
	if got := text(t, "kea", plan(t, named)); got != nil {
		t.Errorf("got %q; want nothing, because Kea refuses %s", got, named.DoHPath)
	}
}

// TestTextKeaLimit wants text up to 253 octets and hexadecimal beyond.
func TestTextKeaLimit(t *testing.T) {
	for name, format := range map[string]string{
		"dns.example12.":  `"v4-dnr", "data": "1, `,
		"dns.example123.": `"v4-dnr", "csv-format": false, "data": "00fc`,
	} {
		r := resolver(1, "dot")
		r.Name, r.Addresses = name, nil
		for i := range 56 {
			r.Addresses = append(r.Addresses, netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}))
		}
		data, err := dnr.EncodeDHCPv4([]svcb.Resolver{r})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(text(t, "kea", plan(t, r), dnr.DHCPv4), "\n"); !strings.Contains(got, format) {
			t.Errorf("%d octets: got %s; want %s in it", len(data), got, format)
		}
	}
}

// TestTextShortened wants that what a server cannot carry is left out, and said.
func TestTextShortened(t *testing.T) {
	long := all()
	for i := range long {
		for j := range 14 {
			long[i].Addresses = append(long[i].Addresses, netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + j)}))
		}
	}
	longer := all()
	for i := range longer {
		for j := range 30 {
			longer[i].Addresses = append(longer[i].Addresses, netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + j)}))
		}
	}
	ports := all()
	ports[2].Port = 8853
	for name, row := range map[string]struct {
		server string
		form   dnr.Form
		in     []svcb.Resolver
		alpn   []string // of each instance that is left
		said   string
	}{
		"doq-goes-first": {"dnsmasq", dnr.DHCPv4, long, []string{"h3,h2", "dot"}, "Left out: doq,"},
		"then-combined":  {"dnsmasq", dnr.DHCPv4, longer, []string{"h3,h2,doq,dot"}, ""},
		"one-for-dhcpv6": {"dnsmasq", dnr.DHCPv6, all(), []string{"h3,h2,doq,dot"}, "sends the option once, so that all"},
		"dot-elsewhere":  {"dnsmasq", dnr.DHCPv6, ports, []string{"dot"}, "Left out: h3,h2 and doq, because"},
		"routeros":       {"routeros", dnr.DHCPv6, ports, []string{"dot"}, "Left out: h3,h2 and doq, because"},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan(t, row.in...)
			if got := alpns(t, row.form, text(t, row.server, p, row.form)); !cmp.Equal(got, row.alpn) {
				t.Errorf("got %q; want %q", got, row.alpn)
			}
			i := slices.IndexFunc(Servers(), func(s Server) bool { return s.Name == row.server })
			if got := Servers()[i].Text(p); !strings.Contains(strings.ReplaceAll(got, "\n# ", " "), row.said) {
				t.Errorf("got %s; want it to say %q", got, row.said)
			}
		})
	}
}

// alpns decodes the octets at the end of the last line.
func alpns(t *testing.T, form dnr.Form, lines []string) (out []string) {
	t.Helper()
	digits := regexp.MustCompile(`[0-9a-f:]+$`).FindString(lines[len(lines)-1])
	data, err := hex.DecodeString(strings.ReplaceAll(digits, ":", ""))
	if err != nil {
		t.Fatal(err)
	}
	list := []dnr.Inspection{dnr.InspectDHCPv6(data)}
	if form == dnr.DHCPv4 {
		list = dnr.InspectDHCPv4(data)
	}
	for _, i := range list {
		if len(i.Findings) > 0 {
			t.Errorf("got findings %+v", i.Findings)
		}
		out = append(out, strings.Join(i.Resolver().ALPN, ","))
	}
	return out
}

// TestTextTooLong wants no option rather than a bad one.
func TestTextTooLong(t *testing.T) {
	r := resolver(1, "h2")
	r.DoHPath = "/" + strings.Repeat("a", 250) + "{?dns}"
	r.Addresses = []netip.Addr{addr4}
	for _, server := range []string{"dnsmasq", "dhcpd", "networkd", "routeros", "odhcpd"} {
		if got := text(t, server, plan(t, r)); got != nil {
			t.Errorf("%s: got %q; want nothing", server, got)
		}
	}
}

// TestTextOneFamily wants nothing for the other one, and nothing that odhcpd would make invalid options of.
func TestTextOneFamily(t *testing.T) {
	only4, only6 := resolver(1, "dot"), resolver(1, "dot")
	only4.Addresses, only6.Addresses = []netip.Addr{addr4}, []netip.Addr{addr6}
	if got := text(t, "odhcpd", plan(t, only4)); got != nil {
		t.Errorf("odhcpd with IPv4 alone: got %q; want nothing", got)
	}
	entry := "uci add_list dhcp.lan.dnr='1 dns.example 2001:db8::53 alpn=dot'"
	if got := text(t, "odhcpd", plan(t, only6)); !slices.Contains(got, entry) {
		t.Errorf("odhcpd with IPv6 alone: got %q; want it", got)
	}
	for _, s := range Servers() {
		if got := text(t, s.Name, plan(t, only4), dnr.DHCPv6, dnr.RA); s.all == nil && got != nil {
			t.Errorf("%s: got %q for IPv6; want nothing", s.Name, got)
		}
		if got := text(t, s.Name, plan(t, only6), dnr.DHCPv4); s.all == nil && got != nil {
			t.Errorf("%s: got %q for DHCPv4; want nothing", s.Name, got)
		}
	}
}

// TestTextComments wants every line that is not an instruction to be a comment, of bearable length.
func TestTextComments(t *testing.T) {
	for _, s := range Servers() {
		for line := range strings.Lines(s.Text(plan(t, all()...))) {
			line = strings.TrimSuffix(line, "\n")
			if rest, ok := strings.CutPrefix(line, s.mark); ok && (len(line) > 100 || strings.HasPrefix(rest, "  ")) {
				t.Errorf("%s: got comment %q", s.Name, line)
			}
			if strings.Contains(line, "%!") || strings.Contains(line, "\u00a0") {
				t.Errorf("%s: got %q", s.Name, line)
			}
		}
	}
}

func TestNewPlanRefuses(t *testing.T) {
	zero, loop := resolver(0, "dot"), resolver(1, "dot")
	loop.Addresses = append(loop.Addresses, netip.MustParseAddr("127.0.0.1"))
	many := resolver(1, "dot")
	for i := range 64 {
		many.Addresses = append(many.Addresses, netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}))
	}
	long := resolver(1, "h2")
	long.DoHPath = "/" + strings.Repeat("a", 2000) + "{?dns}"
	for name, row := range map[string]struct {
		in   []svcb.Resolver
		want error
	}{
		"nothing":            {nil, dnr.ErrNoAddress},
		"no-address":         {[]svcb.Resolver{{Priority: 1, Name: "dns.example.", ALPN: []string{"dot"}}}, dnr.ErrNoAddress},
		"priority-zero":      {[]svcb.Resolver{zero}, dnr.ErrPriority},
		"loopback":           {[]svcb.Resolver{loop}, dnr.ErrUnsafe},
		"too-many-addresses": {[]svcb.Resolver{many}, dnr.ErrTooLong},
		"too-long-for-ra":    {[]svcb.Resolver{long}, dnr.ErrTooLong},
	} {
		if _, err := NewPlan(row.in, time.Hour); !errors.Is(err, row.want) {
			t.Errorf("%s: got %v; want %v", name, err, row.want)
		}
	}
}

func TestCombine(t *testing.T) {
	dot, doq, doh := resolver(1, "dot"), resolver(2, "doq"), resolver(3, "h2", "h3")
	elsewhere := resolver(4, "doq")
	elsewhere.Addresses = elsewhere.Addresses[:1]
	path := resolver(4, "h2")
	path.DoHPath = "/other{?dns}"
	port := resolver(4, "dot")
	port.Port = 8853
	port8853 := resolver(5, "doq")
	port8853.Port = 8853
	for name, row := range map[string]struct {
		in   []svcb.Resolver
		want string
		left string
	}{
		"one":            {[]svcb.Resolver{dot}, "1 dot", ""},
		"all":            {[]svcb.Resolver{doh, doq, dot}, "1 h2,h3,doq,dot /dns-query{?dns}", ""},
		"addresses":      {[]svcb.Resolver{dot, elsewhere}, "1 dot", "doq"},
		"paths":          {[]svcb.Resolver{path, doh, doq}, "2 h2,h3,doq /dns-query{?dns}", "h2"},
		"ports":          {[]svcb.Resolver{doh, doq, port}, "4 dot", "h2,h3 and doq"},
		"same-port":      {[]svcb.Resolver{port, port8853, doh}, "4 dot,doq", "h2,h3"},
		"doh-before-doq": {[]svcb.Resolver{port8853, doh}, "3 h2,h3 /dns-query{?dns}", "doq on port 8853"},
	} {
		t.Run(name, func(t *testing.T) {
			before := fmt.Sprint(row.in)
			one, left := combine(row.in)
			got := strings.TrimSpace(fmt.Sprintf("%d %s %s", one.Priority, strings.Join(one.ALPN, ","), one.DoHPath))
			if got != row.want || transports(left) != row.left {
				t.Errorf("got %q without %q; want %q without %q", got, transports(left), row.want, row.left)
			}
			if after := fmt.Sprint(row.in); after != before {
				t.Errorf("%s became %s", before, after)
			}
		})
	}
}

func TestBothFamilies(t *testing.T) {
	only4 := resolver(4, "dot")
	only4.Addresses, only4.Port = []netip.Addr{addr4}, 8853
	list, alone := plan(t, append(all(), only4)...).bothFamilies()
	want := all()
	for i := range want {
		want[i].Addresses = []netip.Addr{addr6, addr4}
	}
	equal := cmpopts.EquateComparable(netip.Addr{})
	if diff := cmp.Diff(want, list, equal); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]svcb.Resolver{only4}, alone, equal); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
