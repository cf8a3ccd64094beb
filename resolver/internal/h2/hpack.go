package h2

import (
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Field is a header field in HPACK form, which needs no dynamic table. A handler encodes what it sends often only once.
type Field []byte

// FieldName is the name of a header field in HPACK form.
type FieldName []byte

// EncodeField returns a field. Its name is sent in lower case. See RFC 9113, Section 8.2.
func EncodeField(name, value string) Field {
	return appendString([]byte(EncodeName(name)), value)
}

// EncodeName returns the name of a field, for a literal that is not indexed. See RFC 7541, Section 6.2.2.
func EncodeName(name string) FieldName {
	name = strings.ToLower(name)
	if i, ok := staticNames[name]; ok {
		return appendName(nil, i)
	}
	return appendString([]byte{0}, name)
}

// ValidField reports whether a field may be sent: of those that HTTP/2 does not have, and those that the server adds, it
// reports false. See RFC 9113, Section 8.2.2.
func ValidField(name, value string) bool {
	name = strings.ToLower(name)
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "date", "content-length":
		return false
	}
	return validName(name) && validValue(value)
}

// Indices in the static table. See RFC 7541, Appendix A.
const (
	indexStatus        = 8
	indexContentLength = 28
	indexDate          = 33
	indexedStatus200   = 0x88 // a whole field
)

// staticNames are the names in the static table of which responses are made.
var staticNames = map[string]uint8{
	"accept-ranges": 18, "access-control-allow-origin": 20, "allow": 22, "cache-control": 24, "content-encoding": 26,
	"content-language": 27, "content-length": 28, "content-type": 31, "date": 33, "etag": 34, "expires": 36,
	"last-modified": 44, "location": 46, "retry-after": 53, "server": 54, "vary": 59,
}

// appendName appends a reference to a name in the static table, with a prefix of four bits.
func appendName(b []byte, index uint8) []byte {
	if index < 15 {
		return append(b, index)
	}
	return append(b, 15, index-15)
}

// appendString appends s in the shorter of its two forms. See RFC 7541, Section 5.2.
func appendString(b []byte, s string) []byte {
	if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
		return hpack.AppendHuffmanString(appendInt(b, 0x80, n), s)
	}
	return append(appendInt(b, 0, uint64(len(s))), s...)
}

// appendInt appends n with a prefix of seven bits after flag. See RFC 7541, Section 5.1.
func appendInt(b []byte, flag byte, n uint64) []byte {
	if n < 127 {
		return append(b, flag|byte(n))
	}
	b = append(b, flag|127)
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(b, byte(n))
}

// appendDecimal appends a field whose value is prefix and a number, in at most 126 octets.
func appendDecimal(b []byte, name FieldName, prefix string, n uint64) []byte {
	b = append(append(b, name...), 0)
	start := len(b)
	b = strconv.AppendUint(append(b, prefix...), n, 10)
	b[start-1] = byte(len(b) - start)
	return b
}
