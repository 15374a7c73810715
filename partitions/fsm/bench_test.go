package fsm

import (
	"encoding/binary"
	"testing"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
)

// BenchmarkUpdate applies rounds of eight numbered batches of 64 KiB each to a
// log on the real file system.
func BenchmarkUpdate(b *testing.B) {
	const batches, value = 8, 1 << 10
	f := New(Options{FS: storage.OS(), Dir: b.TempDir() + "/partition", SyncBytes: 1 << 40})
	if _, err := f.Open(nil); err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	builder := recordbatch.NewBuilder()
	for builder.Size() < 64<<10-value {
		builder.Append(1, nil, make([]byte, value), nil)
	}
	batch, err := builder.Build(nil, recordbatch.None)
	if err != nil {
		b.Fatal(err)
	}
	count := recordbatch.Batch(batch).Count()
	recordbatch.Batch(batch).SetProducer(7, 0, 0)
	entries := make([]statemachine.Entry, batches)
	for i := range entries {
		buf := append(make([]byte, ProduceHeaderSize), batch...)
		entries[i].Cmd = EncodeProduce(buf, ProduceHeaderSize, ProduceHeader{LeaderEpoch: 1, AppendTimeMs: 1})
	}
	if _, err := f.Update([]statemachine.Entry{{Index: 1, Cmd: EncodeEpoch(Epoch{1, 1})}}); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(batches * len(batch)))
	b.ReportAllocs()
	index, sequence := uint64(1), int32(0)
	for b.Loop() {
		for i := range entries {
			index++
			entries[i].Index = index
			// The sequence is in the CRC, which Update does not look at.
			binary.BigEndian.PutUint32(entries[i].Cmd[ProduceHeaderSize+53:], uint32(sequence))
			sequence += count
		}
		if _, err := f.Update(entries); err != nil {
			b.Fatal(err)
		}
		if v, _ := DecodeResult(entries[batches-1].Result.Value); v != Appended {
			b.Fatal("verdict", v)
		}
		if index%4096 < batches { // do not fill the disk
			trim := []statemachine.Entry{{Index: index + 1, Cmd: EncodeTrim(1, f.HighWatermark())}}
			index++
			if _, err := f.Update(trim); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
