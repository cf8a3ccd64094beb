package ddr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/miekg/dns"
)

// SvcParamKeys. See RFC 9460, Section 14.3.2; RFC 9848, Section 4; RFC 9461, Section 5; RFC 9540, Section 4;
// draft-ietf-intarea-proxy-config, Section 2.1.
const (
	KeyMandatory     uint16 = 0
	KeyALPN          uint16 = 1
	KeyNoDefaultALPN uint16 = 2
	KeyPort          uint16 = 3
	KeyIPv4Hint      uint16 = 4
	KeyECH           uint16 = 5
	KeyIPv6Hint      uint16 = 6
	KeyDoHPath       uint16 = 7
	KeyOHTTP         uint16 = 8
	KeyPvD           uint16 = 11

	// The range of private use. See RFC 9460, Section 14.3.1.
	KeyPrivateFirst uint16 = 65280
	KeyPrivateLast  uint16 = 65534
	keyInvalid      uint16 = 65535
)

// Errors of ParseRecord and ParseParams, each naming the rule that was broken.
var (
	ErrTruncated        = errors.New("ddr: name or parameters end too early")
	ErrTargetName       = errors.New("ddr: TargetName is not a valid name")
	ErrTargetCompressed = errors.New("ddr: TargetName is compressed")
	ErrKeyOrder         = errors.New("ddr: SvcParamKeys are not strictly increasing")
	ErrKeyInvalid       = errors.New("ddr: SvcParamKey 65535 is reserved as invalid")
	ErrMandatory        = errors.New("ddr: mandatory is empty, unsorted, lists itself or lists a key twice")
	ErrMandatoryAbsent  = errors.New("ddr: mandatory lists a key that is absent")
	ErrALPN             = errors.New("ddr: alpn is empty, has an empty id or ends within one")
	ErrNoDefaultALPN    = errors.New("ddr: no-default-alpn has a value or stands without alpn")
	ErrPort             = errors.New("ddr: port is not 2 octets")
	ErrIPv4Hint         = errors.New("ddr: ipv4hint is empty or not a multiple of 4 octets")
	ErrIPv6Hint         = errors.New("ddr: ipv6hint is empty or not a multiple of 16 octets")
	ErrDoHPath          = errors.New("ddr: dohpath is not a relative UTF-8 URI template with the variable dns")
	ErrNotEmpty         = errors.New("ddr: ohttp or pvd has a value")
)

// Errors of Record.CheckDNS.
var (
	ErrAliasMode      = errors.New("ddr: AliasMode record")
	ErrBadTarget      = errors.New(`ddr: TargetName must be neither "." nor resolver.arpa`)
	ErrMandatoryKey   = errors.New("ddr: mandatory lists a key that DNS clients do not know")
	ErrNoALPN         = errors.New("ddr: no alpn, so that no protocol is known")
	ErrDoHPathMissing = errors.New("ddr: alpn has an HTTP id, but dohpath is missing")
)

// Record is the RDATA of an SVCB or HTTPS record. See RFC 9460, Section 2.2.
type Record struct {
	Priority uint16 // 0 is AliasMode, in which Params have no meaning
	Target   string // fully qualified, in presentation form
	Params   []Param
}

// Param is one SvcParam in wire form.
type Param struct {
	Key   uint16
	Value []byte
}

// Validate reports what is wrong with the wire form of SVCB or HTTPS RDATA. It is as strict as RFC 9460 asks of a
// receiver: see ParseRecord.
func Validate(rdata []byte) error {
	_, err := ParseRecord(rdata)
	return err
}

// ParseRecord parses RDATA and checks every parameter whose format RFC 9460, RFC 9461 and RFC 9540 define. Unknown
// keys pass, and so does ech, which only TLS can judge. In AliasMode, values are not looked at, because recipients
// must ignore them. See RFC 9460, Sections 2.2, 2.4.2 and 2.4.3.
//
// RDATA must stand for itself: a compressed TargetName, which a sender must not emit, is an error.
func ParseRecord(rdata []byte) (Record, error) {
	if len(rdata) < 3 {
		return Record{}, ErrTruncated
	}
	target, n, err := parseTarget(rdata[2:])
	if err != nil {
		return Record{}, err
	}
	r := Record{Priority: binary.BigEndian.Uint16(rdata), Target: target}
	if r.Params, err = splitParams(rdata[2+n:]); err != nil {
		return Record{}, err
	}
	if r.Priority != 0 {
		err = checkParams(r.Params)
	}
	return r, err
}

// ParseParams parses and checks SvcParams alone, which is how DNR options carry them. See RFC 9463, Section 3.1.5.
func ParseParams(b []byte) ([]Param, error) {
	params, err := splitParams(b)
	if err != nil {
		return nil, err
	}
	return params, checkParams(params)
}

// parseTarget returns the name at the start of b and its length in octets.
func parseTarget(b []byte) (string, int, error) {
	for n := 0; n < len(b); {
		label := int(b[n])
		switch {
		case label&0xc0 == 0xc0:
			return "", 0, ErrTargetCompressed
		case label > 63 || n+label+1 > 255:
			return "", 0, ErrTargetName
		case label == 0:
			name, end, err := dns.UnpackDomainName(b, 0)
			if err != nil {
				return "", 0, fmt.Errorf("%w: %w", ErrTargetName, err)
			}
			return name, end, nil
		}
		n += label + 1
	}
	return "", 0, ErrTruncated
}

func splitParams(b []byte) ([]Param, error) {
	var params []Param
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, ErrTruncated
		}
		key, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if len(b) < 4+n {
			return nil, fmt.Errorf("%w: %s", ErrTruncated, KeyName(key))
		}
		if k := len(params); k > 0 && params[k-1].Key >= key {
			return nil, fmt.Errorf("%w: %s", ErrKeyOrder, KeyName(key))
		}
		params = append(params, Param{key, b[4 : 4+n : 4+n]})
		b = b[4+n:]
	}
	return params, nil
}

func checkParams(params []Param) error {
	for _, p := range params {
		if err := p.check(params); err != nil {
			return err
		}
	}
	return nil
}

// check judges the value of p, which is one of all.
func (p Param) check(all []Param) error {
	switch p.Key {
	case KeyMandatory:
		return checkMandatory(p.Value, all)
	case KeyALPN:
		_, err := splitALPN(p.Value)
		return err
	case KeyNoDefaultALPN:
		return check(len(p.Value) == 0 && find(all, KeyALPN) != nil, ErrNoDefaultALPN)
	case KeyPort:
		return check(len(p.Value) == 2, ErrPort)
	case KeyIPv4Hint:
		return check(len(p.Value) > 0 && len(p.Value)%4 == 0, ErrIPv4Hint)
	case KeyIPv6Hint:
		return check(len(p.Value) > 0 && len(p.Value)%16 == 0, ErrIPv6Hint)
	case KeyDoHPath:
		return checkDoHPath(string(p.Value))
	case KeyOHTTP, KeyPvD:
		return check(len(p.Value) == 0, ErrNotEmpty)
	case keyInvalid:
		return ErrKeyInvalid
	}
	return nil
}

func check(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

// checkMandatory applies RFC 9460, Section 8.
func checkMandatory(v []byte, all []Param) error {
	if len(v) == 0 || len(v)%2 != 0 {
		return ErrMandatory
	}
	last := KeyMandatory // which must not be listed, and is the lowest key
	for ; len(v) > 0; v = v[2:] {
		key := binary.BigEndian.Uint16(v)
		if key <= last {
			return ErrMandatory
		}
		if find(all, key) == nil {
			return fmt.Errorf("%w: %s", ErrMandatoryAbsent, KeyName(key))
		}
		last = key
	}
	return nil
}

func splitALPN(v []byte) ([]string, error) {
	if len(v) == 0 {
		return nil, ErrALPN
	}
	var ids []string
	for len(v) > 0 {
		n := int(v[0])
		if n == 0 || len(v) < 1+n {
			return nil, ErrALPN
		}
		ids = append(ids, string(v[1:1+n]))
		v = v[1+n:]
	}
	return ids, nil
}

func checkDoHPath(template string) error {
	if !utf8.ValidString(template) {
		return ErrDoHPath
	}
	_, err := ExpandDoHPath(template, "x")
	return err
}

func find(params []Param, key uint16) *Param {
	for i := range params {
		if params[i].Key == key {
			return &params[i]
		}
	}
	return nil
}

// Value returns the value of a parameter in wire form, and whether there is one.
func (r Record) Value(key uint16) ([]byte, bool) {
	p := find(r.Params, key)
	if p == nil {
		return nil, false
	}
	return p.Value, true
}

// ALPN returns the protocol ids of a parsed record, nil if there are none.
func (r Record) ALPN() []string {
	v, _ := r.Value(KeyALPN)
	ids, _ := splitALPN(v) // was checked when the record was parsed
	return ids
}

// Port returns the port parameter of a parsed record, or 0 if there is none.
func (r Record) Port() uint16 {
	v, ok := r.Value(KeyPort)
	if !ok {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

// DoHPath returns the URI template of a parsed record, or "".
func (r Record) DoHPath() string {
	v, _ := r.Value(KeyDoHPath)
	return string(v)
}

// Mandatory returns the keys that a parsed record lists as mandatory.
func (r Record) Mandatory() []uint16 {
	v, _ := r.Value(KeyMandatory)
	keys := make([]uint16, 0, len(v)/2)
	for ; len(v) > 0; v = v[2:] {
		keys = append(keys, binary.BigEndian.Uint16(v))
	}
	return keys
}

// CheckDNS reports why a DNS client that follows RFC 9461 and RFC 9462 cannot use a parsed record of the "dns"
// scheme, or nil if it can.
func (r Record) CheckDNS() error {
	switch {
	case r.Priority == 0:
		return ErrAliasMode
	case r.Target == "." || dns.CanonicalName(r.Target) == arpa:
		return ErrBadTarget
	}
	for _, key := range r.Mandatory() {
		if key > KeyDoHPath {
			return fmt.Errorf("%w: %s", ErrMandatoryKey, KeyName(key))
		}
	}
	ids := r.ALPN()
	if ids == nil {
		return ErrNoALPN
	}
	for _, id := range ids {
		if _, ok := r.Value(KeyDoHPath); !ok && IsHTTP(id) {
			return ErrDoHPathMissing
		}
	}
	return nil
}

// IsHTTP reports whether an ALPN id means DoH. See RFC 9461, Section 5.
func IsHTTP(alpn string) bool { return alpn == "h2" || alpn == "h3" || alpn == "http/1.1" }

// Append appends the wire form of r to b. It is the inverse of ParseRecord and fails only if Target is not a name.
func (r Record) Append(b []byte) ([]byte, error) {
	var name [255]byte
	n, err := dns.PackDomainName(r.Target, name[:], 0, nil, false)
	if err != nil {
		return b, fmt.Errorf("%w: %w", ErrTargetName, err)
	}
	b = binary.BigEndian.AppendUint16(b, r.Priority)
	return AppendParams(append(b, name[:n]...), r.Params), nil
}

// AppendParams appends the wire form of params, which must be sorted by key, to b.
func AppendParams(b []byte, params []Param) []byte {
	for _, p := range params {
		b = binary.BigEndian.AppendUint16(b, p.Key)
		b = binary.BigEndian.AppendUint16(b, uint16(len(p.Value)))
		b = append(b, p.Value...)
	}
	return b
}

// KeyName returns the presentation form of a SvcParamKey, such as "alpn" or "key65280".
func KeyName(key uint16) string {
	switch key {
	case KeyPvD:
		return "pvd"
	case keyInvalid:
		return "key65535"
	}
	return dns.SVCBKey(key).String()
}
