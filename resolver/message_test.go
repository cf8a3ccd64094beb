package resolver

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

var (
	testClient = netip.MustParseAddrPort("192.0.2.7:40000")
	testLocal  = netip.MustParseAddrPort("192.0.2.53:53")
)

// readMalformed returns the message of a case and what is to become of it: an RCODE, "dropped" or "pending".
func readMalformed(t testing.TB, path string) (want string, msg []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(b), "\n")
	msg, err = hex.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		t.Fatal(err)
	}
	want, _, _ = strings.Cut(strings.TrimPrefix(head, "# "), ":")
	return want, msg
}

func malformedCases(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/malformed/*.hex")
	if err != nil || len(paths) == 0 {
		t.Fatalf("got %d cases, %v", len(paths), err)
	}
	return paths
}

func TestMalformed(t *testing.T) {
	h := testHandler(t, Config{})
	for _, path := range malformedCases(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".hex"), func(t *testing.T) {
			want, msg := readMalformed(t, path)
			q := &query{msg: msg, client: testClient, local: testLocal, transport: TCP}
			out, result := h.answerNow(q, nil)
			got := [...]string{answered: "answered", pending: "pending", dropped: "dropped"}[result]
			if result == answered {
				got = rcodeOf(t, msg, out)
			} else if len(out) != 0 {
				t.Errorf("got a reply of %d octets; want none", len(out))
			}
			if got != want {
				t.Errorf("got %s; want %s", got, want)
			}
		})
	}
}

// rcodeOf returns the name of the RCODE of reply after checking that it is one to msg.
func rcodeOf(t *testing.T, msg, reply []byte) string {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(reply); err != nil {
		t.Fatalf("reply %x: %v", reply, err)
	}
	if !m.Response || m.Id != binary.BigEndian.Uint16(msg) || m.Opcode != int(msg[2]>>3&0xf) {
		t.Errorf("got a header of\n%v", &m)
	}
	if len(reply) > len(msg)+optLen+6 {
		t.Errorf("got a reply of %d octets to %d", len(reply), len(msg))
	}
	if opt := m.IsEdns0(); opt != nil && opt.Version() != 0 {
		t.Errorf("got EDNS version %d; want 0", opt.Version())
	}
	if m.Rcode == dns.RcodeBadVers {
		return "BADVERS" // which miekg/dns calls by its other name
	}
	return dns.RcodeToString[m.Rcode]
}

// Counts that lie, names without end: nothing of that is believed before it is refused.
func TestMalformedDoesNotAllocate(t *testing.T) {
	h := testHandler(t, Config{})
	dst := make([]byte, 0, 4096)
	for _, path := range malformedCases(t) {
		_, msg := readMalformed(t, path)
		q := &query{msg: msg, client: testClient, local: testLocal, transport: DoQ}
		if got := testing.AllocsPerRun(10, func() { h.answerNow(q, dst) }); got != 0 {
			t.Errorf("%s: got %v allocations; want none", path, got)
		}
	}
}

func TestQuestionIsEchoed(t *testing.T) {
	h := testHandler(t, Config{})
	for path, want := range map[string]bool{
		"class-chaos": true, "type-axfr": true, "opt-version-1": true, "trailing-octet": true,
		"qdcount-2": false, "opcode-notify": false, "header-only": false, "name-256-octets": false,
	} {
		_, msg := readMalformed(t, "testdata/malformed/"+path+".hex")
		out, _ := h.answerNow(&query{msg: msg, client: testClient, local: testLocal}, nil)
		if got := len(out) > headerLen && out[5] == 1 && string(out[12:16]) == string(msg[12:16]); got != want {
			t.Errorf("%s: got question echoed %t; want %t", path, got, want)
		}
	}
}

func TestHasKeepalive(t *testing.T) {
	with := dnstest.Query("www.example.", dns.TypeA)
	opt := with.SetEdns0(1232, false).IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_PADDING{Padding: make([]byte, 3)})
	without := dnstest.Pack(t, with)
	opt.Option = append(opt.Option, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE})
	for name, row := range map[string]struct {
		msg  []byte
		want bool
	}{
		"with":      {dnstest.Pack(t, with), true},
		"without":   {without, false},
		"no-edns":   {dnstest.Pack(t, dnstest.Query("www.example.", dns.TypeA)), false},
		"empty":     {nil, false},
		"truncated": {dnstest.Pack(t, with)[:40], false},
	} {
		if got := hasKeepalive(row.msg); got != row.want {
			t.Errorf("%s: got %t; want %t", name, got, row.want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, path := range malformedCases(f) {
		_, msg := readMalformed(f, path)
		f.Add(msg)
	}
	h := testHandler(f, Config{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > maxMsg {
			return
		}
		hasKeepalive(msg)
		var r request
		q := &query{msg: msg, client: testClient, local: testLocal, transport: DoT}
		ok := r.parse(q.msg, channels[q.transport])
		out, result := h.answerNow(q, nil)
		switch {
		case ok == (result == dropped):
			t.Fatalf("parsed %t, outcome %d", ok, result)
		case result == answered:
			rcodeOf(t, msg, dnstest.Unpadded(t, out))
		case result == pending:
			agree(t, msg, &r)
		}
	})
}

// agree checks what r says about msg, which was accepted, against miekg/dns. That looks into what we skip, the data of
// other records and of options, so that where it finds fault with them only the question is compared.
func agree(t *testing.T, msg []byte, r *request) {
	var m dns.Msg
	whole := m.Unpack(msg) == nil
	if !whole {
		msg = bytes.Clone(msg[:headerLen+len(r.question)])
		msg[11] = 0
		m = *dnstest.Unpack(t, msg)
	}
	name, _, err := dns.UnpackDomainName(r.key.bytes(), 0)
	if err != nil || len(m.Question) != 1 || name != strings.ToLower(m.Question[0].Name) {
		t.Errorf("got the name %q, %v; want that of %v", name, err, m.Question)
	}
	if got := r.key.qtype(); got != m.Question[0].Qtype || m.Question[0].Qclass != dns.ClassINET {
		t.Errorf("got type %d; want that of %v", got, m.Question)
	}
	opt := m.IsEdns0()
	if whole && r.edns != (opt != nil) || opt != nil && (r.do != opt.Do() || r.size != opt.UDPSize() || opt.Version() != 0) {
		t.Errorf("got EDNS %t, DO %t, %d octets; want %v", r.edns, r.do, r.size, opt)
	}
	if cd := r.key.flags&keyCD != 0; cd != m.CheckingDisabled || r.recursion() != m.RecursionDesired {
		t.Errorf("got CD %t, RD %t; want %t, %t", cd, r.recursion(), m.CheckingDisabled, m.RecursionDesired)
	}
}
