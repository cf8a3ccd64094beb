package dnr

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// EncodeDHCPv6 returns the data of one option 144, without code and length. Every resolver has an option of its own.
// Of its addresses, the IPv6 ones are carried. The data is in the form that all known clients accept, or EncodeDHCPv6
// fails with ErrUnsafe, ErrPriority or ErrNoAddress.
func EncodeDHCPv6(r svcb.Resolver) ([]byte, error) {
	in, err := NewInstance(r, DHCPv6)
	if err != nil {
		return nil, err
	}
	return in.AppendDHCPv6(nil)
}

// AppendDHCPv6 appends the data of option 144 to b. It is the inverse of DecodeDHCPv6 and fails where that would.
func (in Instance) AppendDHCPv6(b []byte) ([]byte, error) {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, in.Priority)
	b, err := in.appendBody(b, DHCPv6)
	if err != nil {
		return b[:start], err
	}
	if n := len(b) - start; n > 0xffff {
		return b[:start], fmt.Errorf("%w: %d octets", ErrTooLong, n)
	}
	if _, err := DecodeDHCPv6(b[start:]); err != nil {
		return b[:start], err
	}
	return b, nil
}

// DecodeDHCPv6 takes the data of one option 144 apart, as strictly as RFC 9463, Section 3.1.8, asks of clients.
func DecodeDHCPv6(data []byte) (Instance, error) {
	i := InspectDHCPv6(data)
	if err := i.Err(); err != nil {
		return Instance{}, err
	}
	return i.Instance, nil
}

// InspectDHCPv6 reads the data of one option 144 as far as it can be read.
func InspectDHCPv6(data []byte) Inspection {
	d := decoder{form: DHCPv6, b: slices.Clone(data)}
	if d.priority() {
		d.body()
	}
	return d.finish()
}
