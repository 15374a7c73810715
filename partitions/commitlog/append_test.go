package commitlog

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"testing"

	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
)

// Short batches are copied and long ones are not; the log must not show which.
func TestBatchesOfEverySizeAreStoredPatched(t *testing.T) {
	const long = copiedBytesMax
	for i, sizes := range [][]int{
		{10},
		{long},
		{10, 20, long, 30, 40, long, long, 50},
		{long, 600 << 10, 10, 600 << 10, 20, long}, // more than one write
	} {
		s := &stream{}
		for n, size := range sizes {
			b := batch(t, 2, size, int64(n), byte(n))
			stored := recordbatch.Batch(bytes.Clone(b))
			offset := int64(2 * n)
			stored.SetBaseOffset(offset)
			stored.SetPartitionLeaderEpoch(7)
			s.entries = append(s.entries, Entry{Batch: b, BaseOffset: offset, Epoch: 7, AppendTimeMs: 1})
			s.configs, s.stored = append(s.configs, Config{}), append(s.stored, stored)
		}
		proposed := make([][]byte, len(s.entries))
		for n := range s.entries {
			proposed[n] = bytes.Clone(s.entries[n].Batch)
		}
		for name, open := range map[string]func() *Log{
			"memory": func() *Log { return openMem(t, newMem(t), State{}) },
			"disk": func() *Log {
				l, err := Open(Options{FS: storage.OS(), Dir: filepath.Join(t.TempDir(), "p")}, State{})
				must(t, err)
				t.Cleanup(func() { must(t, l.Close()) })
				return l
			},
		} {
			t.Run(fmt.Sprint(i, name), func(t *testing.T) {
				l := open()
				must(t, s.append(l, 0, len(s.entries)))
				checkContent(t, s, l)
				st, err := l.Sync()
				must(t, err)
				if want := crc32.Checksum(bytes.Join(s.stored, nil), castagnoli); st.ActiveCRC != want {
					t.Errorf("checksum of the segment is %#x, want %#x", st.ActiveCRC, want)
				}
				for n := range proposed {
					if !bytes.Equal(s.entries[n].Batch, proposed[n]) {
						t.Errorf("entry %d, which belongs to Raft, has changed", n)
					}
				}
			})
		}
	}
}
