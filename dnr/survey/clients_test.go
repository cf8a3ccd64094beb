package survey

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/cfrd-project/cfrd/dnr"
)

// reactions writes what clients do with a message on one line each, as "client: instance/protocols …; reasons".
func reactions(h Message) map[string]string {
	lines := make(map[string]string)
	for _, r := range Clients(h) {
		var words []string
		for _, u := range r.Uses {
			words = append(words, fmt.Sprintf("%d/%s", u.Instance, strings.Join(u.ALPN, ",")))
		}
		name, _, _ := strings.Cut(strings.ToLower(r.Client), " ")
		lines[strings.TrimSuffix(name, "-networkd")] = strings.Join(append(words, r.Reasons...), "; ")
	}
	return lines
}

// message4 returns a message with the data of option 162, of which each instance is given without its length.
func message4(t testing.TB, instances ...string) Message {
	t.Helper()
	var data []byte
	for _, hex := range instances {
		in := unhex(t, hex)
		data = append(binary.BigEndian.AppendUint16(data, uint16(len(in))), in...)
	}
	return Message{By: dnr.DHCPv4, Instances: dnr.InspectDHCPv4(data)}
}

// TestClients has a row for each rule that is known of a client.
func TestClients(t *testing.T) {
	const (
		name = "000d" + adnHex
		addr = "0010 20010db8000000000000000000000053"
		dot  = "0001 0004 03646f74"
		doh  = "0001 0006 026833 026832 0007 0010 2f646e732d71756572797b3f646e737d"
		full = "0001 0d" + adnHex + "04 c0000235" // of DHCPv4
	)
	v6 := func(hex string) Message {
		return Message{By: dnr.DHCPv6, Instances: []dnr.Inspection{dnr.InspectDHCPv6(unhex(t, hex))}}
	}
	ra := func(hex string) Message {
		b := unhex(t, hex)
		b[1] = byte(len(b) / 8)
		return Message{By: dnr.RA, Instances: []dnr.Inspection{dnr.InspectRA(b)}}
	}
	many := strings.Repeat("20010db8000000000000000000000053", 16)
	ignored := v6("0001" + name + addr + dot)
	ignored.Findings.Fail(CodeHopLimit, ErrOffLink, 0, "hop limit 64")
	for label, row := range map[string]struct {
		h                       Message
		systemd, apple, windows string // what they say, or how it begins
	}{
		"dot":           {v6("0001" + name + addr + dot), "1/dot", "1/dot", "instance 1: it uses h2, h3 only"},
		"doh":           {v6("0001" + name + addr + doh), "instance 1: it uses dot only", "1/h2", "1/h3,h2"},
		"doq":           {v6("0001" + name + addr + "0001 0004 03646f71"), "instance 1: it uses dot", "instance 1: it uses dot, h2", "instance 1: it uses"},
		"all-in-one":    {v6("0001" + name + addr + "0001 000a 03646f74 026833 026832 0007 0010 2f646e732d71756572797b3f646e737d"), "1/dot", "1/dot,h2", "1/h3,h2"},
		"ignored":       {ignored, "it ignores", "it ignores", "it ignores"},
		"no-alpn":       {v6("0001" + name + addr), "instance 1: alpn is missing", "instance 1: its service parameters", "instance 1: it uses"},
		"mandatory":     {v6("0001" + name + addr + "0000 0002 0001" + dot), "instance 1: mandatory", "1/dot", "instance 1: it uses"},
		"hints":         {v6("0001" + name + addr + dot + "0006 0010 20010db8000000000000000000000053"), "instance 1: ipv6hint", "1/dot", "instance 1: ipv6hint"},
		"port-zero":     {v6("0001" + name + addr + dot + "0003 0002 0000"), "instance 1: port is 0", "1/dot", "instance 1: it uses"},
		"unknown-key":   {v6("0001" + name + addr + dot + "ff00 0000"), "1/dot", "1/dot", "instance 1: it uses"},
		"no-dohpath":    {v6("0001" + name + addr + "0001 0007 03646f74 026832"), "instance 1: dohpath is missing", "1/dot", "instance 1: it uses"},
		"dohpath-comma": {v6("0001" + name + addr + "0001 0003 026832 0007 000a 2f612c627b3f646e737d"), "instance 1: dohpath", "1/h2", "1/h2"},
		"underscore":    {v6("0001 000d 035f6e73 076578616d706c6500" + addr + dot), "instance 1:", "1/dot", "instance 1: it uses"},
		"adn-only":      {v6("0001" + name), "instance 1: it has only a name", "instance 1: only the name", "instance 1: it has only a name"},
		"multicast":     {v6("0001" + name + "0020 20010db8000000000000000000000053 ff020000000000000000000000000053" + dot), "instance 1: an address is a multicast", "1/dot", "instance 1: it uses"},
		"loopback":      {v6("0001" + name + "0020 20010db8000000000000000000000053 00000000000000000000000000000001" + doh), "instance 1: an address is a multicast", "1/h2", "1/h3,h2"},
		"unspecified":   {v6("0001" + name + "0020 20010db8000000000000000000000053 00000000000000000000000000000000" + dot), "1/dot", "1/dot", "instance 1: it uses"},
		"16-addresses":  {v6("0001" + name + "0100" + many + dot), "1/dot", "instance 1: 16 addresses", "instance 1: it uses"},
		"priority-zero": {v6("0000" + name + addr + doh + ""), "instance 1: its priority is 0", "1/h2", "instance 1: Service Priority is 0"},
		"ascii":         {v6("0001" + name + addr + hex.EncodeToString([]byte("alpn=dot"))), "instance 1: \"alpn=dot\" is in", "1/dot", "instance 1: \"alpn=dot\" is in"},

		"ra":           {ra("90 00 0001 00000708" + name + addr + "0008" + dot + "0000000000"), "1/dot", "1/dot", "instance 1: it uses"},
		"ra-withdrawn": {ra("90 00 0001 00000000" + name + addr + "0008" + dot + "0000000000"), "instance 1: its lifetime is 0", "instance 1: its lifetime is 0", "instance 1: its lifetime is 0"},
		"ra-padding":   {ra("90 00 0001 00000708" + name + addr + "0008" + dot + "0000000001"), "instance 1: the padding", "1/dot", "instance 1: the padding"},

		"v4-in-order": {
			message4(t, "0002"+full[5:]+dot, full+dot), "2/dot; 1/dot", "2/dot; 1/dot", "instances 1, 2: it uses h2, h3 only",
		},
		"v4-adn-only-beside": {
			message4(t, full+dot, "0002 0d"+adnHex), "1/dot; instance 2: it has only a name",
			"it ignores all 2 instances of the option because of instance 2", "instance 1: it uses h2, h3 only; instance 2",
		},
		"v4-priority-zero-beside": {
			message4(t, full+dot, "0000"+full[5:]+dot), "1/dot; instance 2: its priority is 0", "2/dot; 1/dot",
			"it ignores all 2 instances of the option because of instance 2",
		},
		"v4-malformed-beside": {
			message4(t, full+dot, "0002 0d"+adnHex+"03 c00002"), "it ignores all 2 instances of the option because of instance 2",
			"it ignores all 2 instances of the option because of instance 2",
			"it ignores all 2 instances of the option because of instance 2",
		},
		"v4-multicast-beside": {
			message4(t, full+dot, "0002 0d"+adnHex+"08 c0000235 e0000001"+dot),
			"it ignores all 2 instances of the option because of instance 2", "1/dot; 2/dot", "instances 1, 2: it uses h2",
		},
		"v4-alone": {message4(t, "0001 0d"+adnHex), "instance 1: it has", "instance 1: only the name", "instance 1: it has"},
		"v4-wide":  {message4(t, "0001 0d"+adnHex+"0004 c0000235"+dot), "instance 1: Addr Length", "instance 1: Addr Length", "instance 1: Addr Length"},
	} {
		t.Run(label, func(t *testing.T) {
			got := reactions(row.h)
			for name, want := range map[string]string{"systemd": row.systemd, "apple": row.apple, "windows": row.windows} {
				if !strings.HasPrefix(got[name], want) {
					t.Errorf("%s: got %q; want %q", name, got[name], want)
				}
			}
		})
	}
}

// TestClientsSayWhatIsUnverified wants nothing to pass for known that is not.
func TestClientsSayWhatIsUnverified(t *testing.T) {
	for _, r := range Clients(Message{}) {
		if r.Unverified != strings.Contains(r.Client, "Windows") || r.Basis == "" {
			t.Errorf("got %+v", r)
		}
	}
}
