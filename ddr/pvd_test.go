package ddr

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestPvD(t *testing.T) {
	head := `{"identifier":"dns.example.","expires":"2026-06-02T12:00:00Z","prefixes":[],"proxies":[]`
	transports := `,"cfrd_resolver":{"transports":[{"alpn":["doq"]},{"alpn":["dot"]},` +
		`{"alpn":["h3","h2"],"dohpath":"/dns-query{?dns}"}]}`
	for name, row := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"resolver": {func(*Config) {}, head + transports + `}`},
		"relay": {
			func(c *Config) { c.Relay = &RelayService{Clients: everybody, Ports: []uint16{443, 80}} },
			head + transports + `,"cfrd_relay":{"version":1,"protocols":["tcp","udp"],"ports":[443,80]}}`,
		},
		"relay-of-udp": {
			func(c *Config) { c.Relay = &RelayService{Clients: everybody, Value: relayValue(RelayUDP)} },
			head + transports + `,"cfrd_relay":{"version":1,"protocols":["udp"]}}`,
		},
		"relay-of-another-kind": {
			func(c *Config) { c.Relay = &RelayService{Clients: everybody, Value: []byte{9}} }, head + transports + `}`,
		},
		"other-port": {
			func(c *Config) { c.Services = []Service{service(DoT, "192.0.2.53:8853")} },
			head + `,"cfrd_resolver":{"transports":[{"alpn":["dot"],"port":8853}]}}`,
		},
		"no-certificate": {func(c *Config) { c.Certificate = nil }, head + `}`},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.PvD = true
			row.change(&cfg)
			p, ok := zone(t, cfg).PvD(private4, mapped4)
			if !ok {
				t.Fatal("got none")
			}
			got, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			back, err := ParsePvD(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(p, back, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("parsed again: -want +got:\n%s", diff)
			}
		})
	}
}

func TestNoPvD(t *testing.T) {
	if p, ok := zone(t, config()).PvD(private4, v4); ok {
		t.Errorf("got %+v; want none, because it is off", p)
	}
}

func TestParsePvDRefuses(t *testing.T) {
	member := func(key, value string) string {
		members := map[string]string{
			"identifier": `"dns.example."`, "expires": `"2026-06-02T12:00:00Z"`, "prefixes": `[]`, "proxies": `[]`,
		}
		members[key] = value
		var list []string
		for k, v := range members {
			if v != "" {
				list = append(list, `"`+k+`":`+v)
			}
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	for name, row := range map[string]struct {
		in   string
		want error
	}{
		"good":                     {member("extra_key", "{}"), nil},
		"no-final-dot":             {member("identifier", `"DNS.example"`), nil},
		"proxies-missing":          {member("proxies", ""), nil},
		"identifier-missing":       {member("identifier", ""), errPvDKey},
		"identifier-in-capitals":   {strings.Replace(member("proxies", ""), "identifier", "Identifier", 1), errPvDKey},
		"identifier-null":          {member("identifier", "null"), errPvDKey},
		"identifier-number":        {member("identifier", "1"), errPvDKey},
		"identifier-empty":         {member("identifier", `""`), errPvDIdentifier},
		"identifier-not-a-name":    {member("identifier", `"a..b"`), errPvDIdentifier},
		"expires-missing":          {member("expires", ""), errPvDKey},
		"expires-not-rfc3339":      {member("expires", `"tomorrow"`), errPvDKey},
		"prefixes-missing":         {member("prefixes", ""), errPvDKey},
		"prefixes-null":            {member("prefixes", "null"), errPvDKey},
		"prefixes-not-a-prefix":    {member("prefixes", `["2001:db8::"]`), errPvDKey},
		"prefixes-empty-text":      {member("prefixes", `[""]`), errPvDKey},
		"proxies-not-a-list":       {member("proxies", `{}`), errPvDKey},
		"relay-not-an-object":      {member("cfrd_relay", `[1]`), errPvDKey},
		"larger-than-clients-take": {member("extra_key", `"`+strings.Repeat("a", maxPvD)+`"`), errPvDSize},
	} {
		p, err := ParsePvD([]byte(row.in))
		if !errors.Is(err, row.want) {
			t.Errorf("%s: got %v; want %v", name, err, row.want)
		}
		if err == nil && p.Identifier != "dns.example." {
			t.Errorf("%s: got identifier %q; want dns.example.", name, p.Identifier)
		}
	}
	for _, in := range []string{"", "null", "[]", "{", "{} {}", `"x"`, "<html>"} {
		if _, err := ParsePvD([]byte(in)); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}

// FuzzParsePvD holds that what was accepted can be written and read again.
func FuzzParsePvD(f *testing.F) {
	f.Add([]byte(`{"identifier":"dns.example.","expires":"2026-06-02T12:00:00Z","prefixes":["2001:db8::/32"]}`))
	f.Add([]byte(`{"identifier":"a","expires":"2026-06-02T12:00:00.5+01:00","prefixes":[],"proxies":[{"protocol":"socks5"}],` +
		`"cfrd_relay":{"version":1,"protocols":["tcp"]},"cfrd_resolver":{"transports":[{"alpn":["dot"],"port":853}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePvD(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", p, err)
		}
		again, err := ParsePvD(out)
		if err != nil {
			t.Fatalf("%s cannot be read again: %v", out, err)
		}
		twice, err := json.Marshal(again)
		if err != nil || string(twice) != string(out) {
			t.Errorf("got %s, %v the second time; want %s", twice, err, out)
		}
	})
}

func TestParseInfo(t *testing.T) {
	for name, row := range map[string]struct {
		in   []string
		want Info
		ok   bool
	}{
		"ours":              {[]string{"exterr=3,15-17", "infourl=https://dns.example/about"}, Info{[]uint16{3, 15, 16, 17}, "https://dns.example/about"}, true},
		"empty":             {nil, Info{}, true},
		"unknown-keys":      {[]string{"qnamemin", "temp-x=1", "=", "=x", ""}, Info{}, true},
		"case-and-twice":    {[]string{"EXTERR=1", "exterr=2"}, Info{ExtErr: []uint16{1}}, true},
		"any-order":         {[]string{"exterr=22,15-16,15"}, Info{ExtErr: []uint16{15, 16, 22}}, true},
		"all-codes":         {[]string{"exterr=65535"}, Info{ExtErr: []uint16{65535}}, true},
		"exterr-empty":      {[]string{"exterr="}, Info{}, false},
		"exterr-no-value":   {[]string{"exterr"}, Info{}, false},
		"exterr-backwards":  {[]string{"exterr=17-15"}, Info{}, false},
		"exterr-too-large":  {[]string{"exterr=65536"}, Info{}, false},
		"exterr-half-range": {[]string{"exterr=15-"}, Info{}, false},
		"infourl-http":      {[]string{"infourl=http://dns.example/"}, Info{}, false},
	} {
		got, err := ParseInfo(row.in)
		if (err == nil) != row.ok || !cmp.Equal(got, row.want) {
			t.Errorf("%s: got %+v, %v; want %+v, success %t", name, got, err, row.want, row.ok)
		}
	}
}

// FuzzParseInfo holds that what was accepted and is written again reads the same.
func FuzzParseInfo(f *testing.F) {
	f.Add("exterr=0-3,15-17", "infourl=https://dns.example/about")
	f.Add("qnamemin", "exterr=65535")
	f.Fuzz(func(t *testing.T, a, b string) {
		info, err := ParseInfo([]string{a, b})
		if err != nil || len(info.ExtErr) == 0 {
			return
		}
		back, err := parseRanges(ranges(info.ExtErr))
		if err != nil || !cmp.Equal(back, info.ExtErr) {
			t.Errorf("%v: got %v, %v", info.ExtErr, back, err)
		}
	})
}
