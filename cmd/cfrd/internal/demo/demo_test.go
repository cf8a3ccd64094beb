package demo

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseProcTCP(t *testing.T) {
	const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100507F:115B 02003C7F:C001 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
`
	got, err := parseProcTCP(bufio.NewScanner(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	want := []tcpPair{{netip.MustParseAddrPort("127.80.0.1:4443"), netip.MustParseAddrPort("127.60.0.2:49153")}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(tcpPair{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func FuzzParseProcAddr(f *testing.F) {
	for _, seed := range []string{
		"0100007F:1F90",
		"00000000:0000",
		"0100007F",                              // no port
		"0100007F:1F90:1",                       // too many parts
		"0100007F:12345",                        // the port is too large
		"00000000000000000000000001000000:0035", // an IPv6 address
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ap, err := parseProcAddr(s)
		if err != nil {
			return
		}
		a := ap.Addr().As4()
		again := fmt.Sprintf("%02X%02X%02X%02X:%04X", a[3], a[2], a[1], a[0], ap.Port())
		back, err := parseProcAddr(again)
		if err != nil || (back != ap && !bigEndian()) {
			t.Errorf("%q became %v and then, as %q, %v, %v", s, ap, again, back, err)
		}
	})
}

// bigEndian reports whether this machine writes addresses in /proc the other way round.
func bigEndian() bool {
	ap, err := parseProcAddr("7F000001:0000")
	return err == nil && ap.Addr().IsLoopback()
}

// TestECHKey makes a handshake in which client and server agree on the key.
func TestECHKey(t *testing.T) {
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.issue([]string{steeredName, outerName})
	if err != nil {
		t.Fatal(err)
	}
	list, key, err := newECHKey(7, outerName)
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	server := tls.Server(there, &tls.Config{Certificates: []tls.Certificate{cert}, EncryptedClientHelloKeys: []tls.EncryptedClientHelloKey{key}})
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(t.Context()); there.Close() }()
	client := tls.Client(here, &tls.Config{ServerName: steeredName, RootCAs: ca.pool(), EncryptedClientHelloConfigList: list})
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	here.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !client.ConnectionState().ECHAccepted || server.ConnectionState().ServerName != steeredName {
		t.Errorf("got ECH accepted %t, inner name %q; want true, %q",
			client.ConnectionState().ECHAccepted, server.ConnectionState().ServerName, steeredName)
	}
}
