package fsm

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lni/dragonboat/v4/statemachine"
	"github.com/lni/vfs"

	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
	"logbroker/partitions/commitlog"
)

// openCostMax is what a restart may read, and what it may replay, however large
// the log is; the test takes the sixteenth of everything.
const (
	openCostMax   = 64 << 20
	openCostScale = 16
)

var errPowerGone = errors.New("the power is gone")

// A large active segment, and a crash between two markers, or right behind a
// marker and before its checkpoint.
func TestARestartReadsAndReplaysNoMoreThanItsBoundHoweverLargeTheLog(t *testing.T) {
	for name, c := range map[string]struct {
		bytes        int64 // of the log at the crash
		noCheckpoint bool  // the crash is before the first checkpoint above half of it
	}{
		"between two markers":     {bytes: 190 << 20 / openCostScale},
		"before the checkpoint":   {bytes: 250 << 20 / openCostScale, noCheckpoint: true},
		"behind a segment's roll": {bytes: 270 << 20 / openCostScale},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			var end, read atomic.Int64
			var dead atomic.Bool
			f, err := filled(t, storagetest.Wrap(mem, func(op storagetest.Op) (int, error) {
				if dead.Load() || c.noCheckpoint && end.Load() > c.bytes/2 && op.Kind == storagetest.Create && strings.Contains(op.Path, ".checkpoint") {
					return 0, errPowerGone
				}
				return 0, nil
			}), c.bytes, &end)
			if (err != nil) != c.noCheckpoint || err != nil && !errors.Is(err, errPowerGone) {
				t.Fatal(err)
			}
			// The process dies: nothing more reaches the files.
			dead.Store(true)
			f.saves.drain()
			if err := f.log.Close(); err != nil {
				t.Fatal(err)
			}
			replayed := f.BytesSinceMarker()
			again := New(Options{Dir: testDir, ShardID: 7, ReplicaID: 3, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), FS: storagetest.Wrap(mem, func(op storagetest.Op) (int, error) {
				// A file system in memory truncates by reading all of the file at once.
				if op.Kind == storagetest.Read && op.Bytes <= 1<<20 {
					read.Add(int64(op.Bytes))
				}
				return 0, nil
			})})
			if _, err := again.Open(nil); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = again.Close() })
			if read.Load() > openCostMax/openCostScale || replayed > openCostMax/openCostScale || again.HighWatermark() == 0 {
				t.Errorf("a restart of a log of %d MiB reads %d bytes and replays %d", c.bytes>>20, read.Load(), replayed)
			}
			t.Logf("a log of %d MiB: read %.1f MiB, replayed %.1f MiB", end.Load()>>20, float64(read.Load())/(1<<20), float64(replayed)/(1<<20))
		})
	}
}

// filled applies batches until the log has total bytes or an error comes; end is
// kept at how many it has.
func filled(t *testing.T, fs storage.FS, total int64, end *atomic.Int64) (*FSM, error) {
	t.Helper()
	f := New(Options{
		FS: fs, Dir: testDir, ShardID: 7, ReplicaID: 3,
		SyncBytes: SyncBytesDefault / openCostScale, CheckpointBytes: 8 << 20 / openCostScale,
	})
	if _, err := f.Open(nil); err != nil {
		t.Fatal(err)
	}
	builder := recordbatch.NewBuilder()
	builder.Append(1, nil, make([]byte, 32<<10), nil)
	batch, err := builder.Build(nil, recordbatch.None)
	if err != nil {
		t.Fatal(err)
	}
	cmd := EncodeProduce(append(make([]byte, ProduceHeaderSize), batch...), ProduceHeaderSize, ProduceHeader{LeaderEpoch: 1, AppendTimeMs: 1})
	rolls := Config{Segment: commitlog.Config{SegmentBytes: SegmentBytesDefault / openCostScale}}
	entries := []statemachine.Entry{{Index: 1, Cmd: EncodeEpoch(Epoch{1, 1})}, {Index: 2, Cmd: EncodeConfigure(1, rolls)}}
	for index := uint64(2); ; {
		if _, err := f.Update(entries); err != nil {
			return f, err
		}
		if end.Load() >= total {
			return f, nil
		}
		entries = entries[:0]
		for range 4 {
			index++
			entries = append(entries, statemachine.Entry{Index: index, Cmd: cmd})
			end.Add(int64(len(batch)))
		}
	}
}
