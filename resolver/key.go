package resolver

import (
	"encoding/binary"
	"fmt"

	"github.com/miekg/dns"
)

// key is what a reply depends on, apart from steering. The class is IN, always.
type key struct {
	flags    uint8 // keyDO, keyCD
	n        uint16
	question [maxName + 4]byte // QNAME in lower case, type, class
}

const (
	keyDO = 1 << iota
	keyCD
)

// bytes returns the question.
func (k *key) bytes() []byte { return k.question[:k.n] }

// name returns QNAME in wire form.
func (k *key) name() []byte { return k.question[:k.n-4] }

// qtype returns the type that is asked for.
func (k *key) qtype() uint16 { return binary.BigEndian.Uint16(k.question[k.n-4:]) }

// set makes k the key of question. Lengths of labels are below 'A', so that a name needs no parsing to be lowered.
func (k *key) set(question []byte, flags uint8) {
	name := question[:len(question)-4]
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		k.question[i] = c
	}
	copy(k.question[len(name):], question[len(name):])
	k.n, k.flags = uint16(len(question)), flags
}

// newKey returns the key of a question with name as text.
func newKey(name string, qtype uint16, flags uint8) (*key, error) {
	var buf [maxName + 4]byte
	n, err := dns.PackDomainName(name, buf[:maxName], 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	binary.BigEndian.PutUint16(buf[n:], qtype)
	binary.BigEndian.PutUint16(buf[n+2:], dns.ClassINET)
	k := new(key)
	k.set(buf[:n+4], flags)
	return k, nil
}
