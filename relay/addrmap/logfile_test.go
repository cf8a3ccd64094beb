package addrmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// comparableRecords lets cmp.Diff compare records.
var comparableRecords = cmpopts.EquateComparable(record{})

// testRecords returns n records of both families.
func testRecords(n int) (records []record) {
	for i := range n {
		records = append(records,
			record{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), destination(i, netip.IPv4Unspecified()), wholeHours(testTime.Unix()) + hour},
			record{destination(1<<20+i, netip.IPv6Unspecified()), destination(i, netip.IPv6Unspecified()), wholeHours(testTime.Unix()) + hour})
	}
	return records
}

// writeLog makes a lease file in which each of commits was written by itself, and returns its octets.
func writeLog(t *testing.T, path string, commits ...[]record) []byte {
	t.Helper()
	l, _, _, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, records := range commits {
		if err := l.append(records); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	return readFile(t, path)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLogRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	records := testRecords(20000) // several frames, and more than an extent
	writeLog(t, path, records[:1], records[1:3], records[3:])
	l, got, torn, err := openLog(path)
	if err != nil || torn != 0 {
		t.Fatalf("got %d octets dropped, %v", torn, err)
	}
	if diff := cmp.Diff(records, got, comparableRecords); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if got, err := l.read(sector, l.end); err != nil || !slices.Equal(got, records) {
		t.Errorf("read: got %d records, %v; want all %d", len(got), err, len(records))
	}
	if n, err := replaceLog(path, records[:10]); err != nil {
		t.Error(err)
	} else if err := errors.Join(n.append(records[10:12]), n.close(), l.close()); err != nil {
		t.Error(err)
	}
	l, got, _, err = openLog(path)
	if diff := cmp.Diff(records[:12], got, comparableRecords); diff != "" || err != nil {
		t.Errorf("after it was replaced, %v (-want +got):\n%s", err, diff)
	}
	l.close()
}

func TestRecordLayout(t *testing.T) {
	r := record{
		relay:  netip.MustParseAddr("192.0.2.1"),
		dst:    netip.MustParseAddr("198.51.100.1"),
		expiry: 0x01020304 * hour,
	}
	if got, want := fmt.Sprintf("%x", r.appendTo(nil)), "04"+"c0000201"+"c6336401"+"01020304"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	b, rest := frame(sector, []record{r})
	if want := "0000000d" + fmt.Sprintf("%08x", frameSum(sector, b[:21])) + "04c0000201"; !strings.HasPrefix(fmt.Sprintf("%x", b), want) ||
		len(b) != sector || len(rest) != 0 {
		t.Errorf("got %x in %d octets; want %s and zeros up to %d", b[:21], len(b), want, sector)
	}
}

// TestBadFiles opens what is no lease file, or not what was written. It is renamed, and there is a new one without leases.
func TestBadFiles(t *testing.T) {
	records := testRecords(2000)
	good := writeLog(t, filepath.Join(t.TempDir(), "good.db"), records[:10], records[10:20], records[20:])
	flipped := bytes.Clone(good)
	flipped[2*sector+20] ^= 1
	inFirst := bytes.Clone(good)
	inFirst[20] ^= 1
	garbage := bytes.Clone(append(good, good...))
	for i := sector; i < len(garbage); i++ {
		garbage[i] = byte(i*7) | 1
	}
	made := filepath.Join(t.TempDir(), "made.db") // by a rewrite, so that its head says how much there must be
	l, err := replaceLog(made, records)
	if err != nil {
		t.Fatal(err)
	}
	l.close()
	zeros := readFile(t, made)
	clear(zeros[sector:])
	for _, tt := range []struct {
		name    string
		content []byte
	}{
		{"text", []byte(strings.Repeat("not a lease file\n", 1000))},
		{"short-text", []byte("x")},
		{"zeros", make([]byte, extent)},
		{"bolt", append([]byte(strings.Repeat("\x00", 16)+"\xed\xda\x0c\xed"), make([]byte, 8192)...)},
		{"changed-head", inFirst},
		{"garbage-after-the-head", garbage},
		{"zeros-after-the-head", zeros},
		{"cut-in-the-head", good[:100]},
		{"cut-after-the-head", good[:sector]},
		{"cut-between-frames", good[:2*sector]},
		{"cut-within-a-frame", good[:8*sector+17]},
		{"bit-flip-in-a-record", flipped},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "leases.db")
			for _, aside := range []string{path + ".damaged", path + ".damaged.2"} {
				if err := os.WriteFile(path, tt.content, 0o600); err != nil {
					t.Fatal(err)
				}
				m := openTest(t, tableConfig(path, &testClock{testTime}, "10.0.0.0/8"))
				if fault, kept := m.Status(); fault != nil || kept != nil || len(m.table4.byDst) != 0 {
					t.Errorf("got %v, %v and %d leases; want an empty table that works", fault, kept, len(m.table4.byDst))
				}
				m = reopen(t, m, tableConfig(path, &testClock{testTime}, "10.0.0.0/8"))
				leases := leaseN(t, m, 3, netip.IPv4Unspecified(), time.Minute)
				m = reopen(t, m, tableConfig(path, &testClock{testTime}, "10.0.0.0/8"))
				checkLeases(t, m, leases)
				if err := m.Close(); err != nil {
					t.Fatal(err)
				}
				if got := readFile(t, aside); !bytes.Equal(got, tt.content) {
					t.Errorf("%s: got %d octets; want the %d that were damaged", aside, len(got), len(tt.content))
				}
			}
		})
	}
}

// TestTornCommit opens what is left when the power fails during a commit: that one is missing, and nothing else.
func TestTornCommit(t *testing.T) {
	records := testRecords(500)
	path := filepath.Join(t.TempDir(), "leases.db")
	whole := writeLog(t, path, records[:100], records[100:])
	first, _, _ := parseFrameAt(t, whole, sector)
	second := sector + first
	for name, tear := range map[string]func(b []byte){
		"nothing-written":    func(b []byte) { clear(b[second:]) },
		"first-sector-only":  func(b []byte) { clear(b[second+sector:]) },
		"all-but-the-first":  func(b []byte) { clear(b[second : second+sector]) },
		"one-sector-missing": func(b []byte) { clear(b[second+2*sector : second+3*sector]) },
		"longer-with-zeros":  func(b []byte) { clear(b[second:]) },
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(whole)
			tear(b)
			if name == "longer-with-zeros" {
				b = append(b, make([]byte, 1000)...)
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			m := openTest(t, tableConfig(path, &testClock{testTime}, "10.0.0.0/8"))
			if got := len(m.table4.byDst); got != 50 {
				t.Errorf("got %d leases; want the 50 of the first commit", got)
			}
			leases := leaseN(t, m, 60, netip.IPv4Unspecified(), time.Minute)
			m = reopen(t, m, tableConfig(path, &testClock{testTime}, "10.0.0.0/8"))
			checkLeases(t, m, leases)
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func parseFrameAt(t *testing.T, b []byte, at int64) (size int64, records []record, rest []byte) {
	t.Helper()
	records, size, ok := parseFrame(at, b[at:])
	if !ok {
		t.Fatalf("no frame at octet %d", at)
	}
	return size, records, b[at+size:]
}

// FuzzLog parses what might be in a damaged file: never a panic, and what parses is written the same again.
func FuzzLog(f *testing.F) {
	records := testRecords(3)
	b, _ := frame(sector, records)
	more, _ := frame(int64(sector+len(b)), records[:1])
	f.Add(slices.Concat(header(sector), b, make([]byte, extent-sector-len(b))), false)
	f.Add(slices.Concat(header(int64(sector+len(b))), b, more), false)
	f.Add(slices.Concat(header(sector), b[:len(b)-1]), true)
	f.Add([]byte(logMagic), false)
	f.Fuzz(func(t *testing.T, b []byte, fixSum bool) {
		if fixSum && len(b) >= sector+frameHeader { // or the fuzzer would have to guess it
			copy(b, header(sector))
			if n := int64(binary.BigEndian.Uint32(b[sector:])); sector+frameHeader+n <= int64(len(b)) {
				binary.BigEndian.PutUint32(b[sector+4:], frameSum(sector, b[sector:sector+frameHeader+n]))
			}
		}
		records, end, torn, err := parseLog(b)
		if err != nil {
			if !errors.Is(err, errDamaged) || records != nil {
				t.Fatalf("got %d records, %v", len(records), err)
			}
			return
		}
		if end < sector || end > int64(len(b)) || end+torn > int64(len(b)) || end%sector != 0 {
			t.Fatalf("got end %d and %d octets dropped of %d", end, torn, len(b))
		}
		var octets []byte
		for _, r := range records {
			if !r.relay.IsValid() || !r.dst.IsValid() || r.relay.Is4() != r.dst.Is4() {
				t.Fatalf("got %+v; want two addresses of one family", r)
			}
			octets = r.appendTo(octets)
		}
		for rest := octets; len(rest) > 0; records = records[1:] {
			var r record
			if r, rest, err = decodeRecord(rest); err != nil || r != records[0] {
				t.Fatalf("got %v, %v; want %v", r, err, records[0])
			}
		}
	})
}
