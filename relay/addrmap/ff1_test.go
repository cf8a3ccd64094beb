package addrmap

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"strings"
	"testing"
)

// ff1Samples are all sample vectors of NIST for FF1, from
// https://csrc.nist.gov/csrc/media/projects/cryptographic-standards-and-guidelines/documents/examples/ff1samples.pdf.
var ff1Samples = []struct {
	name               string
	key                string
	radix              int
	tweak              string
	plaintext, ciphers string
}{
	{"1-aes-128", ff1Key[:32], 10, "", "0123456789", "2433477484"},
	{"2-aes-128", ff1Key[:32], 10, "39383736353433323130", "0123456789", "6124200773"},
	{"3-aes-128", ff1Key[:32], 36, "3737373770717273373737", "0123456789abcdefghi", "a9tv40mll9kdu509eum"},
	{"4-aes-192", ff1Key[:48], 10, "", "0123456789", "2830668132"},
	{"5-aes-192", ff1Key[:48], 10, "39383736353433323130", "0123456789", "2496655549"},
	{"6-aes-192", ff1Key[:48], 36, "3737373770717273373737", "0123456789abcdefghi", "xbj3kv35jrawxv32ysr"},
	{"7-aes-256", ff1Key, 10, "", "0123456789", "6657667009"},
	{"8-aes-256", ff1Key, 10, "39383736353433323130", "0123456789", "1001623463"},
	{"9-aes-256", ff1Key, 36, "3737373770717273373737", "0123456789abcdefghi", "xs8a0azh2avyalyzuwd"},
}

const ff1Key = "2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f7f036d6f04fc6a94"

func TestFF1Samples(t *testing.T) {
	for _, tt := range ff1Samples {
		t.Run(tt.name, func(t *testing.T) {
			key, tweak, n := unhex(t, tt.key), unhex(t, tt.tweak), len(tt.plaintext)
			f, err := newFF1(key, tt.radix, n, tweak)
			if err != nil {
				t.Fatal(err)
			}
			u := n / 2
			a, b := f.encrypt(numeral(t, tt.plaintext[:u], tt.radix), numeral(t, tt.plaintext[u:], tt.radix))
			got := digits(a, tt.radix, u) + digits(b, tt.radix, n-u)
			if got != tt.ciphers {
				t.Errorf("encrypt: got %s; want %s", got, tt.ciphers)
			}
			a, b = f.decrypt(numeral(t, tt.ciphers[:u], tt.radix), numeral(t, tt.ciphers[u:], tt.radix))
			got = digits(a, tt.radix, u) + digits(b, tt.radix, n-u)
			if got != tt.plaintext {
				t.Errorf("decrypt: got %s; want %s", got, tt.plaintext)
			}
			// The oracle of the fuzz test has to stand up too.
			if got := referenceFF1(t, key, tt.radix, tweak, tt.plaintext); got != tt.ciphers {
				t.Errorf("reference: got %s; want %s", got, tt.ciphers)
			}
		})
	}
}

func TestFF1Domain(t *testing.T) {
	key := make([]byte, 16)
	for _, tt := range []struct {
		name     string
		radix, n int
		ok       bool
	}{
		{"radix-1", 1, 64, false},
		{"radix-above-16-bits", 1<<16 + 1, 4, false},
		{"one-numeral", 10, 1, false},
		{"negative-length", 10, -4, false},
		{"below-a-million", 10, 5, false},
		{"a-million", 10, 6, true},
		{"63-bit-halves", 2, 126, true},
		{"64-bit-half", 2, 127, false},
		{"largest-radix", 1 << 16, 6, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := newFF1(key, tt.radix, tt.n, nil); (err == nil) != tt.ok {
				t.Errorf("got %v; want ok %v", err, tt.ok)
			}
		})
	}
	if _, err := newFF1(key[:15], 10, 10, nil); err == nil {
		t.Error("key of 15 octets: got no error")
	}
}

// FuzzFF1 compares with the reference and back.
func FuzzFF1(f *testing.F) {
	f.Add(uint64(0x2b7e1516), uint16(2), uint8(64), []byte(nil), uint64(0xc0000201), uint64(0))
	f.Add(uint64(1), uint16(36), uint8(19), []byte("7777pqrs777"), uint64(1), uint64(2))
	f.Add(uint64(1), uint16(10), uint8(33), []byte("a tweak of more than one block of AES"), uint64(1), uint64(2))
	f.Add(uint64(1), uint16(0xffff), uint8(7), []byte("0123456789012345"), uint64(1)<<50, uint64(1)<<60)
	f.Fuzz(func(t *testing.T, seed uint64, radix uint16, n uint8, tweak []byte, a, b uint64) {
		key := bytes.Repeat(binary.BigEndian.AppendUint64(nil, seed), 4)
		c, err := newFF1(key, int(radix), int(n), tweak)
		if err != nil {
			return
		}
		a, b = a%c.mod[0], b%c.mod[1]
		x, y := c.encrypt(a, b)
		if x >= c.mod[0] || y >= c.mod[1] {
			t.Fatalf("encrypt(%d, %d): got %d, %d; want below %d", a, b, x, y, c.mod)
		}
		if a2, b2 := c.decrypt(x, y); a2 != a || b2 != b {
			t.Fatalf("decrypt(encrypt): got %d, %d; want %d, %d", a2, b2, a, b)
		}
		wantX, wantY := referenceHalves(t, key, int(radix), int(n), tweak, new(big.Int).SetUint64(a), new(big.Int).SetUint64(b))
		if x != wantX.Uint64() || y != wantY.Uint64() {
			t.Fatalf("encrypt(%d, %d): got %d, %d; want %d, %d", a, b, x, y, wantX, wantY)
		}
	})
}

// referenceFF1 is FF1 for strings of digits up to base 36.
func referenceFF1(t *testing.T, key []byte, radix int, tweak []byte, in string) string {
	t.Helper()
	u := len(in) / 2
	a, _ := new(big.Int).SetString(in[:u], radix)
	b, _ := new(big.Int).SetString(in[u:], radix)
	a, b = referenceHalves(t, key, radix, len(in), tweak, a, b)
	pad := func(s string, n int) string { return strings.Repeat("0", n-len(s)) + s }
	return pad(a.Text(radix), u) + pad(b.Text(radix), len(in)-u)
}

// referenceHalves follows SP 800-38G, Algorithm 7, step by step and in its names, with numbers for strings.
func referenceHalves(t *testing.T, key []byte, radix, n int, tweak []byte, a, b *big.Int) (x, y *big.Int) {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	u := n / 2
	v := n - u
	power := func(e int) *big.Int { return new(big.Int).Exp(big.NewInt(int64(radix)), big.NewInt(int64(e)), nil) }
	octets := (new(big.Int).Sub(power(v), big.NewInt(1)).BitLen() + 7) / 8
	d := 4*((octets+3)/4) + 4
	p := []byte{1, 2, 1, byte(radix >> 16), byte(radix >> 8), byte(radix), 10, byte(u)}
	p = binary.BigEndian.AppendUint32(p, uint32(n))
	p = binary.BigEndian.AppendUint32(p, uint32(len(tweak)))
	for i := range 10 {
		q := bytes.Clone(tweak)
		for (len(q)+1+octets)%16 != 0 {
			q = append(q, 0)
		}
		q = append(q, byte(i))
		q = append(q, b.FillBytes(make([]byte, octets))...)
		r := make([]byte, 16)
		for in := append(bytes.Clone(p), q...); len(in) > 0; in = in[16:] {
			for j := range r {
				r[j] ^= in[j]
			}
			block.Encrypt(r, r)
		}
		s := bytes.Clone(r)
		for j := uint64(1); len(s) < d; j++ {
			next := bytes.Clone(r)
			binary.BigEndian.PutUint64(next[8:], binary.BigEndian.Uint64(next[8:])^j)
			block.Encrypt(next, next)
			s = append(s, next...)
		}
		m := u
		if i%2 == 1 {
			m = v
		}
		c := new(big.Int).SetBytes(s[:d])
		c.Add(c, a).Mod(c, power(m))
		a, b = b, c
	}
	return a, b
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func numeral(t *testing.T, s string, radix int) uint64 {
	t.Helper()
	n, ok := new(big.Int).SetString(s, radix)
	if !ok {
		t.Fatalf("%q is no number in base %d", s, radix)
	}
	return n.Uint64()
}

func digits(x uint64, radix, n int) string {
	s := new(big.Int).SetUint64(x).Text(radix)
	return strings.Repeat("0", n-len(s)) + s
}
