package svcb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors of Parse, ParseParams and names that callers tell apart, each naming the rule that was broken.
var (
	ErrTargetName = errors.New("svcb: TargetName is not a valid name")
	ErrALPN       = errors.New("svcb: alpn is empty, has an empty id or ends within one")
	ErrIPv4Hint   = errors.New("svcb: ipv4hint is empty or not a multiple of 4 octets")
	ErrIPv6Hint   = errors.New("svcb: ipv6hint is empty or not a multiple of 16 octets")
)

// The other errors of parsing.
var (
	errTruncated        = errors.New("svcb: name or parameters end too early")
	errTargetCompressed = errors.New("svcb: TargetName is compressed")
	errKeyOrder         = errors.New("svcb: SvcParamKeys are not strictly increasing")
	errKeyInvalid       = errors.New("svcb: SvcParamKey 65535 is reserved as invalid")
	errMandatory        = errors.New("svcb: mandatory is empty, unsorted, lists itself or lists a key twice")
	errMandatoryAbsent  = errors.New("svcb: mandatory lists a key that is absent")
	errNoDefaultALPN    = errors.New("svcb: no-default-alpn has a value or stands without alpn")
	errPort             = errors.New("svcb: port is not 2 octets")
	errDoHPath          = errors.New("svcb: dohpath is not a relative UTF-8 URI template with the variable dns")
	errNotEmpty         = errors.New("svcb: ohttp or pvd has a value")
)

// Parse parses RDATA and checks every parameter whose format RFC 9460, RFC 9461 and RFC 9540 define. It accepts unknown
// keys, and any value of ech, which only TLS can judge. In AliasMode it checks no value, because recipients must ignore
// the parameters. See RFC 9460, Sections 2.2, 2.4.2 and 2.4.3.
//
// A compressed TargetName, which a sender must not emit, is an error. The values share memory with rdata.
func Parse(rdata []byte) (Record, error) {
	if len(rdata) < 3 {
		return Record{}, errTruncated
	}
	target, n, err := ParseName(rdata[2:])
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

// ParseParams parses and checks SvcParams alone, as DNR options carry them, in the way of Parse. The values share
// memory with b. See RFC 9463, Section 3.1.5.
func ParseParams(b []byte) ([]Param, error) {
	params, err := splitParams(b)
	if err != nil {
		return nil, err
	}
	return params, checkParams(params)
}

// splitParams returns the parameters that b consists of, whose values it does not check.
func splitParams(b []byte) ([]Param, error) {
	var params []Param
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, errTruncated
		}
		key, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if len(b) < 4+n {
			return nil, fmt.Errorf("%w: %s", errTruncated, KeyName(key))
		}
		if k := len(params); k > 0 && params[k-1].Key >= key {
			return nil, fmt.Errorf("%w: %s", errKeyOrder, KeyName(key))
		}
		params = append(params, Param{key, b[4 : 4+n : 4+n]})
		b = b[4+n:]
	}
	return params, nil
}

// checkParams returns what is wrong with the first parameter whose value is malformed.
func checkParams(params []Param) error {
	for _, p := range params {
		if err := p.check(params); err != nil {
			return err
		}
	}
	return nil
}

// check returns what is wrong with the value of p, which is one of all parameters of a record.
func (p Param) check(all []Param) error {
	switch p.Key {
	case KeyMandatory:
		return checkMandatory(p.Value, all)
	case KeyALPN:
		_, err := splitALPN(p.Value)
		return err
	case KeyNoDefaultALPN:
		return check(len(p.Value) == 0 && find(all, KeyALPN) != nil, errNoDefaultALPN)
	case KeyPort:
		return check(len(p.Value) == 2, errPort)
	case KeyIPv4Hint:
		return check(len(p.Value) > 0 && len(p.Value)%4 == 0, ErrIPv4Hint)
	case KeyIPv6Hint:
		return check(len(p.Value) > 0 && len(p.Value)%16 == 0, ErrIPv6Hint)
	case KeyDoHPath:
		return CheckDoHPath(string(p.Value))
	case keyOHTTP, KeyPvD:
		return check(len(p.Value) == 0, errNotEmpty)
	case keyInvalid:
		return errKeyInvalid
	}
	return nil
}

// check returns err unless ok.
func check(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

// checkMandatory applies RFC 9460, Section 8.
func checkMandatory(v []byte, all []Param) error {
	if len(v) == 0 || len(v)%2 != 0 {
		return errMandatory
	}
	last := KeyMandatory // which must not be listed, and is the lowest key
	for ; len(v) > 0; v = v[2:] {
		key := binary.BigEndian.Uint16(v)
		if key <= last {
			return errMandatory
		}
		if find(all, key) == nil {
			return fmt.Errorf("%w: %s", errMandatoryAbsent, KeyName(key))
		}
		last = key
	}
	return nil
}

// splitALPN returns the protocol ids of the value of alpn. See RFC 9460, Section 7.1.1.
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
