package addrmap

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// errLocked is returned for a lease file that another process has open.
var errLocked = errors.New("in use by another process; each needs one of its own")

// logFile is an open lease file, locked. It is for one goroutine, but for read.
type logFile struct {
	f    *os.File
	end  int64 // where the next frame goes
	size int64 // up to where the file is written, with zeros behind end
	// dirty says that a commit may have been written in part, so that there may be more behind end than zeros.
	dirty bool
	// dir is the directory, until it is certain that the file's name in it is on disk; else "".
	dir string
}

// damageError says that a file was damaged, and where it is now.
type damageError struct {
	why   error
	aside string
}

func (e *damageError) Error() string { return fmt.Sprintf("%v; it is now %s", e.why, e.aside) }

// openLog opens or makes the lease file, locks it, and returns what is in it, as parseLog does. A file that is damaged
// is renamed, and the error is a damageError: after it another call makes a new file. Other errors are errLocked, or
// from the disk.
func openLog(path string) (l *logFile, records []record, torn int64, err error) {
	f, err := openLocked(path)
	if err != nil {
		return nil, nil, 0, err
	}
	l = &logFile{f: f}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	// What a process that ended in the middle of makeLog has left is as much of a history as the file is.
	if err = os.Remove(newPath(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, 0, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, nil, 0, err
	}
	if len(b) == 0 { // just made by openLocked
		n, err := replaceLog(path, nil)
		if err == nil {
			f.Close()
		}
		return n, nil, 0, err
	}
	l.size = int64(len(b))
	records, l.end, torn, err = parseLog(b)
	l.dirty = torn > 0
	if err != nil {
		err = setAside(path, err)
	}
	return l, records, torn, err
}

// openLocked opens path, which it makes if need be, and locks it. The lock is one on the file, not on its name, so that
// the name has to be looked at again: the process that had it may have put another file there.
func openLocked(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = lock(f)
		if err == nil {
			var same bool
			if same, err = isAt(f, path); same {
				return f, nil
			}
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// isAt reports whether path is the name of f.
func isAt(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

// setAside renames a damaged file to a name that is not in use, and returns a damageError.
func setAside(path string, why error) error {
	for n := 1; ; n++ {
		aside := path + ".damaged"
		if n > 1 {
			aside += "." + strconv.Itoa(n)
		}
		if _, err := os.Lstat(aside); !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return err
			}
			continue
		}
		if err := os.Rename(path, aside); err != nil {
			return err
		}
		return &damageError{why, aside}
	}
}

// newPath is where the file that is to replace the one at path is made.
func newPath(path string) string { return path + ".new" }

// replaceLog puts a file with records in the place of the one at path, whose lock the caller has.
func replaceLog(path string, records []record) (*logFile, error) {
	l, err := makeLog(path, records)
	if err != nil {
		return nil, err
	}
	return l, l.publish(path)
}

// makeLog makes a file with records, locked and on disk, that publish puts in place.
func makeLog(path string, records []record) (*logFile, error) {
	f, err := os.OpenFile(newPath(path), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	l := &logFile{f: f}
	if err = lock(f); err == nil {
		err = l.fill(records)
	}
	if err != nil {
		l.discard()
		return nil, err
	}
	return l, nil
}

// fill writes a new file with records.
func (l *logFile) fill(records []record) error {
	l.end = sector
	var frames []byte
	for rest := records; len(rest) > 0; {
		var b []byte
		b, rest = frame(l.end, rest)
		frames, l.end = append(frames, b...), l.end+int64(len(b))
	}
	l.size = roundUp(l.end+1, extent)
	if _, err := l.f.WriteAt(append(header(l.end), frames...), 0); err != nil {
		return err
	}
	if err := l.zero(l.end, l.size); err != nil {
		return err
	}
	return l.f.Sync()
}

// zero writes zeros between two offsets. It writes a page at a time: Linux keeps what is written at once together, and
// counts all of it as written again when a part of it is.
func (l *logFile) zero(from, to int64) error {
	for zeros := make([]byte, 4096); from < to; {
		n := min(4096-from%4096, to-from)
		if _, err := l.f.WriteAt(zeros[:n], from); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// publish gives l its name, whatever was there before. If that fails l is of no use any more.
func (l *logFile) publish(path string) error {
	if err := os.Rename(l.f.Name(), path); err != nil {
		l.discard()
		return err
	}
	l.dir = filepath.Dir(path)
	return nil
}

// syncName makes sure that the file's name is still there after a power failure.
func (l *logFile) syncName() error {
	if l.dir == "" {
		return nil
	}
	d, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return err
	}
	l.dir = ""
	return nil
}

// discard closes and removes a file that was not published.
func (l *logFile) discard() {
	_ = os.Remove(l.f.Name())
	l.f.Close()
}

// append writes records and returns once they are on disk. After an error what it wrote is written over.
func (l *logFile) append(records []record) error {
	if err := l.syncName(); err != nil {
		return err
	}
	for len(records) > 0 {
		b, rest := frame(l.end, records)
		if err := l.room(int64(len(b))); err != nil {
			return err
		}
		l.dirty = true
		if _, err := l.f.WriteAt(b, l.end); err != nil {
			return err
		}
		if err := syncData(l.f); err != nil {
			return err
		}
		l.dirty = false
		l.end, records = l.end+int64(len(b)), rest
	}
	return nil
}

// room makes the file longer until n octets fit.
func (l *logFile) room(n int64) error {
	for l.end+n > l.size {
		size := roundUp(l.size+1, extent)
		if err := l.zero(l.size, size); err != nil {
			return err
		}
		if err := syncData(l.f); err != nil {
			return err
		}
		l.size = size
	}
	return nil
}

// probe returns nil if a frame of any size could be written now.
func (l *logFile) probe() error {
	if err := l.syncName(); err != nil {
		return err
	}
	if err := l.room(extent); err != nil {
		return err
	}
	if _, err := l.f.WriteAt(make([]byte, sector), l.end); err != nil {
		return err
	}
	return syncData(l.f)
}

// read returns the records of frames between two offsets. It may be called while others append.
func (l *logFile) read(from, to int64) (records []record, err error) {
	b := make([]byte, to-from)
	if _, err := l.f.ReadAt(b, from); err != nil {
		return nil, err
	}
	for at := from; at < to; {
		rs, size, ok := parseFrame(at, b[at-from:])
		if !ok {
			return nil, fmt.Errorf("%w: it is changed at octet %d", errDamaged, at)
		}
		records, at = append(records, rs...), at+size
	}
	return records, nil
}

// close gives up the lock.
func (l *logFile) close() error { return l.f.Close() }
