package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/miekg/dns"
)

// Key is what a response depends on, apart from steering: the question and two flags. The class is IN, always. The zero
// Key is of no question.
type Key struct {
	Flags    uint8 // DO and CD
	size     uint16
	question [maxName + 4]byte // QNAME in lower case, type, class
}

// Bits of Key.Flags.
const (
	DO = 1 << iota // the client wants DNSSEC records. See RFC 4035, Section 3.2.1.
	CD             // the client validates by itself. See RFC 4035, Section 3.2.2.
)

// Bytes returns the question: QNAME in lower case, type, class.
func (k *Key) Bytes() []byte { return k.question[:k.size] }

// Name returns QNAME in wire form, in lower case.
func (k *Key) Name() []byte { return k.question[:k.size-4] }

// Type returns the type that is asked for.
func (k *Key) Type() uint16 { return binary.BigEndian.Uint16(k.question[k.size-4:]) }

// Set makes k the key of question, which has been checked: QNAME, type, class. Lengths of labels are below 'A', so that a name needs no parsing to be lowered.
func (k *Key) Set(question []byte, flags uint8) {
	name := question[:len(question)-4]
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		k.question[i] = c
	}
	copy(k.question[len(name):], question[len(name):])
	k.size, k.Flags = uint16(len(question)), flags
}

// NewKey returns the key of a question for name, which is fully qualified text.
func NewKey(name string, qtype uint16, flags uint8) (*Key, error) {
	var buf [maxName + 4]byte
	n, err := dns.PackDomainName(name, buf[:maxName], 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("name %q: %w", name, err)
	}
	binary.BigEndian.PutUint16(buf[n:], qtype)
	binary.BigEndian.PutUint16(buf[n+2:], dns.ClassINET)
	k := new(Key)
	k.Set(buf[:n+4], flags)
	return k, nil
}
