package resolver

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go"
)

// The benchmarks measure one cached answer, client included. pipelined ones keep a window of queries on their way, as a
// forwarder or a load generator does.

const pipelineWindow = 64

func BenchmarkUDP(b *testing.B) {
	s := startServer(b, nil)
	c, err := net.Dial("udp", s.Addrs().Do53[0].String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	msg := wireQuery(b, "now.example", 1)
	buf := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(msg); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUDPPipelined(b *testing.B) {
	s := startServer(b, nil)
	c, err := net.Dial("udp", s.Addrs().Do53[0].String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	msg := wireQuery(b, "now.example", 1)
	buf := make([]byte, 512)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if _, err := c.Write(msg); err != nil {
			b.Fatal(err)
		}
		if n < pipelineWindow {
			continue
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTCPPipelined(b *testing.B) {
	s := startServer(b, nil)
	benchmarkStream(b, tcpConn(b, s.Addrs().Do53[0]))
}

func BenchmarkDoTPipelined(b *testing.B) {
	s := startServer(b, nil)
	benchmarkStream(b, dotConn(b, s))
}

// benchmarkStream writes bursts of pipelineWindow queries and reads their replies.
func benchmarkStream(b *testing.B, c net.Conn) {
	msg := frame(wireQuery(b, "now.example", 1))
	var burst []byte
	for range pipelineWindow {
		burst = append(burst, msg...)
	}
	replies := make([]byte, pipelineWindow*(len(msg)+1))
	r := bufio.NewReaderSize(c, len(replies))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%pipelineWindow != 0 {
			continue
		}
		if _, err := c.Write(burst); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(r, replies); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDoH1(b *testing.B) { benchmarkAsk(b, dialDoH(1, http.MethodPost)) }
func BenchmarkDoH2(b *testing.B) { benchmarkAsk(b, dialDoH(2, http.MethodPost)) }
func BenchmarkDoH3(b *testing.B) { benchmarkAsk(b, dialDoH(3, http.MethodPost)) }
func BenchmarkDoQ(b *testing.B)  { benchmarkAsk(b, dialDoQ) }

func benchmarkAsk(b *testing.B, dial func(testing.TB, *testServer) asker) {
	s := startServer(b, nil)
	ask := dial(b, s)
	msg := wireQuery(b, "now.example", 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ask(context.Background(), msg); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDoQHandshake is what a client costs that asks once.
func BenchmarkDoQHandshake(b *testing.B) {
	s := startServer(b, nil)
	msg := wireQuery(b, "now.example", 1)
	for b.Loop() {
		c, err := quic.DialAddr(context.Background(), s.Addrs().DoQ[0].String(), s.clientTLS("doq"), nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := askDoQ(context.Background(), c, msg); err != nil {
			b.Fatal(err)
		}
		c.CloseWithError(0, "")
	}
}
