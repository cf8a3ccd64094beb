package relay

import (
	"io"
	"net"
	"testing"
)

// BenchmarkTCPRelay measures the relay with both ends in the same process: compare it with itself only.
func BenchmarkTCPRelay(b *testing.B) {
	b.Run("bulk", func(b *testing.B) {
		bed := newTestbed(b, Limits{NewFlowsPerSecond: 1e9, NewFlowsBurst: 1e9})
		client, server := bed.flow(b)
		buf := make([]byte, 256<<10)
		go io.Copy(io.Discard, struct{ io.Reader }{server})
		b.SetBytes(int64(len(buf)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("exchange", func(b *testing.B) {
		bed := newTestbed(b, Limits{NewFlowsPerSecond: 1e9, NewFlowsBurst: 1e9})
		client, server := bed.flow(b)
		go io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{server})
		buf := make([]byte, 512)
		b.SetBytes(2 * int64(len(buf)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Write(buf); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(client, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("connect", func(b *testing.B) {
		bed := newTestbed(b, Limits{NewFlowsPerSecond: 1e9, NewFlowsBurst: 1e9})
		go func() {
			for {
				c, err := bed.origin.AcceptTCP()
				if err != nil {
					return
				}
				go func(c *net.TCPConn) {
					io.CopyN(c, c, 1)
					reset(c)
				}(c)
			}
		}()
		b.ReportAllocs()
		for b.Loop() {
			c, err := bed.tryDial("127.80.0.1")
			if err != nil {
				b.Fatal(err)
			}
			c.Write([]byte{1})
			c.Read(make([]byte, 1))
			reset(c)
		}
	})
}
