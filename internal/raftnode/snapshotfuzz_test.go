package raftnode

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"

	"logbroker/internal/raftnode/tanfiles"
	"logbroker/internal/storage"
)

// snapshotFile is a snapshot's file with a header, one block and a tail. The
// checksums of the header and of the block are right.
func snapshotFile(header, block, tail []byte) []byte {
	header = header[:min(len(header), snapshotHeaderBytes-8-crc32.Size)]
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = binary.BigEndian.AppendUint32(append(b, header...), crc32.ChecksumIEEE(header))
	b = append(b, make([]byte, snapshotHeaderBytes-len(b))...)
	b = binary.BigEndian.AppendUint32(append(b, block...), crc32.ChecksumIEEE(block))
	return append(b, tail...)
}

// FuzzSnapshotFile reads whatever a snapshot's file and a flag file may hold: what is
// whole is taken, and what is not is damage and nothing worse.
func FuzzSnapshotFile(f *testing.F) {
	header := pb.MustMarshal(&pb.SnapshotHeader{Version: 2})
	tailOf := func(block []byte) []byte {
		return append(binary.LittleEndian.AppendUint64(nil, uint64(len(block)+crc32.Size)), make([]byte, snapshotTailBytes-8)...)
	}
	f.Add(header, []byte("state"), tailOf([]byte("state")))
	f.Add(header, []byte("state"), tailOf([]byte("state"))[:9])
	f.Add([]byte{}, []byte{}, []byte{})
	f.Add(flagChecksum([]byte("x")), []byte("x"), []byte{0xff})
	f.Fuzz(func(t *testing.T, header, block, tail []byte) {
		fs := vfs.NewMem()
		for name, content := range map[string][]byte{
			"/whole": snapshotFile(append([]byte{1}, header...), append([]byte{1}, block...), tailOf(append([]byte{1}, block...))),
			"/other": snapshotFile(header, block, tail), "/flag": slices.Concat(header, block),
		} {
			if err := storage.WriteFileAtomic(fs, name, content); err != nil {
				t.Fatal(err)
			}
		}
		if err := readSnapshotFile(fs, "/whole"); err != nil && len(block) < snapshotBlockBytes {
			t.Errorf("a whole file with a block of %d bytes: %v", len(block)+1, err)
		}
		if err := readSnapshotFile(fs, "/other"); err != nil && !errors.As(tanfiles.Fault("/other", err), new(*tanfiles.DamageError)) {
			t.Error(err)
		}
		if _, _, err := readNote(fs, "/flag"); err != nil {
			t.Error(err)
		}
	})
}
