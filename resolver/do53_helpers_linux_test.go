package resolver

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func unsafeBytes(v *unix.Iovec) []byte { return unsafe.Slice(v.Base, int(v.Len)) }

// header writes the header of a control message with size octets of data.
func (c *control) header(level, kind int32, size int) *unix.Cmsghdr {
	h := (*unix.Cmsghdr)(unsafe.Pointer(c))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	return h
}
