package addrmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
)

// The lease file is a log. Its first sector is the header: the magic string, 16 octets; how much of the file was
// written when it was made, 8 octets; and the CRC-32C of both, 4 octets. Frames follow, one for each commit, each from
// the beginning of a sector on: the length of its records, 4 octets; the CRC-32C over the frame's offset in the file,
// that length, and the records, 4 octets; the records. Then come zeros, which are written before frames take their
// place, so that no frame ever goes beyond the end of the file. All numbers are in network byte order.
const (
	logMagic = "cfrd leases 2\n\x00\x00"
	// sector is what disks write whole or not at all.
	sector = 512
	// extent is how much of the file is made at a time: a commit that does not change the file's length is one write.
	extent = 256 << 10
	// maxFrame bounds the records of a frame, in octets, and with it what can be half written when the power fails.
	maxFrame = 256 << 10

	frameHeader = 8
	headerSize  = len(logMagic) + 8 + 4
)

// errDamaged is returned for a lease file that was changed by something else than this package, or by the disk.
var errDamaged = errors.New("damaged, or no lease file of this version")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is a lease as it is on disk. The octets are: 4 or 6; the relay address and the destination, 4 or 16 octets
// each; the expiry in hours since 1970, 4 octets. It is that coarse so that the file does not tell when somebody asked.
type record struct {
	relay, dst netip.Addr
	expiry     int64 // in Unix seconds, whole hours
}

// hour is the unit of an expiry on disk, in seconds.
const hour = 3600

// wholeHours rounds Unix seconds up to what a record can have.
func wholeHours(seconds int64) int64 { return (seconds + hour - 1) / hour * hour }

// appendTo appends r to b.
func (r record) appendTo(b []byte) []byte {
	family := byte(6)
	if r.relay.Is4() {
		family = 4
	}
	b = append(b, family)
	b = append(b, r.relay.AsSlice()...)
	b = append(b, r.dst.AsSlice()...)
	return binary.BigEndian.AppendUint32(b, uint32(r.expiry/hour))
}

// decodeRecord is the inverse of appendTo. It returns what follows the record.
func decodeRecord(b []byte) (r record, rest []byte, err error) {
	size := 16
	if len(b) > 0 && b[0] == 4 {
		size = 4
	}
	if len(b) < 1+2*size+4 || b[0] != 4 && b[0] != 6 {
		return record{}, nil, errDamaged
	}
	r.relay, _ = netip.AddrFromSlice(b[1 : 1+size])
	r.dst, _ = netip.AddrFromSlice(b[1+size : 1+2*size])
	r.expiry = int64(binary.BigEndian.Uint32(b[1+2*size:])) * hour
	return r, b[1+2*size+4:], nil
}

// roundUp returns n rounded up to a multiple of unit.
func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// frame returns the frame of as many of records as fit into one, for an offset in the file, and the others.
func frame(offset int64, records []record) (b []byte, rest []record) {
	b = make([]byte, frameHeader, frameHeader+13*len(records))
	for rest = records; len(rest) > 0 && len(b) < maxFrame-64; rest = rest[1:] {
		b = rest[0].appendTo(b)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-frameHeader))
	binary.BigEndian.PutUint32(b[4:], frameSum(offset, b))
	return append(b, make([]byte, roundUp(int64(len(b)), sector)-int64(len(b)))...), rest
}

// frameSum is the checksum of a frame without padding.
func frameSum(offset int64, b []byte) uint32 {
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(offset))
	sum := crc32.Update(crc32.Checksum(at[:], castagnoli), castagnoli, b[:4])
	return crc32.Update(sum, castagnoli, b[frameHeader:])
}

// parseFrame returns the records of the frame at the head of b, which is at offset in the file, and how many octets it
// takes up. ok is false if there is no whole frame.
func parseFrame(offset int64, b []byte) (records []record, size int64, ok bool) {
	if len(b) < frameHeader {
		return nil, 0, false
	}
	length := int64(binary.BigEndian.Uint32(b))
	size = roundUp(frameHeader+length, sector)
	if length == 0 || length > maxFrame || size > int64(len(b)) ||
		frameSum(offset, b[:frameHeader+length]) != binary.BigEndian.Uint32(b[4:]) {
		return nil, 0, false
	}
	for rest := b[frameHeader : frameHeader+length]; len(rest) > 0; {
		r, after, err := decodeRecord(rest)
		if err != nil {
			return nil, 0, false
		}
		records, rest = append(records, r), after
	}
	return records, size, true
}

// header returns the first sector of a file that is made with so many octets.
func header(made int64) []byte {
	b := binary.BigEndian.AppendUint64([]byte(logMagic), uint64(made))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, make([]byte, sector-len(b))...)
}

// parseHeader returns how much of the file was written when it was made.
func parseHeader(b []byte) (made int64, err error) {
	if len(b) < sector || !bytes.HasPrefix(b, []byte(logMagic)) {
		return 0, fmt.Errorf("%w: its head is none", errDamaged)
	}
	if !bytes.Equal(b[:headerSize], header(int64(binary.BigEndian.Uint64(b[len(logMagic):])))[:headerSize]) {
		return 0, fmt.Errorf("%w: its head has a wrong checksum", errDamaged)
	}
	return int64(binary.BigEndian.Uint64(b[len(logMagic):])), nil
}

// parseLog returns the records of a whole file in the order in which they were written, and where the next frame goes.
// torn says how many octets of a commit that did not end were found there; nobody was told that it did. What cannot
// come from such a commit is errDamaged.
func parseLog(b []byte) (records []record, end, torn int64, err error) {
	made, err := parseHeader(b)
	if err != nil {
		return nil, 0, 0, err
	}
	end = sector
	for {
		rs, size, ok := parseFrame(end, b[end:])
		if !ok {
			break
		}
		records, end = append(records, rs...), end+size
	}
	tail := b[end:]
	torn = int64(len(bytes.TrimRight(tail, "\x00")))
	switch {
	case end < made, torn > frameHeader+maxFrame, laterFrame(end, tail):
		return nil, 0, 0, fmt.Errorf("%w: it is changed at octet %d", errDamaged, end)
	case len(b)%extent != 0 && (len(tail) == 0 || torn > 0):
		// A file that was being made longer has zeros only where no frame has been.
		return nil, 0, 0, fmt.Errorf("%w: it is cut at octet %d", errDamaged, len(b))
	}
	return records, end, torn, nil
}

// laterFrame reports whether there is a whole frame in tail, which is at offset in the file, behind its first sector.
func laterFrame(offset int64, tail []byte) bool {
	for at := int64(sector); at < int64(len(tail)); at += sector {
		if _, _, ok := parseFrame(offset+at, tail[at:]); ok {
			return true
		}
	}
	return false
}

// newest returns the records that count, in the order in which they were written: of each relay address the last one,
// unless it has a lower expiry than one before it for the same destination.
func newest(records []record) []record {
	last := make(map[netip.Addr]int, len(records)) // where in records
	for i, r := range records {
		if old, ok := last[r.relay]; !ok || records[old].dst != r.dst || records[old].expiry <= r.expiry {
			last[r.relay] = i
		}
	}
	kept := make([]record, 0, len(last))
	for i, r := range records {
		if last[r.relay] == i {
			kept = append(kept, r)
		}
	}
	return kept
}
