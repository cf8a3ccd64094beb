package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// blackHole is an upstream that answers only for names that begin with "warm"; all others wait for ever. It answers for
// the root as well, so that it counts as healthy all the while. warmN.example has the address 198.51.100.N.
func (l *lab) blackHole() {
	l.t.Helper()
	pc := l.internet.listenUDP(unbound4 + ":53")
	var ln net.Listener
	err := l.internet.do(func() (err error) {
		ln, err = net.Listen("tcp", unbound4+":53")
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if name := buf[12:n]; n > 17 && (name[0] == 0 || bytes.HasPrefix(name[1:], []byte("warm"))) {
				pc.WriteToUDPAddrPort(warmReply(buf[:n]), from)
			}
		}
	}()
	l.t.Cleanup(func() { pc.Close(); ln.Close(); <-done })
}

// answerProbes makes a black hole of the upstream, unless the test has started a real one: without an upstream that
// answers for the root, cfrd is not ready.
func (l *lab) answerProbes() {
	l.t.Helper()
	var pc net.PacketConn
	err := l.internet.do(func() (err error) {
		pc, err = net.ListenPacket("udp", unbound4+":53")
		return err
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		return
	}
	if err != nil {
		l.t.Fatal(err)
	}
	pc.Close()
	l.blackHole()
}

// warmReply answers query: with one record if it asks for A, with none for the root and other types.
func warmReply(query []byte) []byte {
	end := 12 + bytes.IndexByte(query[12:], 0) + 5
	reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end]...)
	if qtype := query[end-3]; qtype != 1 || query[12] == 0 {
		return reply
	}
	reply[7] = 1
	host := byte(9)
	if n, err := strconv.Atoi(string(query[17 : 13+int(query[12])])); err == nil {
		host = byte(n)
	}
	return append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 198, 51, 100, host)
}

// question returns a query for an A record of name, with ID 0.
func question(name string) []byte {
	msg := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		msg = append(append(msg, byte(len(label))), label...)
	}
	return append(msg, 0, 0, 1, 0, 1)
}

func framed(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
}
