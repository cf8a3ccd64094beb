package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// BenchmarkMiss is one question to an upstream over UDP, the upstream's part included.
func BenchmarkMiss(b *testing.B) {
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(anyPort))
	if err != nil {
		b.Fatal(err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			end := n - 11 // behind the question: the OPT record makes room for an address
			buf[2], buf[3], buf[7], buf[11] = 0x81, 0x80, 1, 0
			reply := append(buf[:end], 0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 198, 51, 100, 1)
			_, _ = pc.WriteToUDPAddrPort(reply, from)
		}
	}()
	ctx, stop := context.WithCancel(context.Background())
	g := NewGroup(ctx, 0, func() int64 { return 0 }, zerolog.Nop())
	defer g.Wait()
	defer stop()
	p, err := g.Pool([]Config{{Addr: pc.LocalAddr().(*net.UDPAddr).AddrPort()}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	k, err := wire.NewKey("www.example.", dns.TypeA, 0)
	if err != nil {
		b.Fatal(err)
	}
	client := netip.MustParseAddr("192.0.2.7")
	b.ReportAllocs()
	for b.Loop() {
		if r, err := p.Resolve(ctx, k, client); err != nil || r.Rcode() != 0 {
			b.Fatal(fmt.Errorf("got %v, %w", r, err))
		}
	}
}
