// Package tanfiles reads the files in which tan, dragonboat's log store, keeps a
// replica's Raft log, without changing them and without tan: Read says whether
// tan will find in them all that it wrote. tan itself panics where it does not,
// cuts the log at what it takes for a torn end, and takes a list of files that
// was cut short for a whole one and deletes the others.
//
// It is not a log store, and it repairs nothing. Read is the beginning;
// directory.go knows which files there are, record.go what a record is.
package tanfiles

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"syscall"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// compactionTerm is the term of a record that says up to where entries are
// compacted (dragonboat internal/tan/db.go: compactionFlag).
const compactionTerm = math.MaxUint64 - 2

// DamageError says what is wrong with which file.
type DamageError struct{ File, Reason string }

// Error implements error.
func (e *DamageError) Error() string { return fmt.Sprintf("%s %s", e.File, e.Reason) }

func damage(file, reason string) error { return &DamageError{File: file, Reason: reason} }

// Log is what a replica's files hold.
type Log struct {
	// Last is the index of the last entry; 0 = none.
	Last uint64
	// Snapshot is the newest snapshot record, whose index may be above Last; its
	// index is 0 where there is none.
	Snapshot pb.Snapshot
	// Term and Vote are the newest hard state's.
	Term, Vote uint64
}

// Read checks the log in the directory dir, which may not exist. Everything that
// tan may ever read again is read, up to the last byte that is whole: that a log
// ends too early is to be seen from what is returned. Errors: *DamageError; any
// other one says that the disk could not be asked.
func Read(fs vfs.FS, dir string) (log Log, err error) {
	d := &directory{fs: fs, path: dir}
	defer func() {
		if v := recover(); v != nil { // what has a right checksum and cannot be decoded
			err = damage(dir, fmt.Sprintf("cannot be decoded: %v", v))
		}
	}()
	ok, err := d.open()
	if err != nil || !ok {
		return Log{}, err
	}
	s := &scan{directory: d}
	if err := s.run(); err != nil {
		return Log{}, err
	}
	return Log{Last: s.last, Snapshot: s.newest, Term: s.hard.Term, Vote: s.hard.Vote}, nil
}

// ReadBootstrap checks a replica's bootstrap record, which is there. Errors as
// for Read.
func ReadBootstrap(fs vfs.FS, path string) (err error) {
	d := &directory{fs: fs}
	found := false
	err = d.eachRecord(path, func(record []byte) error {
		var b pb.Bootstrap
		found = b.Unmarshal(record) == nil
		return nil
	})
	if err == nil && !found {
		err = damage(path, "was cut short")
	}
	return err
}

// scan goes through the log files and collects what they say together.
type scan struct {
	*directory
	last, compactedTo uint64
	snapshot, state   place
	hard              pb.State
	newest            pb.Snapshot
}

func (s *scan) run() error {
	for _, number := range s.live {
		if x := s.indexed[number]; x != nil {
			s.note(x)
		}
	}
	// The file without an index comes first: what it says was compacted or replaced
	// need not be looked at in the others.
	if n := len(s.live); n > 0 && s.indexed[s.live[n-1]] == nil {
		if err := s.readOpen(s.live[n-1]); err != nil {
			return err
		}
	}
	for _, number := range s.live {
		if x := s.indexed[number]; x != nil {
			if err := s.readClosed(number, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// note takes over what an index file says. They come in the order of their files.
func (s *scan) note(x *index) {
	if n := len(x.entries); n > 0 {
		s.last = x.entries[n-1].end
	}
	s.compactedTo = max(s.compactedTo, x.compactedTo)
	s.snapshot = x.snapshot
	if x.state.file != 0 {
		s.state = x.state
	}
}

// readOpen reads the file that was written to last. It may end in a torn record:
// tan cuts it off.
func (s *scan) readOpen(number uint64) error {
	return s.each(number, 0, func(u *pb.Update, at int64) {
		if u.Term == compactionTerm && len(u.EntriesToSave) == 0 && pb.IsEmptySnapshot(u.Snapshot) {
			s.compactedTo = max(s.compactedTo, u.Commit)
			return
		}
		if n := len(u.EntriesToSave); n > 0 {
			s.last = u.EntriesToSave[n-1].Index
		}
		if u.Snapshot.Index > s.snapshot.begin {
			s.snapshot, s.newest = place{begin: u.Snapshot.Index, file: number, position: at}, u.Snapshot
		}
		if !pb.IsEmptyState(u.State) {
			s.state, s.hard = place{file: number, position: at}, u.State
		}
	}, errTorn)
}

// readClosed reads what is still needed of a file with an index: everything from
// the first needed record to the end, which is not torn, since a file is made
// durable before its index is written.
func (s *scan) readClosed(number uint64, x *index) error {
	wanted, last := map[int64]bool{}, uint64(0)
	want := func(p place) {
		if p.file == number {
			wanted[p.position] = true
		}
	}
	want(s.snapshot)
	want(s.state)
	for _, p := range x.entries {
		if p.end > s.compactedTo {
			want(p)
			last = p.end
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	from := int64(math.MaxInt64)
	for at := range wanted {
		from = min(from, at)
	}
	found := uint64(0)
	err := s.each(number, from-from%blockBytes, func(u *pb.Update, at int64) {
		delete(wanted, at)
		if n := len(u.EntriesToSave); n > 0 {
			found = u.EntriesToSave[n-1].Index
		}
		if s.state.file == number && s.state.position == at {
			s.hard = u.State
		}
		if s.snapshot.file == number && s.snapshot.position == at {
			s.newest = u.Snapshot
		}
	})
	switch {
	case err != nil:
		return err
	case len(wanted) > 0, last != 0 && found != last:
		return damage(s.log(number), "was cut short")
	}
	return nil
}

// each calls use with every record of a log file. errors are ends that may be.
func (s *scan) each(number uint64, from int64, use func(u *pb.Update, at int64), ends ...error) (err error) {
	path := s.log(number)
	f, err := s.fs.Open(path)
	if err != nil {
		return Fault(path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in := newRecords(f, from)
	for {
		record, at, err := in.next()
		if err != nil {
			for _, end := range append(ends, io.EOF) {
				if errors.Is(err, end) {
					return nil
				}
			}
			return Fault(path, err)
		}
		var u pb.Update
		if err := u.Unmarshal(record); err != nil {
			return damage(path, "holds a record that cannot be decoded")
		}
		use(&u, at)
	}
}

// Fault tells damage from a disk that could not be asked, by what reading the file
// at path ended with: what the disk cannot read, or does not have, is damage. nil
// and a *DamageError are returned as they are.
func Fault(path string, err error) error {
	switch {
	case err == nil, errors.As(err, new(*DamageError)):
		return err
	case errors.Is(err, errSum), errors.Is(err, errTorn):
		return damage(path, err.Error())
	case notExist(err):
		return damage(path, "is gone")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return damage(path, "was cut short")
	case errors.Is(err, syscall.EIO):
		return damage(path, "cannot be read by the disk")
	}
	return fmt.Errorf("check %s: %w", path, err)
}

func notExist(err error) bool { return errors.Is(err, os.ErrNotExist) }
