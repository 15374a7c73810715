package fsm

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestASnapshotFetchesOnlyWhatIsMissing counts the bytes that come from the peer.
func TestASnapshotFetchesOnlyWhatIsMissing(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(15, 1)), 120)
	from, _ := h.sender(t, 110)
	log, _ := from.Log()
	end, size := log.End(), log.SizeBytes()
	stream := take(t, from)
	for _, behind := range []int{0, 60, 105} {
		to, toDisk := h.sender(t, behind)
		had, _ := to.Log()
		var kept int64
		for _, s := range had.Segments() {
			if s.Base >= log.Segments()[0].Base {
				kept += s.Bytes
			}
		}
		x := &fetcher{fs: toDisk.fs}
		to.opts.Fetcher = x
		if err := to.RecoverFromSnapshot(bytes.NewReader(stream), nil); err != nil {
			t.Fatal(err)
		}
		if to.HighWatermark() != end || x.bytes != size-kept {
			t.Errorf("behind at %d: %d bytes came, the log has %d and %d of them were here", behind, x.bytes, size, kept)
		}
	}
}

// TestALogStartThatRoseMeanwhileIsAdopted: the peers have trimmed what the
// manifest still lists.
func TestALogStartThatRoseMeanwhileIsAdopted(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(16, 1)), 120)
	from, _ := h.sender(t, 110)
	log, _ := from.Log()
	segments := log.Segments()
	at := segments[len(segments)-2].Base
	stream := take(t, from)
	to, toDisk := h.sender(t, 10)
	to.opts.Fetcher = &fetcher{fs: toDisk.fs, logStart: at}
	if err := to.RecoverFromSnapshot(bytes.NewReader(stream), nil); err != nil {
		t.Fatal(err)
	}
	again, index := toDisk.restart(t, cutForgets, neverCrash, nil).mustOpen(t)
	if again.LogStart() != at || again.HighWatermark() != log.End() || index != from.AppliedIndex() {
		t.Errorf("[%d, %d) at index %d", again.LogStart(), again.HighWatermark(), index)
	}
}
