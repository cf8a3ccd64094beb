package announce

import (
	"encoding/binary"
	"fmt"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// pvdHTTP is the flag H: there is additional information at the PvD's well-known URI. See RFC 8801, Section 3.1.
const pvdHTTP = 0x80

// option returns the option that names the provisioning domain to which everything in the Router Advertisement
// belongs. Nothing is nested in it, because hosts that do not know the option would not see that. See RFC 8801,
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
