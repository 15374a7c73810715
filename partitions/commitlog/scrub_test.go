package commitlog

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"logbroker/internal/storage/storagetest"
)

// scrubAll scrubs the whole log and returns how many bytes it read.
func scrubAll(l *Log) (read int64, err error) {
	pace := func(n int) error { read += int64(n); return nil }
	for offset := l.LogStart(); offset < l.End(); {
		next, err := l.Scrub(offset, pace)
		if err != nil {
			return read, err
		}
		if next <= offset {
			return read, errors.New("no progress")
		}
		offset = next
	}
	return read, nil
}

func TestScrubReadsEverySegmentOnce(t *testing.T) {
	mem := newMem(t)
	_, st, _ := damageFixture(t, mem)
	l := openMem(t, mem, st)
	read, err := scrubAll(l)
	must(t, err)
	if read != l.SizeBytes() {
		t.Errorf("%d bytes were read of a log of %d", read, l.SizeBytes())
	}
}

func TestScrubNamesWhatNobodyReads(t *testing.T) {
	const sealed, active = 1, -1
	for _, c := range []struct {
		name    string
		segment int
		suffix  string
		change  func([]byte) []byte // nil = the file is removed
	}{
		{"flipped bit in a sealed segment's records", sealed, logSuffix, flip(80)},
		{"flipped bit in a sealed segment's epoch", sealed, logSuffix, flip(13)},
		{"sealed segment cut short", sealed, logSuffix, cut(1)},
		{"sealed segment missing", sealed, logSuffix, nil},
		{"footer flipped", sealed, footerSuffix, flip(20)},
		{"footer missing", sealed, footerSuffix, nil},
		{"flipped bit in the active segment", active, logSuffix, flip(80)},
		{"flipped bit in the active segment's epoch", active, logSuffix, flip(13)},
		{"active segment cut short", active, logSuffix, cut(1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := newMem(t)
			_, st, segments := damageFixture(t, mem)
			l := openMem(t, mem, st)
			path := mem.PathJoin(dir, fileName(segments[(c.segment+len(segments))%len(segments)].Base, c.suffix))
			if c.change == nil {
				must(t, mem.Remove(path))
			} else {
				storagetest.Rewrite(t, mem, path, c.change)
			}
			_, err := scrubAll(l)
			if d := damageOf(t, err); d.File != path {
				t.Errorf("the error names %s, the damage is in %s", d.File, path)
			}
		})
	}
}

func TestWhatTheDiskCannotReadIsDamage(t *testing.T) {
	mem := newMem(t)
	_, st, segments := damageFixture(t, mem)
	path := mem.PathJoin(dir, fileName(segments[1].Base, logSuffix))
	broken := storagetest.Wrap(mem, func(op storagetest.Op) (int, error) {
		if op.Kind == storagetest.Read && op.Path == path {
			return 0, syscall.EIO
		}
		return 0, nil
	})
	l := openMem(t, broken, st)
	if _, err := scrubAll(l); damageOf(t, err).File != path {
		t.Errorf("scrub: %v", err)
	}
	if _, err := l.Read(nil, segments[1].Base, l.End(), 1000); damageOf(t, err).File != path {
		t.Errorf("read: %v", err)
	}
}

func TestScrubBesideTheWriterIsNotDeceived(t *testing.T) {
	mem := newMem(t)
	s := newStream(t, rand.New(rand.NewPCG(1, 2)), 300)
	l := openMem(t, mem, State{})
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := scrubAll(l); err != nil || l.End() == s.entries[len(s.entries)-1].BaseOffset {
				done <- err
				return
			}
		}
	}()
	for i := 0; i < len(s.entries)-1; i++ {
		must(t, s.append(l, i, i+1))
		if i%20 == 19 {
			l.Trim(s.entries[i-10].BaseOffset)
			_, err := l.Sync()
			must(t, err)
			must(t, marked(l))
		}
	}
	must(t, <-done)
	must(t, l.Close())
	if _, err := l.Scrub(0, func(int) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("after the close: %v", err)
	}
}
