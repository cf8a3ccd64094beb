package dnr

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// maxRA is the length of the longest option of Neighbor Discovery, in octets. See RFC 4861, Section 4.6.
const maxRA = 255 * 8

// EncodeRA returns one option 144 of a Router Advertisement, from its type to its padding. Every resolver has an option
// of its own. Of its addresses, the IPv6 ones are carried. The option is in the form that all known clients accept, or
// EncodeRA fails with ErrUnsafe, ErrPriority, ErrNoAddress or ErrTooLong.
//
// The lifetime, in whole seconds up to Infinity, should be at least three times the interval between advertisements; 0
// withdraws the resolver. See RFC 9463, Section 6.1.
func EncodeRA(r svcb.Resolver, lifetime time.Duration) ([]byte, error) {
	in, err := NewInstance(r, RA)
	if err != nil {
		return nil, err
	}
	return in.AppendRA(nil, lifetime)
}

// AppendRA appends an option 144 of a Router Advertisement to b. It is the inverse of DecodeRA and fails where that
// would.
func (in Instance) AppendRA(b []byte, lifetime time.Duration) ([]byte, error) {
	seconds := lifetime / time.Second
	if seconds < 0 || lifetime > Infinity {
		return b, fmt.Errorf("%w: lifetime %s; want 0 to %s", ErrTooLong, lifetime, Infinity)
	}
	start := len(b)
	b = append(b, OptionRA, 0)
	b = binary.BigEndian.AppendUint16(b, in.Priority)
	b = binary.BigEndian.AppendUint32(b, uint32(seconds))
	b, err := in.appendBody(b, RA)
	if err != nil {
		return b[:start], err
	}
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	n := len(b) - start
	if n > maxRA {
		return b[:start], fmt.Errorf("%w: %d octets; want at most %d", ErrTooLong, n, maxRA)
	}
	b[start+1] = byte(n / 8)
	if _, _, err := DecodeRA(b[start:]); err != nil {
		return b[:start], err
	}
	return b, nil
}

// DecodeRA takes one option 144 of a Router Advertisement apart, from its type to its padding, as strictly as RFC 9463,
// Section 3.1.8, asks of clients. It also returns the lifetime.
func DecodeRA(option []byte) (Instance, time.Duration, error) {
	i := InspectRA(option)
	if err := i.Err(); err != nil {
		return Instance{}, 0, err
	}
	return i.Instance, i.Lifetime, nil
}

// InspectRA reads one option 144 of a Router Advertisement, from its type to its padding, as far as it can be read.
func InspectRA(option []byte) Inspection {
	d := decoder{form: RA, b: slices.Clone(option)}
	if d.header(len(option)) && d.priority() && d.lifetime() {
		d.body()
	}
	return d.finish()
}

// header reads type and length of an option of total octets.
func (d *decoder) header(total int) bool {
	header, ok := d.take(2, "Type and Length")
	if !ok {
		return false
	}
	kind, units := header[0], int(header[1])
	switch {
	case kind != OptionRA:
		d.fail(codeLength, errLength, 0, "Type is %d; want %d", kind, OptionRA)
	case units == 0 || units*8 != total:
		d.fail(codeLength, errLength, 1, "Length is %d, which is %d octets, but there are %d", units, units*8, total)
	default:
		return true
	}
	return false
}

func (d *decoder) lifetime() bool {
	at := d.off
	n, ok := d.number(4, "Lifetime")
	d.in.Lifetime = time.Duration(n) * time.Second
	if ok && n == 0 {
		d.note(CodeWithdrawn, at, "Lifetime is 0, which withdraws the resolver")
	}
	return ok
}
