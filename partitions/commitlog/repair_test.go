package commitlog

import (
	"errors"
	"testing"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

// staged fetches w from src into a staging of fs.
func stagedCopy(fs storage.FS, w Want, src *Pinned) (*Staging, error) {
	s, err := OpenStaging(Options{FS: fs, Dir: stagingDir})
	if err != nil {
		return nil, err
	}
	if err := s.Remove(w.Base()); err != nil {
		return nil, err
	}
	in, err := s.Begin(w, nil)
	if err != nil {
		return nil, err
	}
	if err := src.CopySegment(in, w.Base(), in.Position(), w.Bytes()); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return s, in.Finish()
}

// TestACrashWhileASegmentIsReplacedLeavesTheDamageOrTheCopy fails every operation,
// from then on all of them, then takes the power away, and replaces again.
func TestACrashWhileASegmentIsReplacedLeavesTheDamageOrTheCopy(t *testing.T) {
	const aside = "/aside"
	good := newMem(t)
	s, st, segments := damageFixture(t, good)
	m, src := manifest(t, openMem(t, good, st))
	w, ok := m.Sealed(segments[1].Base)
	if !ok {
		t.Fatal("the segment is not sealed")
	}
	for name, change := range map[string]func([]byte) []byte{"flipped": flip(200), "cut": cut(7), "gone": nil} {
		for at := 1; ; at++ {
			mem := newMem(t)
			damageFixture(t, mem)
			path := mem.PathJoin(dir, fileName(segments[1].Base, logSuffix))
			if change == nil {
				must(t, mem.Remove(path))
				must(t, storage.SyncDir(mem, dir))
			} else {
				storagetest.Rewrite(t, mem, path, change)
			}
			replace := func(fs storage.FS) error {
				staging, err := stagedCopy(fs, w, src)
				if err != nil {
					return err
				}
				return ReplaceIn(Options{FS: fs, Dir: dir}, w, staging, aside)
			}
			inj := &storagetest.Injector{At: at, Sticky: true}
			err := replace(storagetest.Wrap(mem, inj.Hook))
			_, fired := inj.Fired()
			if err != nil && !fired {
				t.Fatal(err)
			}
			mem.reset()
			must(t, replace(mem)) // whatever is there: it can be done again
			mem.reset()
			l, err := Open(Options{FS: mem, Dir: dir}, st)
			must(t, err)
			checkContent(t, s, l)
			must(t, l.Close())
			if !fired {
				break
			}
			if name == "flipped" {
				if _, err := mem.Stat(mem.PathJoin(aside, fileName(segments[1].Base, logSuffix))); err != nil {
					t.Fatalf("crash at %d: what was damaged is not kept: %v", at, err)
				}
			}
		}
	}
}

// TestAReplacedSegmentIsReadAtOnce replaces a segment that readers have open.
func TestAReplacedSegmentIsReadAtOnce(t *testing.T) {
	good := newMem(t)
	_, st, segments := damageFixture(t, good)
	_, src := manifest(t, openMem(t, good, st))
	mem := newMem(t)
	s, _, _ := damageFixture(t, mem)
	storagetest.Rewrite(t, mem, mem.PathJoin(dir, fileName(segments[1].Base, logSuffix)), flip(200))
	l := openMem(t, mem, st)
	if _, err := content(l, segments[1].Base, 1<<20); err == nil {
		t.Fatal("the damage was read")
	}
	w, ok := l.Sealed(segments[1].Base)
	if !ok {
		t.Fatal("the segment is not sealed")
	}
	staging, err := stagedCopy(mem, w, src)
	must(t, err)
	must(t, l.Replace(w, staging, "/aside"))
	checkContent(t, s, l)
	if _, err := scrubAll(l); err != nil {
		t.Fatal(err)
	}
}
