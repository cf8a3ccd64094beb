package dnr

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func codes(list []Finding) string {
	words := make([]string, len(list))
	for i, f := range list {
		words[i] = f.Severity.String() + ":" + f.Code
	}
	return strings.Join(words, " ")
}

// TestInspectRA goes through what is special to Router Advertisements. Lifetime is 1800 everywhere.
func TestInspectRA(t *testing.T) {
	const (
		head = "0001 00000708 000d" + adnHex
		addr = "0010 20010db8000000000000000000000053"
		dot  = "0001 0004 03646f74"
	)
	for name, row := range map[string]struct {
		in       string
		err      error
		findings string
		readable bool
	}{
		"full": {"90 07" + head + addr + "0008" + dot + "0000000000", nil, "", true},
		"adn-only": {
			"90 03" + head + "00", nil, "warning:adn-only", true,
		},
		"adn-only-zero-lengths": { // what odhcpd and radnr write comes out longer with this name
			"90 04" + head + "00 0000000000000000", ErrNoAddress, "error:zero-lengths warning:adn-only", true,
		},
		"adn-only-padding-not-zero": {"90 03" + head + "01", errPadding, "error:padding warning:adn-only", true},
		"no-addresses-but-params": { // what odhcpd writes if there is only an IPv4 address
			"90 05" + head + "0000 0008" + dot + "0000000000", ErrNoAddress, "error:no-address", true,
		},
		"padding-not-zero": {"90 07" + head + addr + "0008" + dot + "0000000001", errPadding, "error:padding", true},
		"padding-of-8": {
			"90 08" + head + addr + "0008" + dot + "0000000000 0000000000000000", errPadding, "error:padding", true,
		},
		"params-overrun": {"90 07" + head + addr + "000e" + dot + "0000000000", errSvcParams, "error:svcparams", false},
		"params-length-within-padding": {
			"90 07" + head + addr + "0009" + dot + "0000000000", errSvcParams, "error:svcparams", false,
		},
		"params-empty": {
			"90 06" + head + addr + "0000 0000000000", nil, "warning:no-alpn", true,
		},
		"withdrawn": {
			"90 07 0001 00000000 000d" + adnHex + addr + "0008" + dot + "0000000000", nil, "note:withdrawn", true,
		},
		"length-zero":  {"90 00", errLength, "error:length", false},
		"length-short": {"90 06" + head + addr + "0008" + dot + "0000000000", errLength, "error:length", false},
		"empty":        {"", errTruncated, "error:truncated", false},
		"other-type":   {"19 03 0000 00000708 000d" + adnHex + "00", errLength, "error:length", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := InspectRA(unhex(t, row.in))
			if codes(got.Findings) != row.findings || got.Readable() != row.readable || !errors.Is(got.Err(), row.err) {
				t.Errorf("got [%s], readable %t, %v; want [%s], %t, %v",
					codes(got.Findings), got.Readable(), got.Err(), row.findings, row.readable, row.err)
			}
		})
	}
}

// TestInspectParams goes through service parameters, in an option of DHCPv6 that is right but for them.
func TestInspectParams(t *testing.T) {
	const dot = "0001 0004 03646f74"
	for name, row := range map[string]struct {
		params   string
		err      error
		findings string
	}{
		"dot":              {dot, nil, ""},
		"none":             {"", nil, "warning:no-alpn"},
		"mandatory":        {"0000 0002 0001" + dot, nil, "warning:mandatory"},
		"mandatory-absent": {"0000 0002 0003" + dot, errSvcParams, "error:svcparams"},
		"mandatory-without-end": { // thousands of keys that are claimed, not there
			"0000 fffe 0001" + dot, errSvcParams, "error:svcparams",
		},
		"port-zero":         {dot + "0003 0002 0000", nil, "warning:port-zero"},
		"port-odd":          {dot + "0003 0001 00", errSvcParams, "error:svcparams"},
		"ipv4hint":          {dot + "0004 0004 c0000235", errHints, "error:hints"},
		"ipv6hint":          {dot + "0006 0010 20010db8000000000000000000000053", errHints, "error:hints"},
		"ipv6hint-odd":      {dot + "0006 0001 20", errHints, "error:hints"},
		"doh-no-dohpath":    {"0001 0003 026832", nil, "warning:no-dohpath"},
		"dohpath-comma":     {"0001 0003 026832 0007 000a 2f612c627b3f646e737d", nil, "warning:dohpath-syntax"},
		"dohpath-no-dns":    {"0001 0003 026832 0007 0002 2f61", errSvcParams, "error:svcparams"},
		"private-key":       {dot + "ff00 0002 0103", nil, "note:unknown-key"},
		"key-65535":         {dot + "ffff 0000", errSvcParams, "error:svcparams"},
		"unsorted":          {"0003 0002 0355" + dot, errSvcParams, "error:svcparams"},
		"twice":             {dot + dot, errSvcParams, "error:svcparams"},
		"alpn-empty-id":     {"0001 0001 00", errSvcParams, "error:svcparams"},
		"ascii":             {"616c706e3d646f74", errSvcParams, "error:ascii-svcparams"},
		"ascii-quoted":      {"616c706e3d2268322220646f68706174683d2f717b3f646e737d", errSvcParams, "error:ascii-svcparams"},
		"ascii-not-params":  {"68656c6c6f20776f726c64", errSvcParams, "error:svcparams"},
		"ascii-bad-dohpath": {"616c706e3d683220646f68706174683d71", errSvcParams, "error:ascii-svcparams warning:no-alpn"},
	} {
		t.Run(name, func(t *testing.T) {
			got := InspectDHCPv6(unhex(t, "0001 000d"+adnHex+"0010 20010db8000000000000000000000053"+row.params))
			if codes(got.Findings) != row.findings || !errors.Is(got.Err(), row.err) {
				t.Errorf("got [%s], %v; want [%s], %v", codes(got.Findings), got.Err(), row.findings, row.err)
			}
		})
	}
}

// TestInspectASCII wants the parameters that old encoders wrote as text.
func TestInspectASCII(t *testing.T) {
	text := `alpn="h2,h3" port=8443 dohpath=/q{?dns}`
	got := InspectDHCPv6(append(unhex(t, "0001 000d"+adnHex+"0010 20010db8000000000000000000000053"), text...)).Resolver()
	if got.Port != 8443 || got.DoHPath != "/q{?dns}" || !cmp.Equal(got.ALPN, []string{"h2", "h3"}) {
		t.Errorf("got %+v; want %s", got, text)
	}
}

// TestInspectNames goes through names, in ADN-only mode of DHCPv6.
func TestInspectNames(t *testing.T) {
	for name, row := range map[string]struct {
		wire     string
		adn      string
		findings string
	}{
		"plain":      {adnHex, "dns.example.", "warning:adn-only"},
		"upper-case": {"03444e53076578616d706c6500", "DNS.example.", "warning:adn-only"},
		"root":       {"00", "", "error:adn"},
		"no-root":    {"03646e73", "", "error:adn"},
		"compressed": {"03646e73c000", "", "error:adn"},
		"two-names":  {adnHex + adnHex, "", "error:adn"},
		"one-label":  {"03646e7300", "dns.", "warning:adn-syntax warning:adn-only"},
		"underscore": {"045f646e73076578616d706c6500", "_dns.example.", "warning:adn-syntax warning:adn-only"},
		"dot-in-it":  {"03612e62076578616d706c6500", `a\.b.example.`, "warning:adn-syntax warning:adn-only"},
		"zero-octet": {"0100076578616d706c6500", `\000.example.`, "warning:adn-syntax warning:adn-only"},
		"too-long":   {strings.Repeat("3f"+strings.Repeat("61", 63), 4) + "00", "", "error:adn"},
		"longest": {
			strings.Repeat("3f"+strings.Repeat("61", 63), 3) + "3d" + strings.Repeat("61", 61) + "00",
			strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("a", 61) + ".", "warning:adn-only",
		},
		"label-of-64": {"40" + strings.Repeat("61", 64) + "00", "", "error:adn"},
	} {
		t.Run(name, func(t *testing.T) {
			wire := unhex(t, row.wire)
			got := InspectDHCPv6(append([]byte{0, 1, byte(len(wire) >> 8), byte(len(wire))}, wire...))
			if got.ADN != row.adn || codes(got.Findings) != row.findings {
				t.Errorf("got %q [%s]; want %q [%s]", got.ADN, codes(got.Findings), row.adn, row.findings)
			}
		})
	}
}

// TestInspectManyInstances wants all of one option of the greatest length, and no more work than it has octets.
func TestInspectManyInstances(t *testing.T) {
	one := unhex(t, "0006 0001 03 016100")
	data := []byte{}
	for len(data)+len(one) <= 0xffff {
		data = append(data, one...)
	}
	got := InspectDHCPv4(data)
	if want := len(data) / len(one); len(got) != want {
		t.Errorf("got %d instances; want %d", len(got), want)
	}
	if _, err := DecodeDHCPv4(data); err != nil {
		t.Error(err)
	}
	if err := got[len(got)-1].Err(); err != nil {
		t.Error(err)
	}
}

// TestErrorsSayWhere wants place, value and rule in one line.
func TestErrorsSayWhere(t *testing.T) {
	good := "001d 0001 0d" + adnHex + "04 c0000235 0001 0004 03646f74"
	_, err := DecodeDHCPv4(unhex(t, good+"001d 0002 0d"+adnHex+"04 c0000235 0001 0004 09646f74"))
	want := "dnr: service parameters are malformed: instance 2, octet 54: 0001000409646f74: " +
		"svcb: alpn is empty, has an empty id or ends within one"
	if fmt.Sprint(err) != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if !errors.Is(err, errSvcParams) || !errors.Is(err, svcb.ErrALPN) {
		t.Errorf("%v is neither ErrSvcParams nor svcb.ErrALPN", err)
	}
}

func TestInspectManyAddresses(t *testing.T) {
	addrs := strings.Repeat("20010db8000000000000000000000053", 16)
	got := InspectDHCPv6(unhex(t, "0001 000d"+adnHex+"0100"+addrs+"0001 0004 03646f74"))
	if got.Err() != nil || codes(got.Findings) != "warning:many-addresses" {
		t.Errorf("got [%s], %v; want many-addresses alone", codes(got.Findings), got.Err())
	}
}
