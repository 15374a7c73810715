package commitlog

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

// crashSeeds is how many histories the crash loop runs:
// go test -run CrashAtAny -commitlog.seeds 1000.
var crashSeeds = flag.Uint64("commitlog.seeds", 10, "histories of the crash loop")

// TestACrashAtAnyOperationRecoversTheLastDurableState runs a log through
// appends, rolls, syncs, trims and crashes and holds it against the stream it
// was given. A crash ends a run at a random file operation, in the middle of a
// write as well; then either everything written stays (the process was
// killed) or what was not synced is forgotten (the power went), with any files
// having reached the disk by themselves before.
func TestACrashAtAnyOperationRecoversTheLastDurableState(t *testing.T) {
	for seed := range *crashSeeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			c := &crashLoop{t: t, rng: rng, mem: newMem(t), stream: newStream(t, rng, 300)}
			for c.done < len(c.stream.entries) {
				c.life()
			}
			c.compareWithALogThatNeverCrashed()
		})
	}
}

// crashLoop is one partition over many lives of its process.
type crashLoop struct {
	t      *testing.T
	rng    *rand.Rand
	mem    *memFS
	stream *stream

	// marker is the durable marker, durable the segments at that moment, done
	// how many entries it covers.
	marker  State
	durable []SegmentInfo
	done    int
	// beside is what the writer does while a sync is finished: once, before one of
	// the operations of that.
	beside func()
}

// life opens the log, works on it until it crashes or the stream is at its end,
// and takes the power away.
func (c *crashLoop) life() {
	inj := &storagetest.Injector{
		At: 1 + c.rng.IntN(60), Sticky: true,
		Match: func(op storagetest.Op) bool { return op.Kind.Mutates() },
		Keep:  func(n int) int { return c.rng.IntN(n + 1) },
	}
	reach := rand.New(rand.NewPCG(c.rng.Uint64(), 2))
	fs := storagetest.Wrap(c.mem.FS, func(op storagetest.Op) (int, error) {
		if op.Kind.Mutates() && reach.IntN(4) == 0 {
			c.reachDisk(reach)
		}
		if do := c.beside; do != nil && op.Kind.Mutates() && c.rng.IntN(3) == 0 {
			c.beside = nil
			do()
		}
		return inj.Hook(op)
	})
	l, err := Open(Options{FS: fs, Dir: dir, IndexIntervalBytes: 300, CheckpointBytes: 200}, c.marker)
	if err == nil {
		c.check(l)
		err = c.work(l)
		_ = l.Close() // the operations behind a crash fail, this one too
	}
	if _, crashed := inj.Fired(); crashed != (err != nil) || crashed && !errors.Is(err, storagetest.ErrInjected) {
		c.t.Fatalf("crashed %v, but the error is %v", crashed, err)
	}
	if c.rng.IntN(3) > 0 {
		c.mem.reset()
	}
}

// reachDisk makes some file or the directory durable without having been asked
// to, as an operating system may at any time.
func (c *crashLoop) reachDisk(rng *rand.Rand) {
	names, err := c.mem.List(dir)
	if err != nil || len(names) == 0 {
		return
	}
	if rng.IntN(3) == 0 {
		must(c.t, storage.SyncDir(c.mem, dir))
		return
	}
	f, err := c.mem.Open(dir + "/" + names[rng.IntN(len(names))])
	must(c.t, err)
	must(c.t, f.Sync())
	must(c.t, f.Close())
}

// work returns the error of the crash, or nil at the stream's end.
func (c *crashLoop) work(l *Log) error {
	next := c.done
	for {
		if next == len(c.stream.entries) {
			return c.sync(l, &next)
		}
		var err error
		switch c.rng.IntN(12) {
		case 0, 1:
			err = c.sync(l, &next)
		case 2:
			l.Trim(c.stream.entries[c.rng.IntN(next+1)].BaseOffset)
		case 3:
			_, err = l.Read(nil, l.LogStart()+c.rng.Int64N(l.End()-l.LogStart()+1), l.End(), c.rng.IntN(2000))
		default:
			to := c.stream.group(next, 1+c.rng.IntN(12))
			err = c.stream.append(l, next, to)
			next = to
		}
		if err != nil {
			return err
		}
	}
}

// sync does what the state machine does: it begins a sync, goes on while that is
// finished, then writes the marker, then lets go of what the marker has let go.
func (c *crashLoop) sync(l *Log, next *int) error {
	p, segments, done := l.StartSync(), l.Segments(), *next
	c.beside = func() {
		if c.rng.IntN(2) == 0 {
			l.Trim(c.stream.entries[c.rng.IntN(*next+1)%len(c.stream.entries)].BaseOffset)
		}
		if *next == len(c.stream.entries) {
			return
		}
		to := c.stream.group(*next, 1+c.rng.IntN(12))
		if err := c.stream.append(l, *next, to); err == nil {
			*next = to
		} else if !errors.Is(err, storagetest.ErrInjected) {
			c.t.Error(err)
		}
	}
	err := l.FinishSync(p)
	c.beside = nil
	if err != nil {
		return err
	}
	c.marker, c.durable, c.done = p.State, segments, done
	return marked(l)
}

// check holds a log that was just opened against the marker.
func (c *crashLoop) check(l *Log) {
	c.t.Helper()
	l.mu.Lock()
	got := l.state()
	l.mu.Unlock()
	if got != c.marker {
		c.t.Fatalf("opened at %+v, the marker is %+v", got, c.marker)
	}
	if got := l.Segments(); c.durable != nil && !reflect.DeepEqual(got, c.durable) {
		c.t.Fatalf("opened with segments\n%+v\nthe marker had\n%+v", got, c.durable)
	}
	checkContent(c.t, c.stream, l)
	for _, name := range dirNames(c.t, c.mem) {
		if strings.HasSuffix(name, storage.TmpSuffix()) {
			c.t.Fatalf("%s is left", name)
		}
		if strings.HasSuffix(name, checkpointSuffix) && name != fileName(got.ActiveBase, checkpointSuffix) {
			c.t.Fatalf("%s is left, the active segment begins at %d", name, got.ActiveBase)
		}
	}
}

func dirNames(t *testing.T, fs storage.FS) []string {
	names, err := fs.List(dir)
	must(t, err)
	return names
}

// compareWithALogThatNeverCrashed: segment files must be a function of the
// entries alone, so the replica that crashed and one that got every entry in a
// call of its own end with the same files.
func (c *crashLoop) compareWithALogThatNeverCrashed() {
	calm := newMem(c.t)
	l := openMem(c.t, calm, State{})
	for i := range c.stream.entries {
		must(c.t, c.stream.append(l, i, i+1))
	}
	_, err := l.Sync()
	must(c.t, err)
	want, err := Verify(calm, dir, VerifyOptions{})
	must(c.t, err)
	got, err := Verify(c.mem, dir, VerifyOptions{State: &c.marker})
	must(c.t, err)
	if len(got.Damage)+len(want.Damage) > 0 {
		c.t.Fatalf("damage: %v %v", got.Damage, want.Damage)
	}
	n := len(want.Segments) - len(got.Segments) // trimmed
	for i := range got.Segments {
		g, w := got.Segments[i], want.Segments[n+i]
		if g.Sealed != w.Sealed || g.SHA256 != w.SHA256 || g.Base != w.Base || g.End != w.End ||
			g.Sealed && (g.FirstAppendMs != w.FirstAppendMs || g.LastAppendMs != w.LastAppendMs) {
			c.t.Fatalf("segment %d is\n%+v, without crashes it is\n%+v", i, g, w)
		}
	}
}
