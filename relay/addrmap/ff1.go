package addrmap

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"sync"
)

// ff1Rounds is the number of Feistel rounds of FF1.
const ff1Rounds = 10

// ff1 is the FF1 mode of format-preserving encryption for numeral strings of one radix and one length under one
// tweak. See NIST SP 800-38G, Algorithms 7 and 8. A string is passed as its two halves, as numbers: A are the first
// u = n/2 numerals, B the other v = n-u, most significant first, and both fit into 63 bits. That is all that the
// sealed addresses and NIST's sample vectors need, and it keeps big integers out of the path of each flow.
//
// An ff1 is safe for concurrent use and does not allocate once it is warm.
type ff1 struct {
	block cipher.Block
	// input is what the last AES call of a round's PRF gets, still without round number and half: the CBC-MAC over P
	// and all of Q but its last block, XORed with that block. It makes a round cost one AES call, whatever the tweak.
	input [aes.BlockSize]byte
	b     int       // octets of a half in Q, step 3
	d     int       // octets of the PRF's output that count, step 4
	mod   [2]uint64 // radix^u and radix^v
	// scratch holds *[aes.BlockSize]byte. A local array would escape through cipher.Block to the heap.
	scratch sync.Pool
}

// newFF1 prepares FF1 with an AES key of 16, 24 or 32 octets for strings of n numerals.
func newFF1(key []byte, radix, n int, tweak []byte) (*ff1, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("FF1 key: %w", err)
	}
	f := &ff1{block: block}
	f.scratch.New = func() any { return new([aes.BlockSize]byte) }
	if radix < 2 || radix > 1<<16 || n < 2 {
		return nil, fmt.Errorf("FF1 over %d numerals of radix %d is not defined", n, radix)
	}
	for i, numerals := range []int{n / 2, n - n/2} {
		m := new(big.Int).Exp(big.NewInt(int64(radix)), big.NewInt(int64(numerals)), nil)
		if m.Cmp(new(big.Int).SetUint64(1<<63)) > 0 {
			return nil, fmt.Errorf("FF1 half of %d numerals of radix %d is above 63 bits", numerals, radix)
		}
		f.mod[i] = m.Uint64()
	}
	// Draft Revision 1 of SP 800-38G, Section 5.1, raised the smallest domain from 100 to a million.
	if hi, lo := bits.Mul64(f.mod[0], f.mod[1]); hi == 0 && lo < 1_000_000 {
		return nil, fmt.Errorf("FF1 domain of %d strings is below a million", lo)
	}
	f.b = (bits.Len64(f.mod[1]-1) + 7) / 8
	f.d = 4*((f.b+3)/4) + 4
	f.absorb(radix, n, tweak)
	return f, nil
}

// absorb computes f.input, steps 5 and 6 i.
func (f *ff1) absorb(radix, n int, tweak []byte) {
	msg := []byte{1, 2, 1, byte(radix >> 16), byte(radix >> 8), byte(radix), ff1Rounds, byte(n / 2)}
	msg = binary.BigEndian.AppendUint32(msg, uint32(n))
	msg = binary.BigEndian.AppendUint32(msg, uint32(len(tweak)))
	msg = append(msg, tweak...)
	// Padding, round number and half; the last two stay zero here and end the last block.
	pad := -(len(msg) + f.b + 1) & (aes.BlockSize - 1)
	msg = append(msg, make([]byte, pad+1+f.b)...)
	for ; len(msg) > aes.BlockSize; msg = msg[aes.BlockSize:] {
		f.xor(msg)
		f.block.Encrypt(f.input[:], f.input[:])
	}
	f.xor(msg)
}

// xor adds the first block of msg to f.input.
func (f *ff1) xor(msg []byte) {
	for i := range f.input {
		f.input[i] ^= msg[i]
	}
}

// round is y modulo m of round i, steps 6 i to 6 iii. The PRF's one block is always long enough: b <= 8, so d <= 12.
func (f *ff1) round(buf *[aes.BlockSize]byte, i int, half, m uint64) uint64 {
	*buf = f.input
	buf[aes.BlockSize-1-f.b] ^= byte(i)
	binary.BigEndian.PutUint64(buf[8:], binary.BigEndian.Uint64(buf[8:])^half)
	f.block.Encrypt(buf[:], buf[:])
	if f.d == 8 {
		return binary.BigEndian.Uint64(buf[:]) % m
	}
	return bits.Rem64(uint64(binary.BigEndian.Uint32(buf[:])), binary.BigEndian.Uint64(buf[4:]), m)
}

// encrypt enciphers the string with the halves a < radix^u and b < radix^v.
func (f *ff1) encrypt(a, b uint64) (uint64, uint64) {
	buf := f.scratch.Get().(*[aes.BlockSize]byte)
	for i := range ff1Rounds {
		m := f.mod[i&1]
		a, b = b, (a+f.round(buf, i, b, m))%m
	}
	f.scratch.Put(buf)
	return a, b
}

// decrypt is the inverse of encrypt.
func (f *ff1) decrypt(a, b uint64) (uint64, uint64) {
	buf := f.scratch.Get().(*[aes.BlockSize]byte)
	for i := ff1Rounds - 1; i >= 0; i-- {
		m := f.mod[i&1]
		a, b = (b+m-f.round(buf, i, a, m))%m, a
	}
	f.scratch.Put(buf)
	return a, b
}
