package dnr

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// maxAddresses is how many IPv6 addresses fit if Addr Length is kept in 8 bits, as some clients do.
const maxAddresses = 15

// appendBody appends everything from ADN Length on, except the padding. It checks lengths only; its callers decode the
// result to check the rest.
func (in Instance) appendBody(b []byte, f Form) ([]byte, error) {
	name, err := svcb.AppendName(nil, in.ADN)
	if err != nil {
		return b, fmt.Errorf("%w: %q", errADN, in.ADN)
	}
	b = append(appendLength(b, f, len(name)), name...)
	if in.ADNOnly() {
		return b, nil
	}
	n := len(in.Addresses) * f.addrSize()
	if n >= 1<<(8*f.lengthSize()) {
		return b, fmt.Errorf("%w: %d addresses", ErrTooLong, len(in.Addresses))
	}
	b = appendLength(b, f, n)
	for _, a := range in.Addresses {
		if a.Is4() != (f == DHCPv4) || !a.IsValid() || a.Zone() != "" {
			return b, fmt.Errorf("%w: %s is not an %s address", errAddrLength, a, f.Family())
		}
		b = append(b, a.AsSlice()...)
	}
	return in.appendParams(b, f)
}

func (in Instance) appendParams(b []byte, f Form) ([]byte, error) {
	n := 0
	for _, p := range in.Params {
		n += 4 + len(p.Value)
	}
	if n > 0xffff {
		return b, fmt.Errorf("%w: %d octets of service parameters", ErrTooLong, n)
	}
	if f == RA {
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	}
	return svcb.AppendParams(b, in.Params), nil
}

// appendLength appends ADN Length or Addr Length.
func appendLength(b []byte, f Form, n int) []byte {
	if f == DHCPv4 {
		return append(b, byte(n)) // of a name or of addresses that were counted
	}
	return binary.BigEndian.AppendUint16(b, uint16(n))
}

// NewInstance makes an instance of r for the option f that all known clients accept and all known servers can carry,
// with those addresses of r that f carries. It fails with ErrUnsafe, ErrPriority or ErrNoAddress.
func NewInstance(r svcb.Resolver, f Form) (Instance, error) {
	if r.Priority == 0 {
		return Instance{}, fmt.Errorf("%w: %s", ErrPriority, r.Name)
	}
	if err := svcb.CheckName(r.Name); err != nil {
		return Instance{}, fmt.Errorf("%w: %q is not a name of letters, digits and hyphens, with two labels at least",
			ErrUnsafe, r.Name)
	}
	if err := safeParams(r); err != nil {
		return Instance{}, err
	}
	addrs, err := safeAddresses(r, f)
	return Instance{Priority: r.Priority, ADN: lower(r.Name), Addresses: addrs, Params: r.Params()}, err
}

// lower returns name in canonical form.
func lower(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) + "." }

// safeAddresses returns those addresses of r that f carries, each once.
func safeAddresses(r svcb.Resolver, f Form) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, a := range r.Addresses {
		a = a.Unmap().WithZone("")
		if why := Unusable(a); why != "" {
			return nil, fmt.Errorf("%w: address %s of %s is %s", ErrUnsafe, a, r.Name, why)
		}
		if a.Is4() == (f == DHCPv4) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	switch {
	case len(out) == 0:
		return nil, fmt.Errorf("%w: %s by %s has no %s address", ErrNoAddress, r.Name, strings.Join(r.ALPN, ","), f.Family())
	case f != DHCPv4 && len(out) > maxAddresses:
		return nil, fmt.Errorf("%w: %s has %d IPv6 addresses; want at most %d", ErrUnsafe, r.Name, len(out), maxAddresses)
	}
	return out, nil
}

// safeParams returns why some clients refuse the parameters of r, or nil if none does.
func safeParams(r svcb.Resolver) error {
	if len(r.ALPN) == 0 {
		return fmt.Errorf("%w: %s has no alpn", ErrUnsafe, r.Name)
	}
	http := false
	for i, id := range r.ALPN {
		if !svcb.IsHTTP(id) && id != "dot" && id != "doq" || slices.Contains(r.ALPN[:i], id) {
			return fmt.Errorf("%w: alpn %q of %s is unknown, or there twice", ErrUnsafe, id, r.Name)
		}
		http = http || svcb.IsHTTP(id)
	}
	if http != (r.DoHPath != "") {
		return fmt.Errorf("%w: dohpath of %s is %q with alpn %s: it belongs to DoH, and DoH needs it",
			ErrUnsafe, r.Name, r.DoHPath, strings.Join(r.ALPN, ","))
	}
	if _, err := svcb.ExpandDoHPath(r.DoHPath, "x"); http && err != nil || !isPlainPath(r.DoHPath) {
		return fmt.Errorf("%w: dohpath %q of %s", ErrUnsafe, r.DoHPath, r.Name)
	}
	return nil
}

// isPlainPath reports whether a URI template has only characters that systemd accepts, which are neither comma nor
// percent sign.
func isPlainPath(template string) bool {
	const taken = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&'()*+;={}"
	return strings.Trim(template, taken) == ""
}
