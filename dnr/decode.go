package dnr

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// decoder reads one instance. Whatever RFC 9463 forbids becomes a finding with an error, which is all that strict
// callers look for; for lenient ones it reads on wherever the meaning is plain.
type decoder struct {
	form Form
	b    []byte // what is left
	off  int    // of b
	in   Inspection
	// where is the prefix of places in errors, such as "instance 2, ".
	where string
}

// fail adds a finding for which clients discard the instance: see Findings.Fail.
func (d *decoder) fail(code string, rule error, off int, format string, args ...any) {
	d.in.Findings.fail(d.where, code, rule, off, format, args...)
}

// warn adds a finding of severity Warning.
func (d *decoder) warn(code string, off int, format string, args ...any) {
	d.in.Findings.Warn(code, off, format, args...)
}

// note adds a finding of severity Note.
func (d *decoder) note(code string, off int, format string, args ...any) {
	d.in.Findings.note(code, off, format, args...)
}

// finish returns what was read, with advice if that is the whole instance.
func (d *decoder) finish() Inspection {
	if d.in.readable {
		d.advise()
	}
	return d.in
}

// take returns the next n octets.
func (d *decoder) take(n int, field string) ([]byte, bool) {
	if len(d.b) < n {
		d.fail(codeTruncated, errTruncated, d.off, "%s needs %d octets, but %d are left", field, n, len(d.b))
		return nil, false
	}
	v := d.b[:n:n]
	d.b, d.off = d.b[n:], d.off+n
	return v, true
}

// number returns the next size octets, 1, 2 or 4, as a number.
func (d *decoder) number(size int, field string) (int, bool) {
	v, ok := d.take(size, field)
	n := 0
	for _, c := range v {
		n = n<<8 | int(c)
	}
	return n, ok
}

// priority reads the service priority. 0 would be AliasMode, which RFC 9463 does not define for the option.
func (d *decoder) priority() bool {
	at := d.off
	n, ok := d.number(2, "Service Priority")
	d.in.Priority = uint16(n)
	if ok && n == 0 {
		d.fail(CodePriorityZero, ErrPriority, at,
			"Service Priority is 0: some clients skip the resolver, others prefer it to all")
	}
	return ok
}

// body reads from ADN Length to the end.
func (d *decoder) body() {
	if !d.adn() {
		return
	}
	if d.endsBehindADN() {
		d.in.readable = true
		return
	}
	d.in.readable = d.addresses() && d.params() && d.padding()
}

func (d *decoder) adn() bool {
	at := d.off
	n, ok := d.number(d.form.lengthSize(), "ADN Length")
	if !ok {
		return false
	}
	if n > len(d.b) {
		d.fail(codeADN, errADN, at, "ADN Length is %d, but %d octets are left", n, len(d.b))
		return false
	}
	at = d.off
	wire, _ := d.take(n, "ADN")
	name, end, err := svcb.ParseName(wire)
	switch {
	case n == 0:
		d.fail(codeADN, errADN, at, "the name is missing")
	case err != nil:
		d.fail(codeADN, errADN, at, "the name %x is malformed: %w", wire, err)
	case end != n:
		d.fail(codeADN, errADN, at, "%d octets follow the root label of %s", n-end, name)
	case name == ".":
		d.fail(codeADN, errADN, at, "the name is the root")
	default:
		d.in.ADN = name
		return true
	}
	return false
}

// endsBehindADN reports whether this is ADN-only mode. In a Router Advertisement, less than 8 octets are padding; an
// option that says more is longer. See RFC 9463, Section 3.1.6, and erratum 7804.
func (d *decoder) endsBehindADN() bool {
	switch {
	case len(d.b) == 0:
		return true
	case d.form == RA && len(d.b) < 8:
		return d.padding()
	case allZero(d.b) && (d.form == RA || len(d.b) <= 2):
		d.fail(codeZeroLengths, ErrNoAddress, d.off,
			"%d zero octets follow the name: in ADN-only mode, Addr Length and what follows are absent", len(d.b))
		return true
	}
	return false
}

func allZero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

func (d *decoder) addresses() bool {
	d.wideAddrLength()
	at := d.off
	n, ok := d.number(d.form.lengthSize(), "Addr Length")
	if !ok {
		return false
	}
	if size := d.form.addrSize(); n%size != 0 || n > len(d.b) {
		d.fail(codeAddrLength, errAddrLength, at, "Addr Length is %d; want a multiple of %d that is at most %d",
			n, size, len(d.b))
		return false
	}
	wire, _ := d.take(n, "addresses")
	for addr := range slices.Chunk(wire, d.form.addrSize()) {
		a, _ := netip.AddrFromSlice(addr)
		d.in.Addresses = append(d.in.Addresses, a)
	}
	d.judgeAddresses(at)
	return true
}

// wideAddrLength skips the first octet of an Addr Length that was written with 2.
func (d *decoder) wideAddrLength() {
	if d.form != DHCPv4 || len(d.b) < 2 || d.b[0] != 0 {
		return
	}
	if n := int(d.b[1]); n == 0 || n%4 != 0 || n > len(d.b)-2 {
		return
	}
	d.fail(codeWideAddrLength, errAddrLength, d.off, "Addr Length has 2 octets, as encoders wrote it before "+
		"draft-ietf-add-dnr-16; the option of DHCPv4 has 1")
	d.take(1, "Addr Length")
}

// judgeAddresses adds findings about addresses that cannot be used. at is the offset of their length.
func (d *decoder) judgeAddresses(at int) {
	for i, a := range d.in.Addresses {
		if why := Unusable(a); why != "" {
			off := at + d.form.lengthSize() + i*d.form.addrSize()
			d.warn(codeAddressDiscarded, off, "%s is %s: clients discard the address, and some the whole option", a, why)
		}
	}
	if len(d.in.Usable()) == 0 {
		d.fail(codeNoAddress, ErrNoAddress, at, "none of %d addresses can be used, though more than the name is there",
			len(d.in.Addresses))
	}
	if d.form != DHCPv4 && len(d.in.Addresses) > maxAddresses {
		d.warn(CodeManyAddresses, at, "%d addresses: some clients keep Addr Length in 8 bits, which hold %d",
			len(d.in.Addresses), maxAddresses)
	}
}

// params reads service parameters, with their length in Router Advertisements and to the end elsewhere.
func (d *decoder) params() bool {
	n, at := len(d.b), d.off
	if d.form == RA {
		var ok bool
		if n, ok = d.number(2, "SvcParams Length"); !ok {
			return false
		}
		if n > len(d.b) {
			d.fail(CodeSvcParams, errSvcParams, at, "SvcParams Length is %d, but %d octets are left", n, len(d.b))
			return false
		}
		at = d.off
	}
	wire, _ := d.take(n, "SvcParams")
	params, err := svcb.ParseParams(wire)
	if err != nil {
		return d.malformedParams(wire, at, err)
	}
	d.in.Params = params
	for _, p := range params {
		if p.Key == svcb.KeyIPv4Hint || p.Key == svcb.KeyIPv6Hint {
			d.fail(CodeHints, errHints, at, "%s is there, for which DNR has addresses", svcb.KeyName(p.Key))
		}
	}
	return true
}

// malformedParams adds a finding about parameters that are malformed or in presentation form, and reports whether they
// could be read.
func (d *decoder) malformedParams(wire []byte, at int, err error) bool {
	params, ok := parseASCIIParams(wire)
	switch {
	case errors.Is(err, svcb.ErrIPv4Hint) || errors.Is(err, svcb.ErrIPv6Hint):
		d.fail(CodeHints, errHints, at, "one is there, and malformed: %w", err)
		return false
	case !ok:
		d.fail(CodeSvcParams, errSvcParams, at, "%x: %w", wire, err)
		return false
	}
	d.fail(CodeASCIIParams, errSvcParams, at, "%q is in presentation form, as encoders wrote it before "+
		"draft-ietf-add-dnr-16; want wire form", wire)
	d.in.Params = params
	return true
}

// padding reads the end of a Router Advertisement's option; the others have none.
func (d *decoder) padding() bool {
	if d.form != RA {
		return true
	}
	switch {
	case len(d.b) >= 8:
		d.fail(CodePadding, errPadding, d.off, "%d octets follow; want less than 8", len(d.b))
	case !allZero(d.b):
		d.fail(CodePadding, errPadding, d.off, "the padding is %x; want zeros", d.b)
	}
	return true
}

// parseASCIIParams reads presentation form such as "alpn=h2,h3 port=443", as far as DNR needs.
func parseASCIIParams(b []byte) ([]svcb.Param, bool) {
	s := strings.TrimRight(string(b), "\x00") // the padding of some Router Advertisements
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) || !strings.Contains(s, "=") {
		return nil, false
	}
	var r svcb.Resolver
	for field := range strings.FieldsSeq(s) {
		key, value, _ := strings.Cut(field, "=")
		value = strings.Trim(value, `"`)
		switch key {
		case "alpn":
			r.ALPN = splitIDs(value)
		case "port":
			r.Port = parsePort(value)
		case "dohpath", "key7":
			r.DoHPath = value
		}
	}
	params := r.Params()
	if _, err := svcb.ParseParams(svcb.AppendParams(nil, params)); err != nil {
		return nil, true
	}
	return params, true
}

func splitIDs(list string) []string {
	return slices.DeleteFunc(strings.Split(list, ","), func(id string) bool { return id == "" || len(id) > 255 })
}

// parsePort returns 0 for what is not a port.
func parsePort(s string) uint16 {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 0xffff {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	if n > 0xffff {
		return 0
	}
	return uint16(n)
}

// advise adds findings about what RFC 9463 permits but some client refuses.
func (d *decoder) advise() {
	if err := svcb.CheckName(d.in.ADN); err != nil {
		d.warn(CodeADNSyntax, 0, "%q is not made of letters, digits and hyphens, which is all that some clients take",
			d.in.ADN)
	}
	if d.in.ADNOnly() {
		d.adviseADNOnly()
		return
	}
	d.adviseALPN()
	for _, p := range d.in.Params {
		d.adviseKey(p)
	}
}

func (d *decoder) adviseADNOnly() {
	if d.form == DHCPv4 {
		d.warn(CodeADNOnly, 0, "only the name is there: some clients then ignore every instance of the option")
		return
	}
	d.warn(CodeADNOnly, 0, "only the name is there: known clients ignore the option")
}

func (d *decoder) adviseALPN() {
	record := svcb.Record{Params: d.in.Params}
	ids := record.ALPN()
	if len(ids) == 0 {
		d.warn(CodeNoALPN, 0, "alpn is missing, so that clients do not know the transport")
	}
	if slices.ContainsFunc(ids, svcb.IsHTTP) && record.DoHPath() == "" {
		d.warn(codeNoDoHPath, 0, "alpn is %s, but dohpath is missing, so that DoH cannot be used", strings.Join(ids, ","))
	}
}

func (d *decoder) adviseKey(p svcb.Param) {
	switch p.Key {
	case svcb.KeyALPN:
	case svcb.KeyMandatory:
		d.warn(CodeMandatory, 0, "mandatory is there, for which some clients refuse the option")
	case svcb.KeyPort:
		if binary.BigEndian.Uint16(p.Value) == 0 {
			d.warn(CodePortZero, 0, "port is 0, for which some clients refuse the option")
		}
	case svcb.KeyDoHPath:
		if !isPlainPath(string(p.Value)) {
			d.warn(CodeDoHPathSyntax, 0, "dohpath %q has characters for which some clients refuse the option", p.Value)
		}
	case svcb.KeyIPv4Hint, svcb.KeyIPv6Hint: // have an error already
	default:
		d.note(codeUnknownKey, 0, "%s is there, which clients ignore", svcb.KeyName(p.Key))
	}
}
