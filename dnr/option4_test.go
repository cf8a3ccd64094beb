package dnr

import (
	"bytes"
	"testing"
)

// TestCollectOption4 joins parts in the order of RFC 3396, Section 5: options, file, sname.
func TestCollectOption4(t *testing.T) {
	for name, row := range map[string]struct {
		options, file, sname string
		want                 string
		found                bool
	}{
		"one":               {"35 01 05 a2 03 010203 ff", "", "", "010203", true},
		"two-parts":         {"a2 02 0102 35 01 05 a2 01 03 ff", "", "", "010203", true},
		"empty":             {"a2 00 ff", "", "", "", true},
		"none":              {"35 01 05 ff", "", "", "", false},
		"behind-end":        {"ff a2 01 01", "", "", "", false},
		"pads":              {"00 00 a2 01 01 00 ff", "", "", "01", true},
		"no-end":            {"a2 01 01", "", "", "01", true},
		"cut-off":           {"a2 01 01 a2 05 0203", "", "", "01", true},
		"code-alone":        {"a2", "", "", "", false},
		"not-overloaded":    {"a2 01 01 ff", "a2 01 02 ff", "a2 01 03 ff", "01", true},
		"overloaded-file":   {"34 01 01 a2 01 01 ff", "a2 01 02 ff", "a2 01 03 ff", "0102", true},
		"overloaded-sname":  {"34 01 02 a2 01 01 ff", "a2 01 02 ff", "a2 01 03 ff", "0103", true},
		"overloaded-both":   {"34 01 03 a2 01 01 ff", "a2 01 02 ff", "a2 01 03 ff", "010203", true},
		"only-in-sname":     {"34 01 03 ff", "ff", "a2 01 03 ff", "03", true},
		"overload-mistaken": {"34 02 0303 a2 01 01 ff", "a2 01 02 ff", "", "01", true},
	} {
		t.Run(name, func(t *testing.T) {
			got, found := CollectOption4(OptionDHCPv4, unhex(t, row.options), unhex(t, row.file), unhex(t, row.sname))
			if want := unhex(t, row.want); !bytes.Equal(got, want) || found != row.found {
				t.Errorf("got %x, %t; want %x, %t", got, found, want, row.found)
			}
		})
	}
}

func TestAppendOption4(t *testing.T) {
	for n, want := range map[int][]int{0: {0}, 1: {1}, 255: {255}, 256: {255, 1}, 510: {255, 255}, 511: {255, 255, 1}} {
		b := AppendOption4(nil, OptionDHCPv4, make([]byte, n))
		var got []int
		for rest := b; len(rest) > 0; rest = rest[2+int(rest[1]):] {
			if rest[0] != OptionDHCPv4 {
				t.Fatalf("%d octets: got option %d; want %d", n, rest[0], OptionDHCPv4)
			}
			got = append(got, int(rest[1]))
		}
		if len(got) != len(want) || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("%d octets: got parts of %v; want %v", n, got, want)
		}
	}
}
