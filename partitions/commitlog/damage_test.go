package commitlog

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"logbroker/internal/errcode"
	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 0x10
		return b
	}
}

func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }

func grow(b []byte) []byte { return append(b, 0) }

// TestDamageIsNamedByOpenOrRead: every kind of damage is met by Open, or by the
// first read of what is damaged; nothing bad is ever returned.
func TestDamageIsNamedByOpenOrRead(t *testing.T) {
	const sealed, active = 1, -1 // which segment
	for _, c := range []struct {
		name    string
		segment int
		suffix  string
		change  func([]byte) []byte // nil = the file is removed
		by      string              // who must name the damage
	}{
		{"flipped bit in a sealed segment's records", sealed, logSuffix, flip(80), "read"},
		{"flipped bit in a sealed segment's last byte", sealed, logSuffix, flip(-1), "read"},
		{"flipped bit in a sealed segment's first offset", sealed, logSuffix, flip(7), "read"},
		{"flipped bit in a sealed segment's first length", sealed, logSuffix, flip(8), "read"},
		{"flipped bit in a sealed segment's first magic", sealed, logSuffix, flip(16), "read"},
		{"sealed segment cut short", sealed, logSuffix, cut(1), "open"},
		{"sealed segment too long", sealed, logSuffix, grow, "open"},
		{"sealed segment missing", sealed, logSuffix, nil, "open"},
		{"footer missing", sealed, footerSuffix, nil, "open"},
		{"footer flipped", sealed, footerSuffix, flip(20), "open"},
		{"footer cut short", sealed, footerSuffix, cut(4), "open"},
		{"footer empty", sealed, footerSuffix, cut(footerSize), "open"},
		{"index missing", sealed, indexSuffix, nil, "nobody"},
		{"index flipped", sealed, indexSuffix, flip(-3), "nobody"},
		{"index empty", sealed, indexSuffix, func([]byte) []byte { return nil }, "nobody"},
		{"time index missing", sealed, timeIndexSuffix, nil, "nobody"},
		{"time index cut short", sealed, timeIndexSuffix, cut(16), "nobody"},
		{"flipped bit in the active segment's records", active, logSuffix, flip(80), "open"},
		{"flipped bit in the active segment's epoch", active, logSuffix, flip(13), "open"},
		{"flipped bit in the active segment's last byte", active, logSuffix, flip(-1), "open"},
		{"active segment cut short", active, logSuffix, cut(1), "open"},
		{"active segment missing", active, logSuffix, nil, "open"},
		{"bytes behind the active segment's end", active, logSuffix, grow, "nobody"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := newMem(t)
			s, st, segments := damageFixture(t, mem)
			segment := segments[(c.segment+len(segments))%len(segments)]
			path := mem.PathJoin(dir, fileName(segment.Base, c.suffix))
			if c.change == nil {
				must(t, mem.Remove(path))
			} else {
				storagetest.Rewrite(t, mem, path, c.change)
			}
			before := snapshotOf(t, mem)
			l, err := Open(Options{FS: mem, Dir: dir, IndexIntervalBytes: 300}, st)
			if (err != nil) != (c.by == "open") {
				t.Fatalf("Open returned %v", err)
			}
			if err != nil {
				d := damageOf(t, err)
				if d.File != path && c.suffix != logSuffix {
					t.Fatalf("the error names %s, the damage is in %s", d.File, path)
				}
				if after := snapshotOf(t, mem); after != before {
					t.Fatalf("a refused Open has changed the directory from\n%s\nto\n%s", before, after)
				}
				return
			}
			defer l.Close()
			checkReadsUnderDamage(t, l, s, c.by == "read", path)
			report, err := Verify(mem, dir, VerifyOptions{State: &st})
			must(t, err)
			if (len(report.Damage) > 0) != (c.by == "read") {
				t.Fatalf("Verify found %v", report.Damage)
			}
		})
	}
}

// damageFixture leaves a synced log of several segments in mem.
func damageFixture(t *testing.T, mem storage.FS) (*stream, State, []SegmentInfo) {
	t.Helper()
	s := newStream(t, rand.New(rand.NewPCG(3, 3)), 60)
	l, err := Open(Options{FS: mem, Dir: dir, IndexIntervalBytes: 300}, State{})
	must(t, err)
	for i := range s.entries {
		must(t, l.Append(s.entries[i:i+1], Config{SegmentBytes: 2000}))
	}
	st, err := l.Sync()
	must(t, err)
	segments := l.Segments()
	must(t, l.Close())
	if len(segments) < 4 || st.ActivePosition == 0 {
		t.Fatalf("the fixture has only %d segments", len(segments))
	}
	return s, st, segments
}

// checkReadsUnderDamage reads from every batch on: a read is right or names
// the damage.
func checkReadsUnderDamage(t *testing.T, l *Log, s *stream, damage bool, path string) {
	t.Helper()
	found := false
	for i := range s.entries {
		got, err := l.Read(nil, s.entries[i].BaseOffset, l.End(), 1)
		switch {
		case err != nil:
			found = true
			if d := damageOf(t, err); d.File != path {
				t.Fatalf("the read names %s, the damage is in %s", d.File, path)
			}
			if errcode.Of(err) != errcode.StorageError {
				t.Fatalf("the error has code %v", errcode.Of(err))
			}
		case string(got) != string(s.stored[i]):
			t.Fatalf("the read at offset %d returned other bytes", s.entries[i].BaseOffset)
		}
	}
	if found != damage {
		t.Fatalf("damage met by a read: %v, want %v", found, damage)
	}
}

// snapshotOf returns names and contents of all files.
func snapshotOf(t *testing.T, fs storage.FS) string {
	t.Helper()
	var out strings.Builder
	ls, err := list(Options{FS: fs, Dir: dir}.place())
	must(t, err)
	for _, base := range ls.bases {
		ls.others = append(ls.others, ownFile{name: fileName(base, logSuffix)})
	}
	for _, o := range ls.others {
		b, err := storage.ReadFile(fs, fs.PathJoin(dir, o.name))
		must(t, err)
		out.WriteString(o.name + " " + string(b) + "\n")
	}
	return out.String()
}

func TestDamageBelowTheLogStartOffsetIsNone(t *testing.T) {
	mem := newMem(t)
	s, st, segments := damageFixture(t, mem)
	st.LogStart = segments[2].Base + 1
	must(t, mem.Remove(mem.PathJoin(dir, fileName(segments[0].Base, logSuffix))))
	must(t, mem.Remove(mem.PathJoin(dir, fileName(segments[1].Base, footerSuffix))))
	storagetest.Rewrite(t, mem, mem.PathJoin(dir, fileName(segments[1].Base, logSuffix)), cut(5))
	l := openMem(t, mem, st)
	checkContent(t, s, l)
	if got := l.Segments()[0].Base; got != segments[2].Base {
		t.Fatalf("the first segment is %d", got)
	}
	for _, name := range dirNames(t, mem) {
		if base, _, _ := parseName(name); base < segments[2].Base {
			t.Errorf("%s lies below the log start offset and is still there", name)
		}
	}
}

func TestOpenLeavesFilesOfOthersAlone(t *testing.T) {
	mem := newMem(t)
	must(t, storage.MkdirAll(mem, dir))
	others := []string{"marker", "producers-12", "00000000000000000000.other", "123.log", "0000000000000000000x.log"}
	for _, name := range others {
		must(t, storage.WriteFileAtomic(mem, mem.PathJoin(dir, name), []byte("x")))
	}
	l := openMem(t, mem, State{})
	must(t, l.Append([]Entry{{Batch: batch(t, 1, 1, 0, 'a')}}, Config{}))
	must(t, l.Close())
	must(t, wipe(Options{FS: mem, Dir: dir}.place()))
	for _, name := range others {
		if _, err := storage.ReadFile(mem, mem.PathJoin(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefusesAStateThatContradictsItself(t *testing.T) {
	for _, st := range []State{
		{LogStart: 1},
		{LogStart: -1},
		{End: 5},
		{End: 5, ActiveBase: 6},
		{End: 5, ActiveBase: 5, ActivePosition: 100},
		{End: 5, ActivePosition: -1},
	} {
		_, err := Open(Options{FS: newMem(t), Dir: dir}, st)
		if err == nil || errors.Is(err, ErrDamaged) {
			t.Errorf("%+v: %v", st, err)
		}
	}
}
