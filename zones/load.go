package zones

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Bounds of a zone. They are far above what a resolver's operator serves locally, and keep a mistake such as a
// nested $GENERATE from taking all memory.
const (
	maxZoneBytes   = 256 << 20
	maxZoneRecords = 1 << 20
	maxSetRecords  = 1000     // of one name and type
	maxRecordBytes = 66 << 10 // name, header and 65,535 octets
)

// refusedTypes are what a zone file may not hold, with the reason.
var refusedTypes = map[uint16]string{
	dns.TypeDNAME:      "DNAME is not supported; write the CNAME records out",
	dns.TypeRRSIG:      "signed zones are not supported; load the unsigned file",
	dns.TypeNSEC:       "signed zones are not supported; load the unsigned file",
	dns.TypeNSEC3:      "signed zones are not supported; load the unsigned file",
	dns.TypeNSEC3PARAM: "signed zones are not supported; load the unsigned file",
}

// loadFile reads one zone from a file in the format of RFC 1035, Section 5. Names are relative to the name of the
// file without ".zone" or "db.", until $ORIGIN says otherwise. $INCLUDE reaches files in the same folder and below.
// fsys may be nil for the machine's file system.
func loadFile(fsys fs.FS, file string) (*zone, error) {
	dir, base := path.Split(filepath.ToSlash(file))
	if fsys == nil {
		root, err := os.OpenRoot(path.Clean(dir))
		if err != nil {
			return nil, fmt.Errorf("zone file %s: %w", file, err)
		}
		defer root.Close()
		fsys = root.FS()
	} else if sub, err := fs.Sub(fsys, path.Clean(dir)); err != nil {
		return nil, fmt.Errorf("zone file %s: %w", file, err)
	} else {
		fsys = sub
	}
	f, err := fsys.Open(base)
	if err != nil {
		return nil, fmt.Errorf("zone file %s: %w", file, err)
	}
	defer f.Close()
	l := loader{in: &lineReader{r: bufio.NewReader(f)}, dir: dir, base: base, wire: make([]byte, maxRecordBytes)}
	return l.zone(fsys)
}

// loader reads one zone.
type loader struct {
	in        *lineReader
	dir, base string
	records   []record
	wire      []byte // scratch space for one record
}

// record is a record and the line of the file that brought it; for $INCLUDE and $GENERATE the directive's line.
type record struct {
	dns.RR
	line int
}

// zone parses and validates.
func (l *loader) zone(fsys fs.FS) (*zone, error) {
	if err := l.parse(fsys); err != nil {
		return nil, err
	}
	soa, err := l.soa()
	if err != nil {
		return nil, err
	}
	z := &zone{apex: canonical(soa.Hdr.Name), file: l.dir + l.base, soa: soa, nodes: make(map[string]*node), public: true}
	for _, r := range l.records {
		if err := l.add(z, r); err != nil {
			return nil, err
		}
	}
	for _, r := range l.records { // again: now all are known
		if n := z.nodes[canonical(r.Header().Name)]; n.get(dns.TypeCNAME) != nil && (len(n.sets) > 1 || len(n.sets[0].rrs) > 1) {
			return nil, l.errorf(r.line, "%s has a CNAME and other records", r.Header().Name)
		}
	}
	if z.nodes[z.apex].get(dns.TypeNS) == nil {
		return nil, l.errorf(l.in.line, "zone %s has no NS record at its apex", z.apex)
	}
	return z, nil
}

// parse reads all records of the file.
func (l *loader) parse(fsys fs.FS) error {
	zp := dns.NewZoneParser(l.in, origin(l.base), l.base)
	zp.SetIncludeAllowed(true)
	zp.SetIncludeFS(fsys)
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		if len(l.records) == maxZoneRecords {
			return l.errorf(l.in.line, "more than %d records", maxZoneRecords)
		}
		l.records = append(l.records, record{rr, max(1, l.in.line)})
	}
	if l.in.err != nil {
		return l.errorf(l.in.line, "%w", l.in.err)
	}
	return l.parseError(zp.Err())
}

// soa returns the one SOA record.
func (l *loader) soa() (soa *dns.SOA, err error) {
	for _, r := range l.records {
		switch rr, ok := r.RR.(*dns.SOA); {
		case !ok:
		case soa != nil:
			return nil, l.errorf(r.line, "a second SOA record, at %s after %s", rr.Hdr.Name, soa.Hdr.Name)
		default:
			soa = rr
		}
	}
	if soa == nil {
		return nil, l.errorf(max(1, l.in.line), "no SOA record")
	}
	return soa, nil
}

// add checks r by itself and puts it into z, with the empty non-terminals above it.
func (l *loader) add(z *zone, r record) error {
	h := r.Header()
	name := canonical(h.Name)
	reason := refusedTypes[h.Rrtype]
	switch {
	case h.Class != dns.ClassINET:
		return l.errorf(r.line, "%s has class %s; only IN is served", h.Name, dns.Class(h.Class))
	case !dns.IsSubDomain(z.apex, name):
		return l.errorf(r.line, "%s is not in zone %s", h.Name, z.apex)
	case reason != "":
		return l.errorf(r.line, "%s %s: %s", h.Name, dns.Type(h.Rrtype), reason)
	}
	if err := l.complete(r.RR); err != nil {
		return l.errorf(r.line, "%s %s: %w", h.Name, dns.Type(h.Rrtype), err)
	}
	n := z.nodes[name]
	if n == nil {
		n = new(node)
		z.nodes[name] = n
	}
	if len(n.get(h.Rrtype)) == maxSetRecords {
		return l.errorf(r.line, "%s has more than %d records of type %s", h.Name, maxSetRecords, dns.Type(h.Rrtype))
	}
	n.add(r.RR)
	z.cuts = z.cuts || h.Rrtype == dns.TypeNS && name != z.apex
	for name != z.apex {
		name = parent(name)
		if z.nodes[name] != nil {
			break
		}
		z.nodes[name] = new(node)
	}
	return nil
}

// complete refuses records that the parser lets through, because dynamic updates have them or because it does not
// look: without data, or with data that has no wire form.
func (l *loader) complete(rr dns.RR) error {
	end, err := dns.PackRR(rr, l.wire, 0, nil, false)
	if err != nil {
		return err
	}
	packed, _, err := dns.UnpackRR(l.wire[:end], 0)
	if err == nil && packed.Header().Rdlength == 0 {
		err = errors.New("no data")
	}
	return err
}

// errorf returns an error that begins with the place.
func (l *loader) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", l.dir+l.base, line, fmt.Errorf(format, args...))
}

// parseError puts the place first, which the library has at the end: "file: dns: what at line: 3:14".
func (l *loader) parseError(err error) error {
	if err == nil {
		return nil
	}
	what, place, _ := cutLast(err.Error(), " at line: ")
	file, what, ok := strings.Cut(what, ": dns: ")
	if !ok || place == "" {
		return fmt.Errorf("%s: %w", l.dir+l.base, err)
	}
	return fmt.Errorf("%s%s:%s: %s", l.dir, file, place, what)
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// origin returns the origin that the name of a file stands for: isp.example.zone and db.isp.example are about
// isp.example.
func origin(base string) string {
	name := strings.TrimPrefix(base, "db.")
	if ext := path.Ext(name); slices.Contains([]string{".zone", ".db", ".txt"}, ext) {
		name = strings.TrimSuffix(name, ext)
	}
	if _, ok := dns.IsDomainName(name); !ok {
		return ""
	}
	return dns.Fqdn(name)
}

// lineReader counts lines, which the parser knows only for its errors, and bounds what is read.
type lineReader struct {
	r    *bufio.Reader
	n    int   // bytes read
	line int   // newlines read
	err  error // other than io.EOF, or nil
}

var errZoneTooLarge = errors.New("zone file is too large")

// ReadByte implements io.ByteReader, which is all that the parser uses.
func (l *lineReader) ReadByte() (byte, error) {
	b, err := l.r.ReadByte()
	if l.n++; err == nil && l.n > maxZoneBytes {
		err = errZoneTooLarge
	}
	if err != nil && err != io.EOF {
		l.err = err
	}
	if b == '\n' {
		l.line++
	}
	return b, err
}

// Read implements io.Reader.
func (l *lineReader) Read(p []byte) (int, error) {
	for i := range p {
		b, err := l.ReadByte()
		if err != nil {
			return i, err
		}
		p[i] = b
	}
	return len(p), nil
}
