package tanfiles

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"

	"logbroker/internal/storage"
)

// framed is a file with one record, whose checksum is right.
func framed(record []byte) []byte {
	record = record[:min(len(record), blockBytes-longHeaderBytes)]
	b := binary.LittleEndian.AppendUint16(make([]byte, 4), uint16(len(record)))
	b = append(append(b, chunkFull), record...)
	binary.LittleEndian.PutUint32(b, uint32(xxhash.Sum64(b[6:])))
	return b
}

// numbersOf encodes a list of numbers as tan does.
func numbersOf(list ...uint64) (b []byte) {
	for _, n := range list {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// FuzzRead gives the reader files of which one holds whatever it holds: as it is, and
// behind a checksum that is right. It may find damage, and must not panic or fail.
// The log of whole files must be what they hold.
func FuzzRead(f *testing.F) {
	const dir = "/log"
	update := pb.Update{
		State: pb.State{Term: 3, Vote: 1, Commit: 1}, EntriesToSave: []pb.Entry{{Index: 1, Term: 3, Cmd: []byte("x")}}, Snapshot: pb.Snapshot{Index: 1, Term: 2},
	}
	saved := pb.MustMarshalTo(&update, make([]byte, update.SizeUpperLimit()))
	bootstrap := pb.MustMarshal(&pb.Bootstrap{Addresses: map[uint64]string{1: "a"}})
	whole := map[string][]byte{
		"CURRENT":         framed([]byte("MANIFEST-000001\n")),
		"MANIFEST-000001": framed(numbersOf(tagNextFile, 4, tagNewFile, 2, tagNewFile, 3)),
		"000002.log":      framed(saved),
		"000003.log":      framed(saved),
		"000002.index": joined(framed(numbersOf(1)), framed(numbersOf(1, 1)), framed(numbersOf(1, 1, 1, 2, 0, 9, 0)),
			framed(numbersOf(1, 1, 1, 2, 0, 9, 0)), framed(numbersOf(1, 1, 1, 2, 0, 9, 0))),
		"BOOTSTRAP-1-1": framed(bootstrap),
	}
	names := []string{"CURRENT", "MANIFEST-000001", "000002.log", "000003.log", "000002.index", "BOOTSTRAP-1-1"}
	for i, name := range names {
		f.Add(byte(i), whole[name], false)
		f.Add(byte(i), whole[name][:len(whole[name])-1], false)
		f.Add(byte(i), whole[name][chunkBytes:], true)
	}
	f.Add(byte(2), numbersOf(1<<63, 1, 1), true)
	read := func(t *testing.T, changed string, data []byte) (Log, error) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, good := range whole {
			if name == changed {
				good = data
			}
			if err := storage.WriteFileAtomic(fs, filepath.Join(dir, name), good); err != nil {
				t.Fatal(err)
			}
		}
		log, err := Read(fs, dir)
		return log, errors.Join(err, ReadBootstrap(fs, filepath.Join(dir, "BOOTSTRAP-1-1")))
	}
	f.Fuzz(func(t *testing.T, at byte, data []byte, right bool) {
		if log, err := read(t, "", nil); err != nil || log.Last != 1 || log.Term != 3 || log.Vote != 1 || log.Snapshot.Index != 1 {
			t.Fatalf("whole files: %+v, %v", log, err)
		}
		name := names[int(at)%len(names)]
		if right && !strings.HasSuffix(name, logSuffix) { // what dragonboat decodes it trusts
			data = framed(data)
		}
		if _, err := read(t, name, data); err != nil && !errors.As(err, new(*DamageError)) {
			t.Errorf("%s: %v", name, err)
		}
	})
}

func joined(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}
