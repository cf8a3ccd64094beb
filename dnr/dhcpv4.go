package dnr

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// EncodeDHCPv4 returns the data of option 162, without code and length, which holds all resolvers. Of their addresses
// it carries the IPv4 ones. It is in the form that all known clients accept, or fails with ErrUnsafe, ErrPriority or
// ErrNoAddress. See AppendOption4 for data of more than 255 octets.
func EncodeDHCPv4(resolvers []svcb.Resolver) ([]byte, error) {
	if len(resolvers) == 0 {
		return nil, errEmpty
	}
	var b []byte
	for _, r := range resolvers {
		in, err := NewInstance(r, DHCPv4)
		if err != nil {
			return nil, err
		}
		if b, err = in.AppendDHCPv4(b); err != nil {
			return nil, err
		}
	}
	if len(b) > 0xffff {
		return nil, fmt.Errorf("%w: %d octets", ErrTooLong, len(b))
	}
	return b, nil
}

// AppendDHCPv4 appends in, with its length, to the data of option 162. It is the inverse of DecodeDHCPv4 and fails
// where that would.
func (in Instance) AppendDHCPv4(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, in.Priority)
	b, err := in.appendBody(b, DHCPv4)
	if err != nil {
		return b[:start], err
	}
	n := len(b) - start - 2
	if n > 0xffff {
		return b[:start], fmt.Errorf("%w: instance of %d octets", ErrTooLong, n)
	}
	binary.BigEndian.PutUint16(b[start:], uint16(n))
	if _, err := DecodeDHCPv4(b[start:]); err != nil {
		return b[:start], err
	}
	return b, nil
}

// DecodeDHCPv4 takes the data of option 162 apart, which is that of all options 162 of a message in their order: see
// CollectOption4. As RFC 9463, Section 3.1.8, asks of clients, it refuses the whole if anything is wrong.
func DecodeDHCPv4(data []byte) ([]Instance, error) {
	var out []Instance
	for _, i := range InspectDHCPv4(data) {
		if err := i.Err(); err != nil {
			return nil, err
		}
		out = append(out, i.Instance)
	}
	return out, nil
}

// InspectDHCPv4 reads the data of option 162 as far as it can be read. It returns at least one instance, and one more
// than there are if the last one is cut off.
func InspectDHCPv4(data []byte) []Inspection {
	data = slices.Clone(data)
	var out []Inspection
	for off := 0; off < len(data) || off == 0; {
		i, n := inspectInstance4(data, off, len(out)+1)
		out = append(out, i)
		off += n
	}
	return out
}

// inspectInstance4 reads the instance at off and returns how many octets it takes.
func inspectInstance4(data []byte, off, ordinal int) (Inspection, int) {
	d := decoder{form: DHCPv4, b: data[off:], off: off}
	d.where = fmt.Sprintf("instance %d, ", ordinal)
	if len(data) == 0 {
		d.fail(codeEmpty, errEmpty, 0, "the option is empty")
		return d.finish(), 1
	}
	n, ok := d.number(2, "DNR Instance Data Length")
	if !ok {
		return d.finish(), len(data)
	}
	if n > len(d.b) {
		d.fail(codeLength, errLength, off, "DNR Instance Data Length is %d, but %d octets are left", n, len(d.b))
		return d.finish(), len(data)
	}
	d.b = d.b[:n:n]
	if d.priority() {
		d.body()
	}
	return d.finish(), 2 + n
}
