// Package damage breaks files of one node of a cluster of real processes, each in
// every way, and looks what becomes of it: is it refused or named, is it repaired,
// or is it served?
//
// Before the first cell a cluster is filled, killed, and its directories copied
// (golden.go), so that all cells begin with the same bytes. A cell (matrix.go) is a
// file, a harm and the damaged node's role. run.go plays the cells and prints the
// table.
package damage

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// target is what is damaged: a kind of file, and where in it.
type target struct {
	name string
	// files are patterns below the node's data directory; the place at says which
	// of the matching files it is, the first, the middle or the last.
	files string
	at    place
	// store marks files of the Raft log store: what goes unnoticed there only
	// another store can mend.
	store bool
	// up is how many directories above the file are put back with it where there is no
	// older one under its name.
	up int
}

// place is where the damage lies: in which file, and where in that file.
type place int

const (
	head place = iota
	middle
	tail
	// newest is the head of the last file.
	newest
)

// harm is one way to damage a file.
type harm struct {
	name string
	do   func(f file) error
}

// file is a file to damage.
type file struct {
	path string
	old  string // the same file as it was earlier; it may not exist
	at   place
	up   int
}

// metadataSnapshots are the snapshots of the metadata, shard 1. A state machine in
// memory knows what is in them from nowhere else; that of a partition has its marker
// instead.
const metadataSnapshots = "raft/node/*/snapshot-part-*/snapshot-1-*/snapshot-*/*.gbsnap"

func targets() []target {
	return []target{
		{"raft log, head", "raft/node/*/tandb/node-SHARD-*/*.log", head, true, 0},
		{"raft log, middle", "raft/node/*/tandb/node-SHARD-*/*.log", middle, true, 0},
		{"raft log, tail", "raft/node/*/tandb/node-SHARD-*/*.log", tail, true, 0},
		{"raft log, checkpoint", "raft/node/*/tandb/node-SHARD-*/MANIFEST*", head, true, 0},
		{"segment, head", "partitions/SHARD-*/log-*/*.log", head, false, 0},
		{"segment, middle", "partitions/SHARD-*/log-*/*.log", middle, false, 0},
		{"segment, tail", "partitions/SHARD-*/log-*/*.log", tail, false, 0},
		{"index", "partitions/SHARD-*/log-*/*.index", head, false, 0},
		{"marker, first slot", "partitions/SHARD-*/marker", head, false, 0},
		{"marker, second slot", "partitions/SHARD-*/marker", middle, false, 0},
		{"metadata's snapshot, head", metadataSnapshots, newest, false, 1},
		{"metadata's snapshot, tail", metadataSnapshots, tail, false, 1},
	}
}

func harms() []harm {
	return []harm{
		{"bit flip", flip}, {"truncation", truncate}, {"zeroed 4 KiB", zero}, {"garbage tail", garbage}, {"old copy", restore}, {"removal", remove},
	}
}

// errNothing says that a cell has nothing to do: no such file, or one without
// content.
var errNothing = errors.New("there is nothing to damage")

// position is the byte where the harm begins.
func (f file) position(size int) int {
	switch f.at {
	case head, newest:
		return min(size-1, 100)
	case middle:
		return size / 2
	}
	return size - min(size, 100)
}

// change rewrites a file in place.
func (f file) change(how func(data []byte) []byte) error {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return errNothing
	}
	return os.WriteFile(f.path, how(data), 0o644)
}

func flip(f file) error {
	return f.change(func(data []byte) []byte {
		data[f.position(len(data))] ^= 0x10
		return data
	})
}

func truncate(f file) error {
	return f.change(func(data []byte) []byte { return data[:f.position(len(data))] })
}

func zero(f file) error {
	return f.change(func(data []byte) []byte {
		at := f.position(len(data))
		clear(data[at:min(len(data), at+4096)])
		return data
	})
}

func garbage(f file) error {
	return f.change(func(data []byte) []byte { return append(data, bytes.Repeat([]byte("garbage!"), 100)...) })
}

func remove(f file) error { return os.Remove(f.path) }

// restore puts the old copy in the file's place, and where that is no other the old
// copy of the directory in which it lies, or of one above it.
func restore(f file) error {
	old, err := os.ReadFile(f.old)
	if err == nil {
		now, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		if !bytes.Equal(now, old) {
			return os.WriteFile(f.path, old, 0o644)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	from, to := filepath.Dir(f.old), filepath.Dir(f.path)
	for range f.up {
		from, to = filepath.Dir(from), filepath.Dir(to)
	}
	if _, err := os.Stat(from); err != nil {
		return errNothing
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return copyDir(from, to)
}

// choose returns the file below dir that a target means; old is where the earlier
// copies lie.
func (t target) choose(dir, old string, shard uint64) (file, error) {
	found, err := filepath.Glob(filepath.Join(dir, strings.ReplaceAll(t.files, "SHARD", strconv.FormatUint(shard, 10))))
	if err != nil {
		return file{}, err
	}
	if len(found) == 0 {
		return file{}, errNothing
	}
	slices.Sort(found)
	path := found[0]
	switch t.at {
	case middle:
		path = found[len(found)/2]
	case tail, newest:
		path = found[len(found)-1]
	}
	relative, err := filepath.Rel(dir, path)
	return file{path: path, old: filepath.Join(old, relative), at: t.at, up: t.up}, err
}
