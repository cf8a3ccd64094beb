package addrmap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

const (
	// lockTimeout is how long to wait for the process that has the file, which at a restart is just ending, before the
	// resolver starts without leases.
	lockTimeout = 2 * time.Second
	lockPoll    = 50 * time.Millisecond
	// retryEvery is how often a file that could not be opened or written is tried again.
	retryEvery = time.Second
)

// errClosed is returned for what would have to be written after Close.
var errClosed = fmt.Errorf("addrmap: the lease file is closed: %w", net.ErrClosed)

// fileStore is the lease file, a leaseStore that this process alone writes. One goroutine writes it. It begins at once
// if no commit is under way; leases that are added meanwhile go together into the next one, so that many share one sync,
// and a single one waits for the commit under way and its own.
type fileStore struct {
	// Set once by openStore.
	path    string
	log     zerolog.Logger
	restore func([]record)      // takes what the file has when it is opened
	live    func(record) bool   // whether a record in a file that is being opened has not ended
	write   func([]write) error // s.update, but for tests
	wake    chan struct{}       // holds one token while next may not be nil; closed by close
	jobs    chan func()         // for writeAll to run between two commits
	done    chan struct{}       // closed when nothing is written any more

	file *logFile // nil until it is open. It is used by openStore, and then by writeAll.

	mu     sync.Mutex
	next   *batch // what to write next, or nil
	closed bool
	opened bool  // file is not nil, and restore has returned
	fault  error // why the file could not be opened or written when that was last tried, or nil
	kept   error // why ended leases could not be erased when that was last tried, or nil
}

// write asks a store to have a lease with an expiry, in place of what the lease replaces.
type write struct {
	lease  *lease
	expiry int64
}

// batch is what one commit writes.
type batch struct {
	writes []write
	done   chan struct{}
	// Set before done is closed.
	err   error
	taken []*lease // those whose address somebody else has in the store, for which nothing was written
}

// wait waits until the commit has ended, or ctx is done.
func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("addrmap: wait for the lease file: %w", context.Cause(ctx))
	}
}

func (b *batch) ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// openStore opens or makes the lease file, and passes on what is in it to restore. A path that no file can ever have is
// an error; whatever else goes wrong shows in status, and is tried again until it goes well.
func openStore(path string, log zerolog.Logger, live func(record) bool, restore func([]record)) (*fileStore, error) {
	s := &fileStore{
		path: path, log: log, restore: restore, live: live,
		wake: make(chan struct{}, 1), jobs: make(chan func()), done: make(chan struct{}),
	}
	s.write = s.update
	err := s.open()
	for deadline := time.Now().Add(lockTimeout); errors.Is(err, errLocked) && time.Now().Before(deadline); err = s.open() {
		time.Sleep(lockPoll)
	}
	if unusable(err) {
		return nil, s.failed(err)
	}
	s.report(err)
	go s.writeAll()
	return s, nil
}

// unusable reports whether err is about the path, which somebody has to mend, and not about the disk or the file.
func unusable(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) ||
		errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR)
}

// failed says what err, which may be nil, is about.
func (s *fileStore) failed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("addrmap: lease file %s: its directory does not exist; create it, writable for us alone", s.path)
	}
	return fmt.Errorf("addrmap: lease file %s: %w", s.path, err)
}

// open opens the file, and enters what is in it.
func (s *fileStore) open() error {
	file, records, torn, err := openLog(s.path)
	for damage := new(damageError); errors.As(err, &damage); file, records, torn, err = openLog(s.path) {
		s.log.Error().Str("file", s.path).Str("renamed_to", damage.aside).Err(damage.why).
			Msg("the lease file is damaged: what it has is lost, and relay addresses handed out before lead nowhere")
	}
	if err != nil {
		return err
	}
	if torn > 0 {
		s.log.Info().Str("file", s.path).Int64("octets", torn).Msg("dropped a commit that had not ended from the lease file")
	}
	s.file = file
	kept := slices.DeleteFunc(newest(records), func(r record) bool { return !s.live(r) })
	if len(kept) < len(records) || torn > 0 {
		s.reportErased(s.compact(kept))
	}
	s.restore(kept)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = true
	return nil
}

// compact puts a file with records alone in the place of the one that is open.
func (s *fileStore) compact(records []record) error {
	file, err := replaceLog(s.path, records)
	if err != nil {
		return err
	}
	s.file.close()
	s.file = file
	return nil
}

// ready returns nil if leases can be added.
func (s *fileStore) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosed
	case !s.opened:
		return s.failed(s.fault)
	}
	return nil
}

// status returns why leases cannot be written, or what has ended cannot be erased, or nil.
func (s *fileStore) status() (fault, kept error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed(s.fault), s.failed(s.kept)
}

// report notes how it went to open or write the file, and logs when that changes.
func (s *fileStore) report(err error) {
	s.mu.Lock()
	before := s.fault
	s.fault = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error().Str("file", s.path).Err(err).
			Msg("the lease file cannot be written: new destinations are treated as steer.on_failure says until it can")
	case err == nil && before != nil:
		s.log.Info().Str("file", s.path).Msg("the lease file is written again")
	}
}

// reportErased notes how it went to erase what has ended, and logs when that changes.
func (s *fileStore) reportErased(err error) {
	s.mu.Lock()
	before := s.kept
	s.kept = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error().Str("file", s.path).Err(err).Msg("leases that have ended cannot be erased from the lease file")
	case err == nil && before != nil:
		s.log.Info().Str("file", s.path).Msg("leases that have ended are erased from the lease file again")
	}
}

// add puts writes into the next commit and returns it. For one lease, later calls are written later.
func (s *fileStore) add(writes []write) (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.next == nil {
		s.next = &batch{done: make(chan struct{})}
		s.wake <- struct{}{}
	}
	s.next.writes = append(s.next.writes, writes...)
	return s.next, nil
}

// run waits: nobody else writes the file.
func (s *fileStore) run(ctx context.Context, _ func(record)) error {
	<-ctx.Done()
	return nil
}

// writeAll writes until close, and as long as that fails tries again from time to time.
func (s *fileStore) writeAll() {
	defer close(s.done)
	retry := time.NewTimer(retryEvery)
	defer retry.Stop()
	for {
		if fault, _ := s.status(); fault != nil {
			retry.Reset(retryEvery)
		} else {
			retry.Stop()
		}
		select {
		case _, more := <-s.wake:
			if !more {
				return
			}
			s.commit()
		case job := <-s.jobs:
			job()
		case <-retry.C:
			_ = s.try(nil) // report says what fails
		}
	}
}

// commit writes the next batch and tells who waits for it.
func (s *fileStore) commit() {
	s.mu.Lock()
	b := s.next
	s.next = nil
	s.mu.Unlock()
	defer close(b.done)
	if err := s.try(b.writes); err != nil {
		b.err = s.failed(err)
		return
	}
	for _, w := range b.writes {
		w.lease.raise(w.expiry)
	}
}

// try opens the file if it is not open, and writes leases.
func (s *fileStore) try(writes []write) (err error) {
	if s.file == nil {
		err = s.open()
	}
	if err == nil {
		err = s.write(writes)
	}
	s.report(err)
	return err
}

// update writes leases and syncs them. Without any it finds out whether it could.
func (s *fileStore) update(writes []write) error {
	if len(writes) == 0 {
		return s.file.probe()
	}
	records := make([]record, 0, len(writes))
	for _, w := range writes {
		records = append(records, record{w.lease.relay, w.lease.dst, w.expiry})
	}
	return s.file.append(records)
}

// do has writeAll run job between two commits. It reports whether that was done: not after close.
func (s *fileStore) do(job func()) bool {
	ran := make(chan struct{})
	select {
	case s.jobs <- func() { defer close(ran); job() }:
		<-ran
		return true
	case <-s.done:
		return false
	}
}

// erase rewrites the file without the records that keep does not report, and without what was written again since.
// Leases go on being written meanwhile: nothing but the copy of those is done between two commits.
func (s *fileStore) erase(keep func(record) bool) {
	var old *logFile
	var end int64
	var dirty bool
	if !s.do(func() {
		if s.file != nil {
			old, end, dirty = s.file, s.file.end, s.file.dirty
		}
	}) || old == nil {
		return
	}
	records, err := old.read(sector, end)
	kept := slices.DeleteFunc(newest(records), func(r record) bool { return !keep(r) })
	if err == nil && (len(kept) < len(records) || dirty) {
		err = s.rewrite(old, end, kept)
	}
	s.reportErased(err)
}

// rewrite puts a file with records, and with what comes after end in old, in the place of old, which is open.
func (s *fileStore) rewrite(old *logFile, end int64, records []record) error {
	file, err := makeLog(s.path, records)
	if err != nil {
		return err
	}
	ran := s.do(func() {
		var since []record
		if since, err = old.read(end, old.end); err == nil {
			err = file.append(since)
		}
		if err != nil {
			file.discard()
			return
		}
		if err = file.publish(s.path); err == nil {
			s.file = file
			old.close()
		}
	})
	if !ran {
		file.discard()
	}
	return err
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
	if s.file == nil {
		return nil
	}
	return s.failed(s.file.close())
}
