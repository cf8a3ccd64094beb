package addrmap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const (
	// leaseBucket holds the records. Its number changes with their format.
	leaseBucket = "leases 1"
	// lockTimeout is how long to wait for the process that has the file, which at a restart is just ending.
	lockTimeout = 2 * time.Second
)

var (
	// errClosed is returned for what would have to be written after Close.
	errClosed = fmt.Errorf("addrmap: the lease file is closed: %w", net.ErrClosed)
	// errDamaged means that bbolt panicked. It may still hold its locks, so it must not be used again, nor closed.
	errDamaged = errors.New("damaged")
)

// moveAway is the way out of a file that cannot be read.
const moveAway = "move it away to start without leases"

// record is a lease as it is on disk. The key is the relay address, 4 or 16 octets, so that an address can be leased
// once only. The value is, in network byte order: the expiry in Unix seconds, 8 octets; the destination, as long as
// the key; the CRC-32C over key and value, 4 octets, since bbolt does not check what it reads.
type record struct {
	relay, dst netip.Addr
	expiry     int64
}

// encode returns key and value of r.
func (r record) encode() (key, value []byte) {
	key = r.relay.AsSlice()
	value = binary.BigEndian.AppendUint64(nil, uint64(r.expiry))
	value = append(value, r.dst.AsSlice()...)
	return key, binary.BigEndian.AppendUint32(value, recordSum(key, value))
}

// decodeRecord is the inverse of encode.
func decodeRecord(key, value []byte) (record, error) {
	if len(key) != 4 && len(key) != 16 || len(value) != 8+len(key)+4 {
		return record{}, fmt.Errorf("lease record of %d and %d octets", len(key), len(value))
	}
	value, sum := value[:len(value)-4], value[len(value)-4:]
	if binary.BigEndian.Uint32(sum) != recordSum(key, value) {
		return record{}, errors.New("lease record with a wrong checksum")
	}
	r := record{expiry: int64(binary.BigEndian.Uint64(value))}
	r.relay, _ = netip.AddrFromSlice(key)
	r.dst, _ = netip.AddrFromSlice(value[8:])
	return r, nil
}

func recordSum(key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(key, table), table, value)
}

// fileStore is the lease file, a leaseStore that this process alone writes. One goroutine writes it. It begins at once
// if no transaction is under way; leases that are added meanwhile go together into the next transaction, so that many
// share one sync, and a single one waits for the transaction under way and its own.
type fileStore struct {
	// Set once by openStore.
	path  string
	db    *bolt.DB
	write func([]write) error // s.update, but for tests
	wake  chan struct{}       // holds one token while next may not be nil
	done  chan struct{}       // closed when nothing is written any more

	damaged bool // only used by writeAll, and after it

	mu     sync.Mutex
	next   *batch // what to write next, or nil
	closed bool
}

// write asks a store to have a lease with an expiry, in place of what the lease replaces.
type write struct {
	lease  *lease
	expiry int64
}

// batch is what one transaction writes, or any other commit of a store.
type batch struct {
	writes []write
	err    error // set before done is closed
	done   chan struct{}
}

// wait waits until the transaction has ended.
func (b *batch) wait() error {
	<-b.done
	return b.err
}

func (b *batch) ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// openStore opens or creates the lease file and returns what is in it. keep says which records to use; others are
// left alone until they expire, so that undoing a change of the prefixes brings them back.
func openStore(path string, keep func(record) bool, now time.Time) (*fileStore, []record, error) {
	_, err := os.Stat(path)
	created := errors.Is(err, fs.ErrNotExist)
	s := &fileStore{path: path, wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.write = s.update
	if err := s.guard(s.open); err != nil {
		return nil, nil, err
	}
	var records []record
	err = s.guard(func() (err error) { records, err = s.load(keep, now.Unix()); return err })
	if err == nil && created {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		s.damaged = errors.Is(err, errDamaged)
		return nil, nil, errors.Join(err, s.closeDB())
	}
	go s.writeAll()
	return s, records, nil
}

func (s *fileStore) open() (err error) {
	// The list of free pages stays in the file, against the advice for fast writes: without it bbolt walks the whole
	// file in a goroutine of its own, where a damaged one is a panic that nobody can recover.
	s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType})
	return err
}

// guard runs f, which uses the file, and makes its errors and panics say what they mean. bbolt panics on what it
// finds in a damaged file, and reads it through a mapping, which faults if the file is shorter than it should be.
func (s *fileStore) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("addrmap: lease file %s: %w: %v; %s", s.path, errDamaged, p, moveAway)
		}
	}()
	err = f()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("addrmap: lease file %s is in use by another process; each needs one of its own", s.path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("addrmap: lease file %s: its directory does not exist; create it, writable for us alone", s.path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("addrmap: lease file %s is damaged, or is none: %w; %s", s.path, err, moveAway)
	}
	return fmt.Errorf("addrmap: lease file %s: %w", s.path, err)
}

// load reads the records and drops those that have expired and are not to be used.
func (s *fileStore) load(keep func(record) bool, now int64) ([]record, error) {
	var records []record
	var drop [][]byte
	isNew := false
	// Read and write apart: what makes bbolt panic is met while it holds no lock for writing.
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(leaseBucket))
		if isNew = b == nil; isNew {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			r, err := decodeRecord(k, v)
			switch {
			case err != nil:
				return fmt.Errorf("%w; %s", err, moveAway)
			case keep(r):
				records = append(records, r)
			case r.expiry <= now:
				drop = append(drop, bytes.Clone(k))
			}
			return nil
		})
	})
	if err != nil || !isNew && len(drop) == 0 {
		return records, err
	}
	return records, s.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(leaseBucket))
		for i := 0; err == nil && i < len(drop); i++ {
			err = b.Delete(drop[i])
		}
		return err
	})
}

// syncDir makes sure that a new file is still there after a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("addrmap: sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("addrmap: sync %s: %w", dir, err)
	}
	return nil
}

// add puts w into the next transaction and returns it. For one lease, later calls are written later.
func (s *fileStore) add(w write) (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.next == nil {
		s.next = &batch{done: make(chan struct{})}
		s.wake <- struct{}{}
	}
	s.next.writes = append(s.next.writes, w)
	return s.next, nil
}

// run waits: nobody else writes the file.
func (s *fileStore) run(ctx context.Context, _ func(record)) error {
	<-ctx.Done()
	return nil
}

// writeAll writes until close.
func (s *fileStore) writeAll() {
	defer close(s.done)
	for range s.wake {
		s.mu.Lock()
		b := s.next
		s.next = nil
		s.mu.Unlock()
		s.commit(b)
	}
}

// commit writes b and tells who waits for it.
func (s *fileStore) commit(b *batch) {
	defer close(b.done)
	if s.damaged {
		b.err = fmt.Errorf("addrmap: lease file %s: %w", s.path, errDamaged)
		return
	}
	b.err = s.guard(func() error { return s.write(b.writes) })
	if b.err != nil {
		s.damaged = errors.Is(b.err, errDamaged)
		return
	}
	for _, w := range b.writes {
		w.lease.raise(w.expiry)
	}
}

// update writes leases in one transaction and syncs it.
func (s *fileStore) update(writes []write) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(leaseBucket))
		for _, w := range writes {
			if err := b.Put(record{w.lease.relay, w.lease.dst, w.expiry}.encode()); err != nil {
				return err
			}
		}
		return nil
	})
}

// close writes what is pending and closes the file.
func (s *fileStore) close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.wake)
	s.mu.Unlock()
	<-s.done
	return s.closeDB()
}

func (s *fileStore) closeDB() error {
	if s.damaged {
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("addrmap: close lease file %s: %w", s.path, err)
	}
	return nil
}
