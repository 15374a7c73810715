package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/storage"
	"logbroker/partitions/commitlog"
)

// take returns a snapshot of f as dragonboat streams it.
func take(t *testing.T, f *FSM) []byte {
	t.Helper()
	ctx, err := f.PrepareSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := f.SaveSnapshot(ctx, &b, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sender returns a replica that has applied the first n entries.
func (h history) sender(t *testing.T, n int) (*FSM, *disk) {
	t.Helper()
	d := newDisk(neverCrash)
	f, _ := d.mustOpen(t)
	if _, err := h.feed(t, f, 0, n, rand.New(rand.NewPCG(1, uint64(n)))); err != nil {
		t.Fatal(err)
	}
	return f, d
}

func TestSnapshotCarriesEverything(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(5, 1)), 150)
	from, fromDisk := h.sender(t, 100)
	stream := take(t, from)
	if again := take(t, from); len(again) != len(stream) { // the leases differ
		t.Error("two snapshots of one state differ")
	}
	for _, behind := range []int{0, 1, 30} {
		t.Run(fmt.Sprint("behind at ", behind), func(t *testing.T) {
			to, toDisk := h.sender(t, behind)
			oldLog, _ := to.Log()
			if err := to.RecoverFromSnapshot(bytes.NewReader(stream), nil); err != nil {
				t.Fatal(err)
			}
			h.modelAt(100).check(t, to)
			if _, err := oldLog.Read(nil, 0, 1, 1); err == nil {
				t.Error("the old log can still be read")
			}
			// It goes on like the sender, and its files become the same.
			for _, f := range []*FSM{from, to} {
				at := h.position(f.AppliedIndex())
				if _, err := h.feed(t, f, at, len(h.entries), rand.New(rand.NewPCG(2, 2))); err != nil {
					t.Fatal(err)
				}
				if err := settle(f); err != nil {
					t.Fatal(err)
				}
				h.modelAt(len(h.entries)).check(t, f)
			}
			toDisk.files(t).segmentFiles().checkSame(t, fromDisk.files(t).segmentFiles())
		})
	}
}

// TestCrashWhileRecoveringFromASnapshotLeavesTheOldStateOrTheNew loses power at
// each operation of RecoverFromSnapshot, and of the Open after it.
func TestCrashWhileRecoveringFromASnapshotLeavesTheOldStateOrTheNew(t *testing.T) {
	const before, after = 25, 60
	h := generate(rand.New(rand.NewPCG(6, 1)), after+20)
	from, fromDisk := h.sender(t, after)
	stream := take(t, from)
	if err := settle(from); err != nil {
		t.Fatal(err)
	}
	want := fromDisk.files(t).segmentFiles()
	old, oldDisk := h.sender(t, before)
	if err := settle(old); err != nil {
		t.Fatal(err)
	}
	start := oldDisk.files(t)
	for how := range cuts {
		t.Run(how.String(), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(6, uint64(how)))
			for at := 1; ; at++ {
				d := start.disk(t, at)
				if !recoverAt(t, h, d, stream) {
					break // at lies behind the last operation
				}
				// Once more while the next life opens and recovers.
				d = d.restart(t, how, 1+r.IntN(30), r)
				recoverAt(t, h, d, stream)
				d = d.restart(t, how, neverCrash, r)
				f, index := d.mustOpen(t)
				if n := h.position(index); n != before && n != after {
					t.Fatalf("crash at %d: opened at entry %d, neither old nor new", at, n)
				} else {
					h.modelAt(n).check(t, f)
				}
				if err := recoverWhereOld(h, f, stream, before); err != nil {
					t.Fatal(err)
				}
				h.modelAt(after).check(t, f)
				if err := f.Checkpoint(); err != nil {
					t.Fatal(err)
				}
				d.files(t).segmentFiles().checkSame(t, want)
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// recoverAt opens a replica on d, recovers it, and says whether d crashed.
func recoverAt(t *testing.T, h history, d *disk, stream []byte) bool {
	t.Helper()
	f, _, err := d.open(t, nil)
	if err == nil {
		err = recoverWhereOld(h, f, stream, 25)
	}
	if err != nil && !d.crashed() {
		t.Fatal(err)
	}
	crashed := d.crashed()
	if !crashed {
		_ = f.Close()
	}
	return crashed
}

// recoverWhereOld does what dragonboat does: it gives the snapshot to a replica
// that is below it.
func recoverWhereOld(h history, f *FSM, stream []byte, before int) error {
	if h.position(f.AppliedIndex()) > before {
		return nil
	}
	return f.RecoverFromSnapshot(bytes.NewReader(stream), nil)
}

func TestADamagedSnapshotIsRefusedAndTheOldStateStays(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(8, 1)), 60)
	from, _ := h.sender(t, 60)
	stream := take(t, from)
	old, oldDisk := h.sender(t, 20)
	if err := settle(old); err != nil {
		t.Fatal(err)
	}
	start := oldDisk.files(t)
	refuse := func(what string, bad []byte) {
		d := start.disk(t, neverCrash)
		f, _ := d.mustOpen(t)
		if err := f.RecoverFromSnapshot(bytes.NewReader(bad), nil); err == nil {
			t.Fatalf("%s: accepted", what)
		}
		f, _ = d.restart(t, cutKeeps, neverCrash, nil).mustOpen(t)
		h.modelAt(20).check(t, f)
	}
	r := rand.New(rand.NewPCG(8, 8))
	for range 60 {
		at := r.IntN(len(stream))
		bad := bytes.Clone(stream)
		bad[at] ^= 1 << r.IntN(8)
		refuse(fmt.Sprint("bit flipped at ", at), bad)
		refuse(fmt.Sprint("cut at ", at), stream[:at])
	}
	refuse("last byte missing", stream[:len(stream)-1])
}

// failingWriter breaks after some bytes, as a connection does.
type failingWriter struct{ left int }

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, statemachine.ErrSnapshotStreaming
	}
	return len(b), nil
}

func TestSnapshotErrorsAreThoseThatDragonboatKnows(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(9, 1)), 60)
	f, _ := h.sender(t, 60)
	prepare := func() any {
		ctx, err := f.PrepareSnapshot()
		if err != nil {
			t.Fatal(err)
		}
		return ctx
	}
	stop := make(chan struct{})
	close(stop)
	for left := range 5 {
		if err := f.SaveSnapshot(prepare(), &failingWriter{left * 30}, nil); !errors.Is(err, statemachine.ErrSnapshotStreaming) {
			t.Errorf("broken connection after %d bytes: %v", left*30, err)
		}
	}
	if err := f.SaveSnapshot(prepare(), io.Discard, stop); !errors.Is(err, statemachine.ErrSnapshotStopped) {
		t.Errorf("replica stopped: %v", err)
	}
	first, second := prepare(), prepare()
	if err := f.SaveSnapshot(first, io.Discard, nil); !errors.Is(err, statemachine.ErrSnapshotAborted) {
		t.Errorf("a snapshot whose pin was released: %v", err)
	}
	if err := f.SaveSnapshot(second, io.Discard, nil); err != nil {
		t.Error(err)
	}
	if err := f.RecoverFromSnapshot(bytes.NewReader(take(t, f)), stop); !errors.Is(err, statemachine.ErrSnapshotStopped) {
		t.Errorf("recover while stopping: %v", err)
	}
	h.modelAt(60).check(t, f)
}

// TestSnapshotIsOfTheMomentItWasPrepared applies, trims and syncs while the
// snapshot is being streamed.
func TestSnapshotIsOfTheMomentItWasPrepared(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(10, 1)), 200)
	from, _ := h.sender(t, 60)
	ctx, err := from.PrepareSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := from.SaveSnapshot(ctx, &stream, nil); err != nil {
			t.Error(err)
		}
	})
	// The one goroutine that dragonboat would use: Updates and Syncs.
	if _, err := h.feed(t, from, 60, 200, rand.New(rand.NewPCG(3, 3))); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	to, _ := newDisk(neverCrash).mustOpen(t)
	if err := to.RecoverFromSnapshot(&stream, nil); err != nil {
		t.Fatal(err)
	}
	h.modelAt(60).check(t, to)
}

func TestASnapshotOfAnotherShardIsRefused(t *testing.T) {
	d := newDisk(neverCrash)
	other := New(Options{FS: d.fs, Dir: "/other", ShardID: 8, ReplicaID: 3})
	if _, err := other.Open(nil); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	f, _ := newDisk(neverCrash).mustOpen(t)
	if err := f.RecoverFromSnapshot(bytes.NewReader(take(t, other)), nil); err == nil {
		t.Error("took the state of another partition")
	}
}

// TestABadSegmentIsNotSpread damages a segment at the sender: the receiver's
// checksums refuse it, and its old state stays.
func TestABadSegmentIsNotSpread(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(11, 1)), 60)
	f, d := h.sender(t, 60)
	if err := settle(f); err != nil {
		t.Fatal(err)
	}
	log, _ := f.Log()
	sealed := log.Segments()[0]
	if !sealed.Sealed {
		t.Fatal("no sealed segment")
	}
	in := d.files(t)
	for p := range in {
		if strings.HasSuffix(p, fmt.Sprintf("%020d.log", sealed.Base)) && len(in[p]) > 0 {
			in[p][len(in[p])/2] ^= 1
		}
	}
	bad, _ := in.disk(t, neverCrash).mustOpen(t)
	to, toDisk := h.sender(t, 0)
	if err := to.RecoverFromSnapshot(bytes.NewReader(take(t, bad)), nil); !errors.Is(err, commitlog.ErrNotTheSegment) {
		t.Fatalf("recovered from a damaged segment: %v", err)
	}
	again, _ := toDisk.restart(t, cutForgets, neverCrash, nil).mustOpen(t)
	h.modelAt(0).check(t, again)
}

func TestOpenRefusesWhatTheMarkerDoesNotVouchFor(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(12, 1)), 60)
	f, d := h.sender(t, 60)
	if err := settle(f); err != nil {
		t.Fatal(err)
	}
	start := d.files(t)
	m, err := ReadMarker(d.mem, testDir)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return testDir + "/" + name }
	for name, breakIt := range map[string]func(files){
		"marker gone":       func(x files) { delete(x, in(markerName)) },
		"marker cut":        func(x files) { x[in(markerName)] = x[in(markerName)][:50] },
		"marker cut in two": func(x files) { x[in(markerName)] = x[in(markerName)][:slotBytesMin] },
		"marker with a tail": func(x files) {
			x[in(markerName)] = append(x[in(markerName)], make([]byte, 2*slotUnit)...)
		},
		"both slots":          func(x files) { x[in(markerName)][30] ^= 1; x[in(markerName)][slotBytesMin+30] ^= 1 },
		"active segment gone": func(x files) { delete(x, fmt.Sprintf("%s/log-1/%020d.log", testDir, m.Log.ActiveBase)) },
		"active segment bit": func(x files) {
			segment := fmt.Sprintf("%s/log-1/%020d", testDir, m.Log.ActiveBase)
			x[segment+".log"][40] ^= 1
			delete(x, segment+".checkpoint") // else what is below it is left to reads and scrubs
		},
	} {
		x := files{}
		for p, b := range start {
			x[p] = bytes.Clone(b)
		}
		breakIt(x)
		if _, _, err := x.disk(t, neverCrash).open(t, nil); !errors.Is(err, commitlog.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := New(Options{FS: start.disk(t, neverCrash).fs, Dir: testDir, ShardID: 7, ReplicaID: 4})
	if _, err := other.Open(nil); err == nil {
		t.Error("a replica opened another one's directory")
	}
}

func TestSyncIsFreeWhereNothingWasApplied(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(13, 1)), 40)
	f, d := h.sender(t, 40)
	if err := settle(f); err != nil {
		t.Fatal(err)
	}
	ops := d.ops
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if d.ops != ops {
		t.Errorf("%d operations", d.ops-ops)
	}
}

func TestUpdateSyncsByItselfAfterSyncBytes(t *testing.T) {
	d := newDisk(neverCrash)
	f := New(Options{FS: d.fs, Dir: testDir, ShardID: 7, ReplicaID: 3, SyncBytes: 1000})
	if _, err := f.Open(nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	m := &machine{FSM: f, t: t, next: 1}
	m.apply(EncodeEpoch(Epoch{1, 1}))
	for range 50 {
		m.apply(batchOf(1, 1, -1, 0))
		if m.BytesSinceMarker() >= 1000 {
			t.Fatalf("%d bytes since the marker", m.BytesSinceMarker())
		}
	}
	f.saves.drain() // the disk stands still while it is looked at
	if _, index := d.restart(t, cutForgets, neverCrash, nil).mustOpen(t); index < 40 {
		t.Errorf("opened at %d", index)
	}
}

func TestNothingIsWrittenAfterAStorageError(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(14, 1)), 40)
	f, d := h.sender(t, 40)
	d.mu.Lock()
	d.crashAt = d.ops
	d.mu.Unlock()
	if _, err := f.Update([]statemachine.Entry{{Index: 1000, Cmd: batchOf(f.Epochs()[len(f.Epochs())-1].Epoch, 1, -1, 0)}}); err == nil {
		t.Fatal("no error")
	}
	d.mu.Lock()
	d.crashAt = neverCrash // the disk works again: too late
	d.mu.Unlock()
	if err := f.Sync(); err == nil {
		t.Error("Sync after a failed write")
	}
	if _, err := f.Update(nil); err == nil {
		t.Error("Update after a failed write")
	}
}

func TestReadersMayCallBeforeOpenAndAfterClose(t *testing.T) {
	d := newDisk(neverCrash)
	f := New(Options{FS: d.fs, Dir: testDir})
	read := func() {
		if _, ok := f.Log(); ok {
			t.Error("a log where none is open")
		}
		f.Epoch()
		f.Config()
		f.LogStart()
		f.ProducerKeys(nil)
	}
	read()
	if _, err := f.Open(nil); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	read()
	if err := f.Close(); err != nil {
		t.Error("second Close:", err)
	}
	if _, err := f.Lookup(nil); !errors.Is(err, ErrLookup) {
		t.Error(err)
	}
	if _, err := ReadMarker(d.mem, "/nothing"); !storage.NotExist(err) {
		t.Error("a missing marker:", err)
	}
}
