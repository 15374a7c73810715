package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strings"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"

	"logbroker/internal/raftnode/tanfiles"
	"logbroker/internal/storage"
)

// A snapshot's file is a header of 1 KiB, blocks of 2 MiB, the last one shorter,
// each followed by its CRC-32 (IEEE), and a tail: how many bytes the blocks are
// with their checksums, u64, and eight fixed bytes. The header is the length, u64,
// of a pb.SnapshotHeader, that, and a checksum, u32: 0 where the pb.SnapshotHeader
// holds one of itself. All numbers are little-endian, checksums big-endian.
// (Written by dragonboat internal/rsm, version 2: snapshotio.go, chunkwriter.go,
// rwv.go.)
const (
	snapshotHeaderBytes = 1 << 10
	snapshotBlockBytes  = 2 << 20
	snapshotTailBytes   = 16
	// snapshotSessionsBytes is the length of a list of sessions without any, with
	// which every snapshot begins.
	snapshotSessionsBytes = 16
)

// snapshotFlagFile is in a snapshot's directory from when it got its name until
// its record is in the Raft log. It is a checksum and a pb.Snapshot (dragonboat
// internal/fileutil/utils.go: CreateFlagFile).
const snapshotFlagFile = "dragonboat.snapshot.message"

// checkSnapshots reads what a start reads of a replica's snapshots, with which
// dragonboat ends the node where it is damaged: the newest snapshot's file, and
// every flag file. Of a state machine on disk the newest snapshot holds nothing
// and is not read. Errors: *tanfiles.DamageError; any other one says that the disk
// could not be asked.
func (s *logStore) checkSnapshots(shard, replica uint64, newest pb.Snapshot) error {
	dirs, err := s.snapshotDirs(shard, replica)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		flag := filepath.Join(dir, snapshotFlagFile)
		_, whole, err := readNote(s.files, flag)
		switch {
		case err == nil && !whole:
			return &tanfiles.DamageError{File: flag, Reason: "has a wrong checksum"}
		case err != nil && !storage.NotExist(err):
			return tanfiles.Fault(flag, err)
		}
	}
	if newest.Index == 0 || newest.Dummy || newest.Witness {
		return nil
	}
	path, err := snapshotPath(dirs, newest.Index)
	if err != nil {
		return err
	}
	return tanfiles.Fault(path, readSnapshotFile(s.files, path))
}

// snapshotPath returns where the file of the snapshot at index is. Error: a
// *tanfiles.DamageError where there is none.
func snapshotPath(dirs []string, index uint64) (string, error) {
	name := fmt.Sprintf("snapshot-%016X", index)
	for _, dir := range dirs {
		if filepath.Base(dir) == name {
			return filepath.Join(dir, name+".gbsnap"), nil
		}
	}
	return "", &tanfiles.DamageError{File: name, Reason: "is gone"}
}

// emptied reports whether the data of a peer's snapshot for a state machine on disk
// were thrown away, as dragonboat does when the machine has made them durable
// (node.go: recover; internal/rsm: ShrinkSnapshot). Only the list of sessions is left
// in its file then, which is empty.
func (s *logStore) emptied(shard, replica, index uint64) (bool, error) {
	dirs, err := s.snapshotDirs(shard, replica)
	if err != nil {
		return false, err
	}
	path, err := snapshotPath(dirs, index)
	if err != nil {
		return false, err
	}
	stat, err := s.files.Stat(path)
	if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	return stat.Size() <= snapshotHeaderBytes+snapshotSessionsBytes+crc32.Size+snapshotTailBytes, nil
}

// snapshotDirs are the directories of a replica's snapshots.
func (s *logStore) snapshotDirs(shard, replica uint64) (dirs []string, err error) {
	base := filepath.Dir(s.tanDir)
	parts, err := listIfExists(s.files, base)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", base, err)
	}
	for _, part := range parts {
		if !strings.HasPrefix(part, "snapshot-part-") {
			continue
		}
		all := filepath.Join(base, part, fmt.Sprintf("snapshot-%d-%d", shard, replica))
		names, err := listIfExists(s.files, all)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", all, err)
		}
		for _, name := range names {
			// What a crash has left half made or half received is removed unread.
			if strings.HasPrefix(name, "snapshot-") && filepath.Ext(name) == "" {
				dirs = append(dirs, filepath.Join(all, name))
			}
		}
	}
	return dirs, nil
}

// readSnapshotFile reads a snapshot's file to its end.
func readSnapshotFile(fs vfs.FS, path string) (err error) {
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	blocks := stat.Size() - snapshotHeaderBytes - snapshotTailBytes
	if blocks < 0 {
		return io.ErrUnexpectedEOF
	}
	if err := checkSnapshotHeader(path, f); err != nil {
		return err
	}
	if err := checkSnapshotBlocks(path, io.LimitReader(f, blocks)); err != nil {
		return err
	}
	var tail [snapshotTailBytes]byte
	if _, err := io.ReadFull(f, tail[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(tail[:]) != uint64(blocks) {
		return &tanfiles.DamageError{File: path, Reason: "has another length than it says"}
	}
	return nil
}

// checkSnapshotHeader reads the header. Its checksum covers all of it but the
// zeros at its end, which say nothing.
func checkSnapshotHeader(path string, f io.Reader) error {
	var data [snapshotHeaderBytes]byte
	if _, err := io.ReadFull(f, data[:]); err != nil {
		return err
	}
	wrong := &tanfiles.DamageError{File: path, Reason: "has a damaged header"}
	n := binary.LittleEndian.Uint64(data[:])
	if n > snapshotHeaderBytes-8-crc32.Size {
		return wrong
	}
	body, sum := data[8:8+n], binary.BigEndian.Uint32(data[8+n:])
	if sum == 0 {
		var header pb.SnapshotHeader
		if header.Unmarshal(body) != nil || len(header.HeaderChecksum) != crc32.Size {
			return wrong
		}
		sum, header.HeaderChecksum = binary.BigEndian.Uint32(header.HeaderChecksum), nil
		body = pb.MustMarshal(&header)
	}
	if crc32.ChecksumIEEE(body) != sum {
		return wrong
	}
	return nil
}

func checkSnapshotBlocks(path string, f io.Reader) error {
	var block bytes.Buffer
	for {
		block.Reset()
		n, err := block.ReadFrom(io.LimitReader(f, snapshotBlockBytes+crc32.Size))
		if err != nil || n == 0 {
			return err
		}
		data := block.Bytes()
		end := len(data) - crc32.Size
		if end <= 0 || binary.BigEndian.Uint32(data[end:]) != crc32.ChecksumIEEE(data[:end]) {
			return &tanfiles.DamageError{File: path, Reason: "has a block with a wrong checksum"}
		}
	}
}
