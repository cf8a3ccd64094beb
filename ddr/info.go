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
		if err := CheckInfoURL(info.URL); err != nil {
			return err
		}
		z.info = append(z.info, infoURL+info.URL)
	}
	for _, s := range z.info {
		if len(s) > 255 {
			return fmt.Errorf("ddr: RESINFO string is longer than 255 octets: %q", s)
		}
	}
	return nil
}

const infoURL = "infourl="

// maxInfoURL is how many octets of an information URL fit into a character-string.
const maxInfoURL = 255 - len(infoURL)

// CheckInfoURL reports why s cannot be Info.URL, or nil if it can. See RFC 9606, Section 5.
func CheckInfoURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("ddr: information URL %q does not begin with https://", s)
	case len(s) > maxInfoURL:
		return fmt.Errorf("ddr: information URL has %d octets; want at most %d", len(s), maxInfoURL)
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

// ParseInfo reads the character-strings of a RESINFO record. Keys that it does not know are ignored, of a key that is
// there twice the first counts, and case does not. See RFC 9606, Sections 4 and 5; RFC 6763, Section 6.4.
func ParseInfo(txt []string) (Info, error) {
	var info Info
	seen := make(map[string]bool)
	for _, s := range txt {
		key, value, _ := strings.Cut(s, "=")
		key = strings.ToLower(key)
		if key == "" || seen[key] {
			continue
		}
		seen[key] = true
		var err error
		switch key {
		case "exterr":
			info.ExtErr, err = parseRanges(value)
		case "infourl":
			info.URL, err = value, CheckInfoURL(value)
		}
		if err != nil {
			return Info{}, err
		}
	}
	return info, nil
}

// parseRanges is the inverse of ranges, for lists in any order.
func parseRanges(s string) ([]uint16, error) {
	var codes []uint16
	for item := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(item, "-")
		if !isRange {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		last, err2 := strconv.ParseUint(high, 10, 16)
		if err != nil || err2 != nil || first > last {
			return nil, fmt.Errorf("ddr: %q in exterr is neither a code nor a range of codes", item)
		}
		for code := first; code <= last; code++ {
			codes = append(codes, uint16(code))
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes), nil
}
