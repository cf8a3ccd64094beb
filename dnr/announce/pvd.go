package announce

import (
	"encoding/binary"
	"fmt"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// PvD is a provisioning domain. See RFC 8801, Section 3.1.
type PvD struct {
	ID       string // a domain name
	Sequence uint16 // changes whenever the additional information does
	Info     bool   // there is additional information at https://ID/.well-known/pvd
}

// pvdHTTP is the flag H: there is additional information at the PvD's well-known URI. See RFC 8801, Section 3.1.
const pvdHTTP = 0x80

// option returns the option that names the provisioning domain to which everything in the Router Advertisement
// belongs. It has no other options inside, because hosts that do not know it would ignore these. See RFC 8801,
// Section 3.1.
func (p PvD) option() (link.NDOption, error) {
	o := link.NDOption{link.OptionPvD, 0, 0, 0}
	if p.Info {
		o[2] = pvdHTTP
	}
	o = binary.BigEndian.AppendUint16(o, p.Sequence)
	o, err := svcb.AppendName(o, p.ID)
	if err != nil {
		return nil, fmt.Errorf("PvD ID %q: %w", p.ID, err)
	}
	for len(o)%8 != 0 {
		o = append(o, 0)
	}
	o[1] = byte(len(o) / 8)
	return o, nil
}
