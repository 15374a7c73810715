package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"logbroker/internal/storage"
)

// The marker is written in place, so that no file has to get a name, a size or a
// block by it: on a file system with a journal each of these waits for a commit,
// and a commit for whatever other files write just then (docs/adr/0008).
//
// The file has two slots of the same size, and is as long as both. A write goes
// to the slot that does not hold the newest record, so what a crash tears is
// never what counts: a slot with a wrong checksum is as good as empty, and the
// other one holds the state before. A record too long for its slot makes a new
// file with longer ones, which takes the name of the old.
//
// A record, big endian; what lies behind it in its slot is of no account:
//
//	4  magic          1  version
//	4  slot bytes     4  length of the record, the checksum included
//	8  revision       8  each: shard, replica, generation, applied index, last append time
//	52 log state (marker.go)    configuration (command.go)
//	4  length and bytes of the epoch history (epochs.go)
//	the producer table, as producerstate encodes it
//	4  CRC-32C of all before it
//
// Magic to length and the checksum are the same in every version from 2 on.
const (
	markerMagic   = "LBpm"
	markerVersion = 2

	// slotUnit is what slots are multiples of, so that no block and no page of the
	// cache holds bytes of two.
	slotUnit = 4096
	// slotBytesMin has room for about a dozen producers.
	slotBytesMin = 4 * slotUnit

	frameBytes  = 4 + 1 + 4 + 4
	recordBytes = frameBytes + 6*8 + logStateBytes + configBytes + 4 + 4 // of one with no epochs and no table

	// Version 1 was one record of this length, and a file for each of the others.
	markerBytesV1 = 169
)

// saved is what one record holds.
type saved struct {
	Marker
	epochs    []EpochStart
	producers []byte // the encoded table; empty for none
	// slot and slotBytes say where it was found, torn that the other slot holds
	// what is neither a record nor nothing.
	slot, slotBytes int
	torn            bool
}

// encode returns the record for a slot of slotBytes, though it may be longer.
func (v *saved) encode(slotBytes int) []byte {
	be := binary.BigEndian
	m := v.Marker
	n := recordBytes + len(v.epochs)*epochBytesEach + len(v.producers)
	b := append(make([]byte, 0, roundUp(n, slotUnit)), markerMagic...)
	b = append(b, markerVersion)
	b = be.AppendUint32(b, uint32(slotBytes))
	b = be.AppendUint32(b, uint32(n))
	for _, x := range []uint64{m.Revision, m.ShardID, m.ReplicaID, m.Generation, m.Applied, uint64(m.LastAppendMs)} {
		b = be.AppendUint64(b, x)
	}
	b = appendLogState(b, m.Log)
	b = m.Config.append(b)
	b = be.AppendUint32(b, uint32(len(v.epochs)*epochBytesEach))
	b = appendEpochs(b, v.epochs)
	b = append(b, v.producers...)
	return be.AppendUint32(b, checksum(b))
}

// frame returns the record in a slot without its checksum, and its version; ok is
// false where the checksum or a length is wrong.
func frame(slot []byte) (record []byte, version byte, ok bool) {
	be := binary.BigEndian
	if len(slot) < frameBytes+4 || string(slot[:4]) != markerMagic || int64(be.Uint32(slot[5:])) != int64(len(slot)) {
		return nil, 0, false
	}
	n := int64(be.Uint32(slot[9:]))
	if n < frameBytes+4 || n > int64(len(slot)) {
		return nil, 0, false
	}
	record = slot[:n-4]
	return record, slot[4], checksum(record) == be.Uint32(slot[n-4:])
}

// decodeRecord reads what encode wrote, but for the checksum. The result keeps b's
// memory.
func decodeRecord(b []byte) (v saved, ok bool) {
	if len(b) < recordBytes-4 {
		return v, false
	}
	be := binary.BigEndian
	v.slotBytes = int(be.Uint32(b[5:]))
	b = b[frameBytes:]
	v.Revision, v.ShardID, v.ReplicaID, v.Generation = be.Uint64(b), be.Uint64(b[8:]), be.Uint64(b[16:]), be.Uint64(b[24:])
	v.Applied, v.LastAppendMs = be.Uint64(b[32:]), int64(be.Uint64(b[40:]))
	b = b[48:]
	v.Log = decodeLogState(b)
	b = b[logStateBytes:]
	if v.Config, ok = decodeConfig(b); !ok || v.Generation == 0 {
		return v, false
	}
	b = b[configBytes:]
	n := int64(be.Uint32(b))
	if b = b[4:]; n > int64(len(b)) {
		return v, false
	}
	if v.epochs, ok = decodeEpochs(b[:n]); !ok {
		return v, false
	}
	v.producers = b[n:]
	return v, true
}

// ErrMarkerVersion is the error for a marker that another version of this program
// has written.
var ErrMarkerVersion = errors.New("the marker has a format that this version does not read: start the version that wrote it")

// readSlots returns the newest record of the marker file at path. The errors are
// those of ReadMarker, and ErrMarkerVersion.
func readSlots(fs storage.FS, path string) (newest saved, err error) {
	b, err := storage.ReadFile(fs, path)
	if err != nil {
		return newest, err
	}
	if err := twoSlots(path, b); err != nil {
		return newest, err
	}
	other := byte(0)
	found, torn := false, false
	for i, slot := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
		switch v, version, err := readSlot(slot); {
		case err != nil:
			return newest, damaged(path, fmt.Sprintf("slot %d: %v", i, err))
		case version == 0:
			torn = torn || slot[0] != 0
		case version != markerVersion:
			other = version
		case !found || v.Revision > newest.Revision:
			newest, found = v, true
			newest.slot = i
		}
	}
	switch {
	case found:
		newest.torn = torn
		return newest, nil
	case other != 0:
		return newest, fmt.Errorf("%s: format %d: %w", path, other, ErrMarkerVersion)
	}
	return newest, damaged(path, "neither slot has the checksum of what was written")
}

// twoSlots returns what is wrong with the length of a marker file that holds b.
func twoSlots(path string, b []byte) error {
	if len(b) == markerBytesV1 && string(b[:4]) == markerMagic && b[4] == 1 {
		return fmt.Errorf("%s: format 1: %w", path, ErrMarkerVersion)
	}
	if len(b) == 0 || len(b)%(2*slotUnit) != 0 {
		return damaged(path, fmt.Sprintf("%d bytes are not two slots", len(b)))
	}
	return nil
}

// readSlot reads a slot; version is 0 where it holds no record.
func readSlot(slot []byte) (v saved, version byte, err error) {
	record, version, ok := frame(slot)
	if !ok {
		return v, 0, nil
	}
	if version != markerVersion {
		return v, version, nil
	}
	if v, ok = decodeRecord(record); !ok {
		return v, version, errors.New("it has the right checksum and makes no sense")
	}
	return v, version, nil
}

// slots is the marker file of an open replica.
type slots struct {
	fs   storage.FS
	path string
	file storage.File
	// revision and used are of the newest record, and slotBytes is the length of
	// both slots.
	revision        uint64
	used, slotBytes int
}

// openSlots opens the file that v was found in, and makes sure that v is durable:
// a process that was killed may have written it and not synced it, and what only
// the record before it speaks of is removed after this.
func openSlots(fs storage.FS, path string, v saved) (*slots, error) {
	file, err := storage.OpenInPlace(fs, path)
	if err != nil {
		return nil, err
	}
	if err := storage.SyncData(file); err != nil {
		return nil, errors.Join(fmt.Errorf("sync %s: %w", path, err), file.Close())
	}
	return &slots{fs: fs, path: path, file: file, revision: v.Revision, used: v.slot, slotBytes: v.slotBytes}, nil
}

// write makes v the newest record, durably, and gives it its revision. After an
// error the newest is the one before or v: the process should end.
func (s *slots) write(v *saved) error {
	v.Revision = s.revision + 1
	b := v.encode(s.slotBytes)
	if len(b) > s.slotBytes {
		return s.grow(v)
	}
	// Whole blocks: for a part of one, the rest may have to be read first.
	b = b[:roundUp(len(b), slotUnit)]
	to := 1 - s.used
	if _, err := s.file.WriteAt(b, int64(to)*int64(s.slotBytes)); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if err := storage.SyncData(s.file); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	s.used, s.revision = to, v.Revision
	return nil
}

// grow writes v into a new file with longer slots.
func (s *slots) grow(v *saved) error {
	if err := writeSlots(s.fs, s.path, v); err != nil {
		return err
	}
	next, err := openSlots(s.fs, s.path, *v)
	if err != nil {
		return err
	}
	old := s.file
	*s = *next
	if err := old.Close(); err != nil {
		return fmt.Errorf("close %s: %w", s.path, err)
	}
	return nil
}

// writeSlots makes a marker file with v in its first slot, in one step. Its blocks
// are all written, so that a write in place changes nothing but bytes.
func writeSlots(fs storage.FS, path string, v *saved) error {
	v.slot, v.slotBytes = 0, max(slotBytesMin, roundUp(2*len(v.encode(0)), slotUnit))
	b := make([]byte, 2*v.slotBytes)
	copy(b, v.encode(v.slotBytes))
	return storage.WriteFileAtomic(fs, path, b)
}

func (s *slots) close() error {
	if err := s.file.Close(); err != nil {
		return fmt.Errorf("close %s: %w", s.path, err)
	}
	return nil
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }
