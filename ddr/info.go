package ddr

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// setInfo makes the character-strings of RESINFO, each a key with a value. See RFC 9606, Sections 4 and 5.
func (z *Zone) setInfo() error {
	info := z.cfg.Info
	if info == nil {
		return nil
	}
	if len(info.ExtErr) > 0 {
		z.info = append(z.info, "exterr="+ranges(info.ExtErr))
	}
	if info.URL != "" {
		u, err := url.Parse(info.URL)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("ddr: information URL %q does not begin with https://", info.URL)
		}
		z.info = append(z.info, "infourl="+info.URL)
	}
	for _, s := range z.info {
		if len(s) > 255 {
			return fmt.Errorf("ddr: RESINFO string is longer than 255 octets: %q", s)
		}
	}
	return nil
}

// ranges writes codes in increasing order, with runs joined: "15-17,22".
func ranges(codes []uint16) string {
	codes = slices.Clone(codes)
	slices.Sort(codes)
	codes = slices.Compact(codes)
	var b strings.Builder
	for i := 0; i < len(codes); {
		first := codes[i]
		for i++; i < len(codes) && codes[i] == codes[i-1]+1; i++ {
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(first)))
		if last := codes[i-1]; last != first {
			b.WriteString("-" + strconv.Itoa(int(last)))
		}
	}
	return b.String()
}
